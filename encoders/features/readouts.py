"""Read-outs: from what a layer puts out to features.

A layer of a transformer puts out tokens (n, token, channel), some of which are no patches: the class token and register
tokens stand before them. Convolutional layers put out maps, channels first or last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recordings.errors import InputError, ShapeError, UnknownNameError

READOUTS = ("pooled", "tokens", "cls", "flat", "projected")


@dataclass(frozen=True)
class TokenLayout:
    """Where a model keeps its tokens.

    Attributes
    ----------
    n_prefix : class and register tokens before the patches.
    has_class_token : whether the first of them is a class token.
    grid : rows and columns of patches (frames first for video), where all layers share one.
    channels_last : whether four-dimensional outputs are (n, rows, columns, channel), if their shape does not tell.
    """

    n_prefix: int = 0
    has_class_token: bool = False
    grid: tuple[int, ...] | None = None
    channels_last: bool = False


def first_tensor(output: Any) -> Tensor | None:
    """The main tensor of a layer's output: itself, or the first in a tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((t for t in map(first_tensor, output) if t is not None), None)
    return None


def read_out(output: Tensor, readout: str, layout: TokenLayout, mask: Tensor | None = None) -> Tensor:
    """Features of a layer's output.

    Parameters
    ----------
    output : (n, feature), (n, token, channel) or maps (n, channel, rows, columns), also with channels last or a time
        axis.
    readout : "pooled", mean over patches (n, channel); "tokens", (n, token, channel) without class and register tokens;
        "cls", the class token (n, channel); "flat", all of the output (n, feature).
    mask : (n, token), 1 where a token of a text is a word and 0 where it is padding.

    Raises
    ------
    UnknownNameError : no such read-out. InputError : the layer has no tokens or the model no class token.
    """
    if readout == "flat":
        return output.flatten(1)
    if readout == "cls":
        return _class_token(output, layout)
    if readout == "pooled":
        return _pooled(output, layout, mask)
    if readout == "tokens":
        tokens = patch_tokens(output, layout)
        return tokens if mask is None or mask.shape != tokens.shape[:2] else tokens * mask[:, :, None]
    raise UnknownNameError(f"no read-out {readout!r}", remedy=f"There are: {', '.join(READOUTS)}")


def patch_tokens(output: Tensor, layout: TokenLayout) -> Tensor:
    """Patches or map positions of a layer's output, (n, token, channel)."""
    if output.ndim == 3:
        return output[:, _prefix_of(output, layout) :]
    if output.ndim in (4, 5):
        return output.flatten(1, -2) if _channels_last(output, layout) else output.flatten(2).transpose(1, 2)
    raise InputError(f"an output of shape {tuple(output.shape)} has no tokens", remedy="Take the read-out 'flat'")


def grid_of(shape: tuple[int, ...], layout: TokenLayout) -> tuple[int, ...] | None:
    """Rows and columns of the tokens that `patch_tokens` gives for an output of this shape; None if unknown."""
    output = torch.empty(shape, device="meta")
    if output.ndim in (4, 5):
        return tuple(shape[1:-1] if _channels_last(output, layout) else shape[2:])
    if output.ndim != 3:
        return None
    n = shape[1] - _prefix_of(output, layout)
    if layout.grid and n == math.prod(layout.grid):
        return layout.grid
    return (math.isqrt(n),) * 2 if layout.grid and len(layout.grid) == 2 and math.isqrt(n) ** 2 == n else None


def _prefix_of(output: Tensor, layout: TokenLayout) -> int:
    # Some layers come before the class token joins, some after: the number of tokens tells.
    n = output.shape[1]
    if not layout.n_prefix or not layout.grid or n == math.prod(layout.grid):
        return 0
    if n == math.prod(layout.grid) + layout.n_prefix:
        return layout.n_prefix
    raise ShapeError(
        f"{n} tokens are neither the {math.prod(layout.grid)} patches nor these with {layout.n_prefix} more",
        remedy="Take the read-out 'flat' for this layer",
    )


def _class_token(output: Tensor, layout: TokenLayout) -> Tensor:
    if not layout.has_class_token:
        raise InputError("this model has no class token", remedy="Take the read-out 'pooled' or 'tokens'")
    if output.ndim == 3 and (layout.grid is None or _prefix_of(output, layout)):
        return output[:, 0]
    raise InputError(
        f"an output of shape {tuple(output.shape)} holds no class token",
        remedy="Take a layer after the patch embedding and before pooling, such as a block",
    )


def _pooled(output: Tensor, layout: TokenLayout, mask: Tensor | None) -> Tensor:
    if output.ndim == 2:
        return output
    tokens = patch_tokens(output, layout)
    if mask is None or mask.shape != tokens.shape[:2]:
        return tokens.mean(1)
    weights = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def _channels_last(output: Tensor, layout: TokenLayout) -> bool:
    # Square maps tell by themselves which axes are rows and columns; a model may hold layers of both kinds.
    first, last = output.shape[-3] == output.shape[-2], output.shape[-2] == output.shape[-1]
    return first if first != last else layout.channels_last
