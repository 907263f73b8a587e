"""What measurements of the transformer encoder share: sizes, random data, Penfield's network and training step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from original_step import CLIP, FEEDFORWARD, GRID, HEADS, HIDDEN, LEARNING_RATE, VERTICES, WEIGHT_DECAY, region_labels
from torch import Tensor, nn

from encoders import Features
from encoders.attention.objective import backward_at_once, backward_in_parts
from encoders.attention.predictor import Predictor, Shape
from encoders.attention.queries import Regions
from encoders.attention.stream import Batch
from encoders.features.store import LayerStore, open_store

N_TOKENS = GRID[0] * GRID[1]
# Vertex queries: those of a right hemisphere, images a step, and neuroids served together.
VERTEX_QUERIES, VERTEX_BATCH, NEUROIDS = 20_544, 16, 1024


@dataclass(frozen=True)
class Setting:
    """How much is measured: the vertices' share of a subject's, images a batch, images in the store, repetitions."""

    share: float = 1.0
    batch: int = 8
    stored: int = 48
    repeats: int = 7
    slow_repeats: int = 3

    @property
    def vertices(self) -> tuple[int, int]:
        return round(VERTICES["L"] * self.share), round(VERTICES["R"] * self.share)

    def regions(self) -> tuple[np.ndarray, np.ndarray]:
        """Region of each vertex of the left and of the right hemisphere, 0 to 24."""
        rng = np.random.default_rng(0)
        left, right = (region_labels(n, rng) for n in self.vertices)
        return left, right

    def tokens(self, n: int | None = None) -> Tensor:
        """(n, 961, 768) float32, a batch by default."""
        return torch.randn(n or self.batch, N_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(0))

    def responses(self, n: int | None = None) -> list[Tensor]:
        """(n, vertex) of the left and of the right hemisphere."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(n or self.batch, v, generator=generator) for v in self.vertices]


def one_brain(sides: tuple[np.ndarray, np.ndarray]) -> Regions:
    """Both hemispheres' regions as one partition: those of the left first, then those of the right."""
    left, right = sides
    names = [f"{side} {region}" for side, n in (("L", left.max() + 1), ("R", right.max() + 1)) for region in range(n)]
    return Regions(tuple(names), np.concatenate([left, left.max() + 1 + right]))


def neuroids(n: int) -> Regions:
    """One region with `n` neuroids, for routings by neuroid."""
    return Regions(("rest",), np.zeros(n, int))


def penfield(
    regions: Regions, routing: str = "roi", *, grid: tuple[int, int] | None = None, **options: Any
) -> Predictor:
    """Penfield's network in the original's size."""
    attention = {"hidden": HIDDEN, "n_heads": HEADS, "feedforward": FEEDFORWARD, "dropout": 0.1, **options}
    torch.manual_seed(0)
    return Predictor([Shape(HIDDEN, GRID)], regions, routing, grid=grid, **attention)


def write_store(path: Path, n: int) -> Features:
    """Random tokens of `n` images in a feature store, float16, 8 images a file, as extraction writes them."""
    open_store(path, {"uri": "random"})
    store, batch = LayerStore(path, "tokens"), 8
    rng = np.random.default_rng(0)
    store.create(np.zeros((1, N_TOKENS, HIDDEN)), n, batch, "float16", {"readout": "tokens", "grid": list(GRID)})
    for chunk in range(-(-n // batch)):
        values = rng.standard_normal((min(batch, n - chunk * batch), N_TOKENS, HIDDEN), dtype=np.float32)
        store.write(chunk, values, [hashlib.sha256(row.tobytes()).hexdigest() for row in values])
    store.finish([f"image{i:04d}" for i in range(n)])
    return Features.load(path)


def penfield_optimiser(module: Predictor) -> torch.optim.AdamW:
    """AdamW in one fused kernel, as `encoders.attention.training.train` makes it."""
    return torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)


def penfield_step(
    module: Predictor,
    optimiser: torch.optim.AdamW,
    tokens: Tensor,
    targets: Tensor,
    together: int | None = None,
    bf16: bool = False,
) -> None:
    """One step of `train` on tokens at hand, with `together` neuroids at a time where each has its own query."""
    batch = Batch(np.arange(len(tokens)), [tokens], None)
    autocast = partial(torch.autocast, tokens.device.type, torch.bfloat16, enabled=bf16)
    optimiser.zero_grad()
    if together is None:
        backward_at_once(module, batch, targets, targets.numel(), autocast)
    else:
        backward_in_parts(module, batch, targets, targets.numel(), autocast, together)
    nn.utils.clip_grad_norm_(module.parameters(), CLIP)
    optimiser.step()
