"""What training minimises and how epochs are judged: squared error of standardised responses, and correlation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from recordings.events import Stop, report

from .stream import Batch, TokenStream, ahead

Autocast = Callable[[], AbstractContextManager[Any]]
Reduce = Callable[[Tensor], Tensor]


class Targets(Protocol):
    """Standardised responses, read row by row."""

    @property
    def shape(self) -> tuple[int, int]:
        """(row, neuroid)."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Rows by position, (b, neuroid) float32."""


class InParts(Protocol):
    """A network that serves its neuroids part by part."""

    def memory(self, tokens: Sequence[Tensor], shown: Tensor | None) -> tuple[Tensor, ...]:
        """What all neuroids read from."""

    def respond(self, memory: tuple[Tensor, ...], neuroids: slice) -> Tensor:
        """Responses of some neuroids, (B, v)."""


def backward_at_once(module: nn.Module, batch: Batch, y: Tensor, total: int, autocast: Autocast) -> Tensor:
    """Add the gradient of the squared error, over `total` numbers, of all neuroids; give that error."""
    with autocast():
        predicted = module(batch.tokens, batch.shown)
    loss = (predicted.float() - y).square().sum() / total
    loss.backward()
    return loss.detach()


def backward_in_parts(
    module: nn.Module, batch: Batch, y: Tensor, total: int, autocast: Autocast, neuroids: int
) -> Tensor:
    """The same gradient, with the activations of `neuroids` neuroids in memory at a time.

    What they read from is computed once. Each part has a backward pass of its own as far as there; one more takes the
    sum on to the weights and tokens behind it.
    """
    network = cast(InParts, module)
    with autocast():
        memory = network.memory(batch.tokens, batch.shown)
    leaves = tuple(x.detach().requires_grad_(x.requires_grad) for x in memory)
    error = y.new_zeros(())
    for start in range(0, y.shape[1], neuroids):
        part = slice(start, start + neuroids)
        with autocast():
            predicted = network.respond(leaves, part)
        loss = (predicted.float() - y[:, part]).square().sum() / total
        loss.backward()
        error += loss.detach()
    reached = [(x, leaf.grad) for x, leaf in zip(memory, leaves, strict=True) if leaf.grad is not None]
    if reached:
        torch.autograd.backward([x for x, _ in reached], [gradient for _, gradient in reached])
    return error


@torch.inference_mode()
def validation_r(
    module: nn.Module,
    stream: TokenStream,
    targets: Targets,
    autocast: Autocast,
    *,
    neuroids: int | None = None,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    reduce: Reduce = lambda x: x,
    stop: Stop | None = None,
) -> np.ndarray:
    """Pearson r of predictions and responses over the rows of a stream, (neuroid,); 0 where either is constant.

    Sums are kept, in double precision, and not the predictions. `part` and `reduce` share the rows among processes.
    """
    module.eval()
    n_neuroids = targets.shape[1]
    sums = torch.zeros(5, n_neuroids, dtype=torch.float64)
    for step, (batch, y) in enumerate(on_device(stream.in_order(part), targets, device)):
        report(None, stop, "validate", step, stream.steps)
        with autocast():
            predicted = _predict(module, batch, n_neuroids, neuroids)
        p, y = predicted.double().cpu(), y.double().cpu()
        sums += torch.stack([p.sum(0), y.sum(0), (p * p).sum(0), (y * y).sum(0), (p * y).sum(0)])
    return _pearson(reduce(sums).numpy() / len(stream))


def _predict(module: nn.Module, batch: Batch, n_neuroids: int, neuroids: int | None) -> Tensor:
    if neuroids is None:
        return module(batch.tokens, batch.shown)
    network = cast(InParts, module)
    memory = network.memory(batch.tokens, batch.shown)
    parts = [slice(start, start + neuroids) for start in range(0, n_neuroids, neuroids)]
    return torch.cat([network.respond(memory, part) for part in parts], 1)


def _pearson(means: np.ndarray) -> np.ndarray:
    p, y, pp, yy, py = means
    var_p, var_y = pp - p**2, yy - y**2
    varies = (var_p > 1e-10 * pp) & (var_y > 1e-10 * yy)
    return np.where(varies, (py - p * y) / np.sqrt(np.where(varies, var_p * var_y, 1)), 0)


def on_device(batches: Iterator[Batch], targets: Targets, device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Batches and their responses on a device; the next one's are read meanwhile."""

    def fetch(batch: Batch) -> tuple[Batch, Tensor]:
        y = torch.as_tensor(targets[batch.rows])
        if device.type != "cuda":
            return batch, y
        shown = None if batch.shown is None else batch.shown.pin_memory()
        return Batch(batch.rows, [x.pin_memory() for x in batch.tokens], shown), y.pin_memory()

    for batch, y in ahead(fetch, batches):
        shown = None if batch.shown is None else batch.shown.to(device, non_blocking=True)
        tokens = [x.to(device, non_blocking=True) for x in batch.tokens]
        yield Batch(batch.rows, tokens, shown), y.to(device, non_blocking=True)
