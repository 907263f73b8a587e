"""The network: a linear input layer for each subject, one body for all, and a head for each thing that is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Decoded(NamedTuple):
    """Standardised: embedding and retrieval (row, feature), and latents (row, latent) or None."""

    embedding: Tensor
    retrieval: Tensor
    latents: Tensor | None


class SharedSpaceNetwork(nn.Module):
    """Responses of several subjects to an embedding, as MindEye2 does it (Scotti et al. 2024, section 2.2).

    A linear layer a subject brings its neuroids to a space of few dimensions that all share; a residual multilayer
    perceptron follows. From there one head regresses the embedding, a projector behind it gives the vector that is
    contrasted, and a head of its own gives the latents of an image.

    Parameters
    ----------
    n_neuroids : one number an input layer. shared : dimensions of the shared space.
    width : of the perceptron. n_blocks : residual blocks.
    n_features : of the embedding. n_latents : of the image latents; 0 for no such head.
    dropout : within blocks. input_dropout : of neuroids.
    """

    def __init__(
        self,
        n_neuroids: Sequence[int],
        *,
        shared: int,
        width: int,
        n_blocks: int,
        n_features: int,
        n_latents: int = 0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.inputs = nn.ModuleList(nn.Linear(n, shared) for n in n_neuroids)
        self.entry = nn.Linear(shared, width)
        self.blocks = nn.ModuleList(_residual(width, dropout) for _ in range(n_blocks))
        self.embedding = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_features))
        self.projector = nn.Sequential(
            nn.LayerNorm(n_features),
            nn.GELU(),
            nn.Linear(n_features, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Linear(width, n_features),
        )
        self.latents = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_latents)) if n_latents else None

    def forward(self, responses: Mapping[int, Tensor]) -> Decoded:
        """Decode rows of several subjects, laid one below the other: standardised (row, neuroid) by input layer."""
        x = self.entry(torch.cat([self.inputs[k](self.input_dropout(values)) for k, values in responses.items()]))
        for block in self.blocks:
            x = x + block(x)
        embedding = self.embedding(x)
        return Decoded(embedding, self.projector(embedding), None if self.latents is None else self.latents(x))

    def body(self) -> dict[str, Tensor]:
        """Weights of all but the input layers, copied."""
        return {k: v.detach().cpu().clone() for k, v in self.state_dict().items() if not k.startswith("inputs.")}


def _residual(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)
    )
