"""Read-outs: from what a query has gathered to the responses of the neuroids that it serves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class GroupedReadout(nn.Module):
    """Each neuroid reads its own region's query, and no other is computed for it.

    Weights stand sorted by region and are split, which gives autograd one gradient to write; slices of one weight in a
    loop would each write a gradient of full size.

    Parameters
    ----------
    index : (neuroid,) int, the query of each neuroid. channels : d of a query's output.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, index: np.ndarray, channels: int) -> None:
        super().__init__()
        order = np.argsort(index, kind="stable")
        self.sizes: Sequence[int] = np.bincount(index).tolist()
        self.weight = nn.Parameter(torch.empty(len(index), channels))
        self.bias = nn.Parameter(torch.zeros(len(index)))
        self.register_buffer("order", torch.as_tensor(order), persistent=False)
        self.register_buffer("inverse", torch.as_tensor(np.argsort(order)), persistent=False)
        nn.init.xavier_uniform_(self.weight)

    def forward(self, gathered: Tensor) -> Tensor:
        """(B, query, d) to (B, neuroid), in the order of the neuroids."""
        parts = [z @ w.T for z, w in zip(gathered.unbind(1), self.weight.split(self.sizes), strict=True)]
        return torch.cat(parts, 1).add(self.bias).index_select(1, self.inverse)


class DiagonalReadout(nn.Module):
    """Each neuroid reads a query of its own: the diagonal of the V x V product, without the product.

    Parameters
    ----------
    n : neuroids. channels : d of a query's output.
    """

    def __init__(self, n: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, channels))
        self.bias = nn.Parameter(torch.zeros(n))
        nn.init.normal_(self.weight, std=channels**-0.5)

    def forward(self, gathered: Tensor, neuroids: slice = slice(None)) -> Tensor:
        """(B, v, d) of the given neuroids to (B, v)."""
        return torch.einsum("bvd,vd->bv", gathered, self.weight[neuroids]) + self.bias[neuroids]
