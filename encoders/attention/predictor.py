"""The network of the transformer encoder: tokens of one or several sources to the responses of all neuroids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modules import Attention, GaussianField, SpatialMap
from .queries import Regions
from .readouts import DiagonalReadout, GroupedReadout

BY_REGION, BY_NEUROID = ("roi", "spatial_roi"), ("vertex", "spatial", "gaussian")
BLOCK_BYTES = 128 * 2**20
ROUTINGS = (*BY_REGION, *BY_NEUROID)


@dataclass(frozen=True)
class Shape:
    """Form of one source's tokens: channels, and grid (rows, columns) or (frames, rows, columns)."""

    channels: int
    grid: tuple[int, ...]


class Predictor(nn.Module):
    """Standardise tokens, bring sources to one grid, let queries gather them, and read the neuroids' responses.

    Parameters
    ----------
    sources : forms of the sources' tokens, which are laid side by side as channels of one grid.
    regions : which query serves which neuroid, for routings by region.
    routing : of `ROUTINGS`.
    grid : rows and columns to which tokens are averaged; by default the first source's.
    n_delays, haemodynamics : delays of a time series and what is made of them. "fir" reads a weight for each delay
        (finite impulse response); with "query" the queries attend over delays as well as places.
    attention : further arguments of `Attention`.
    """

    def __init__(
        self,
        sources: Sequence[Shape],
        regions: Regions,
        routing: str,
        *,
        grid: tuple[int, int] | None = None,
        n_delays: int = 0,
        haemodynamics: str = "fir",
        **attention: int | float | bool | str,
    ) -> None:
        super().__init__()
        self.sources, self.fir = tuple(sources), bool(n_delays) and haemodynamics == "fir"
        frames = sources[0].grid[:-2]
        self.grid = (*frames, *(grid or sources[0].grid[-2:]))
        if n_delays and haemodynamics == "query":
            self.grid = (n_delays * math.prod(frames), *self.grid[-2:])
        self.by_neuroid = routing in BY_NEUROID
        channels, n = sum(s.channels for s in sources), len(regions.index)
        n_queries = n if self.by_neuroid else len(regions.names)
        kinds = {"spatial": SpatialMap, "spatial_roi": SpatialMap, "gaussian": GaussianField}
        self.routing: Attention | SpatialMap
        if routing in kinds:
            self.routing = kinds[routing](n_queries, channels, self.grid)
        else:
            self.routing = Attention(n_queries, channels, self.grid, **attention)  # type: ignore[arg-type]
        width = self.routing.channels * (n_delays if self.fir else 1)
        self.readout: GroupedReadout | DiagonalReadout
        self.readout = DiagonalReadout(n, width) if self.by_neuroid else GroupedReadout(regions.index, width)
        for number, source in enumerate(sources):
            self.register_buffer(f"mean{number}", torch.zeros(source.channels))
            self.register_buffer(f"scale{number}", torch.ones(source.channels))

    def standardise_with(self, moments: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take each source's mean and standard deviation, (C,) each, learnt on training stimuli."""
        for number, (mean, scale) in enumerate(moments):
            getattr(self, f"mean{number}").copy_(mean)
            getattr(self, f"scale{number}").copy_(scale)

    def forward(self, tokens: Sequence[Tensor], shown: Tensor | None = None) -> Tensor:
        """Standardised responses, (B, neuroid).

        Parameters
        ----------
        tokens : (B, T, C) a source, or with delays (B, delay, T, C).
        shown : bool (B, delay), False where a delay reaches back before the run began.
        """
        return self.respond(self.memory(tokens, shown))

    def memory(self, tokens: Sequence[Tensor], shown: Tensor | None = None) -> tuple[Tensor, ...]:
        """What queries gather from; the same for all neuroids."""
        x = self._one_grid(tokens)
        if x.ndim == 3:
            return self.routing.memory(x)
        shown = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if shown is None else shown
        if self.fir:
            return (*self.routing.memory(x.flatten(0, 1)), shown)
        return self.routing.memory(x.flatten(1, 2), shown.repeat_interleave(x.shape[2], 1))

    def gather(self, memory: tuple[Tensor, ...], queries: slice = slice(None)) -> Tensor:
        """What queries gather, (B, query, d); with a finite impulse response all delays' side by side."""
        if not self.fir:
            return self.routing.gather(memory, queries)
        shown = memory[-1]
        gathered = self.routing.gather(memory[:-1], queries).unflatten(0, shown.shape)
        return (gathered * shown[:, :, None, None]).transpose(1, 2).flatten(2)

    def respond(self, memory: tuple[Tensor, ...], neuroids: slice = slice(None)) -> Tensor:
        """Standardised responses, (B, neuroid), of a part of the neuroids where each has its own query."""
        if isinstance(self.readout, DiagonalReadout):
            return self.readout(self.gather(memory, neuroids), neuroids)
        return self.readout(self.gather(memory))[:, neuroids]

    def read_weights(self, neuroids: Tensor) -> Tensor:
        """Read-out weights of some neuroids, (v, d)."""
        if isinstance(self.readout, DiagonalReadout):
            return self.readout.weight[neuroids]
        return self.readout.weight[self.readout.inverse[neuroids]]

    def weights(self, memory: tuple[Tensor, ...], queries: slice | Tensor = slice(None)) -> Tensor:
        """How queries weigh places, (B, query, head, *grid), summing to 1 over the grid.

        With a finite impulse response `memory` must be of tokens without delays.
        """
        return self.routing.weights(memory, queries).unflatten(-1, self.grid)

    def blocks(self, n: int, memory: tuple[Tensor, ...]) -> Iterator[slice]:
        """Of n queries, or neuroids, parts whose weights, heads apart, take at most `BLOCK_BYTES`."""
        size = max(1, BLOCK_BYTES // (4 * len(memory[0]) * self.routing.n_heads * math.prod(self.grid)))
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    def _one_grid(self, tokens: Sequence[Tensor]) -> Tensor:
        parts = []
        for number, (x, source) in enumerate(zip(tokens, self.sources, strict=True)):
            x = average_to(x.float(), source.grid, (self.grid[-2], self.grid[-1]))
            parts.append((x - getattr(self, f"mean{number}")) / getattr(self, f"scale{number}"))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def average_to(tokens: Tensor, grid: tuple[int, ...], wanted: tuple[int, int]) -> Tensor:
    """Tokens (..., T, C) of a grid, brought to other rows and columns: each place the mean of those that it covers."""
    if grid[-2:] == wanted:
        return tokens
    rows, columns = grid[-2:]
    maps = tokens.unflatten(-2, (-1, rows, columns)).flatten(0, -4).movedim(-1, 1)
    maps = F.adaptive_avg_pool2d(maps, wanted).movedim(1, -1)
    return maps.reshape(*tokens.shape[:-2], -1, tokens.shape[-1])
