"""Training of the shared space: rows of every input layer in each step, in an order that follows from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from encoders.attention.run import CHECKPOINT, TrainingRun, decayed
from encoders.attention.targets import StandardisedResponses
from recordings.events import OnEvent, Stop, report

from .network import Decoded, SharedSpaceNetwork
from .objective import Mixture, annealed, bimixco, draw_mixture, soft_clip, stack_mixtures
from .targets import Targets

# Share of the steps in which rows are mixed.
_MIXING = 1 / 3
_ORDER, _MIXTURE, _DROPOUT = 1, 2, 3


@dataclass(frozen=True)
class Shown:
    """What one input layer is trained on.

    Attributes
    ----------
    responses : of one subject. rows : int (row,), those that are shown.
    stimuli : int (row,), position of each one's stimulus among the targets.
    """

    responses: StandardisedResponses
    rows: np.ndarray
    stimuli: np.ndarray

    def batch(self, size: int, step: int, seed: tuple[int, ...]) -> np.ndarray:
        """Which of the rows a step shows, going round all of them in a new order each time."""
        n = len(self.rows)
        size = min(size, n)
        rounds, within = np.divmod(np.arange(step * size, (step + 1) * size), n)
        orders = {k: np.random.default_rng([*seed, _ORDER, int(k)]).permutation(n) for k in np.unique(rounds)}
        return np.array([orders[k][i] for k, i in zip(rounds, within, strict=True)])


@dataclass(frozen=True)
class Options:
    """How to train; see `SharedSpaceDecoder`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    temperature: tuple[float, float]
    loss_weights: tuple[float, float, float]
    seed: int


def train(
    network: SharedSpaceNetwork,
    shown: Mapping[int, Shown],
    targets: Targets,
    options: Options,
    *,
    steps: int,
    device: torch.device,
    checkpoints: Path | None = None,
    fingerprint: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> list[dict[str, float]]:
    """Fit the network to responses by the number of the input layer they go through.

    AdamW, without decay of vectors, with a learning rate that falls along a cosine to 0; weights that need no gradient
    stay. Each step shows as many rows of each layer, `batch_size` in all; layers of few rows go round theirs again.
    Under `accelerate launch` each process takes its share of every batch, contrasts it by itself, and gradients are
    averaged.

    Parameters
    ----------
    steps : an epoch.

    Returns
    -------
    Mean loss of each epoch, and of its parts before they are weighted.

    Raises
    ------
    NotFiniteError : loss or gradient is NaN or infinite; names the step.
    ArtifactError : the checkpoint is of another run. Cancelled : `stop` answered True; the checkpoint holds the step.
    """
    accelerator = Accelerator()
    device = accelerator.device if accelerator.num_processes > 1 else device
    network.to(device).train()
    run = _Run(
        network,
        torch.optim.AdamW(decayed(network, options.weight_decay), lr=options.learning_rate),
        accelerator,
        device,
        options.seed,
        None if checkpoints is None else checkpoints / CHECKPOINT,
        dict(fingerprint or {}),
        shown,
        targets,
        options,
        steps,
    )
    on_event, stop = run.shared(on_event, stop)
    with run.resumed():
        while run.step < options.epochs * steps:
            parts = run.take_step()
            report(on_event, stop, "train", run.step, options.epochs * steps, epoch=len(run.history), **parts)
    return run.history


@dataclass
class _Run(TrainingRun):
    shown: Mapping[int, Shown]
    targets: Targets
    options: Options
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def done(self) -> float:
        """Share of the steps that are done."""
        return self.step / (self.options.epochs * self.steps)

    def take_step(self) -> dict[str, float]:
        """One step of the optimiser; the loss before it, and its parts."""
        responses, stimuli, mixture = self._batch()
        torch.manual_seed(self.step_seed(_DROPOUT))
        decoded: Decoded = self.module(responses)
        parts = self._losses(decoded, stimuli, mixture)
        weights = self.options.loss_weights
        loss = torch.stack([w * part for w, part in zip(weights, parts.values(), strict=False)]).sum()
        self.optimiser.zero_grad()
        # Gradients are averaged: the sum over processes of what each gives to the mean.
        (loss / self.share[1]).backward()
        found = {name: float(part.detach()) for name, part in {"loss": loss, **parts}.items()}
        self.descend(found["loss"], annealed(self.options.learning_rate, 0.0, self.done))
        if self.step % self.steps == 0:
            self.history.append(dict.fromkeys(found, 0.0))
        for name, value in found.items():
            self.history[-1][name] += value / self.steps
        self.step += 1
        if self.step % self.steps == 0:
            self.save()
        return found

    def _batch(self) -> tuple[dict[int, Tensor], np.ndarray, Mixture | None]:
        process, count = self.share
        size = -(-self.options.batch_size // len(self.shown))
        mixing = self.done < _MIXING
        responses, stimuli, mixtures = {}, [], []
        for layer, shown in self.shown.items():
            chosen = shown.batch(size, self.step, (self.options.seed, layer))[process::count]
            values = torch.from_numpy(shown.responses[shown.rows[chosen]]).to(self.device)
            rng = np.random.default_rng([self.step_seed(_MIXTURE), layer])
            mixture = draw_mixture(len(chosen), rng).to(self.device)
            responses[layer] = mixture(values) if mixing else values
            stimuli.append(shown.stimuli[chosen])
            mixtures.append(mixture)
        return responses, np.concatenate(stimuli), stack_mixtures(mixtures) if mixing else None

    def _losses(self, decoded: Decoded, stimuli: np.ndarray, mixture: Mixture | None) -> dict[str, Tensor]:
        each_once, place = np.unique(stimuli, return_inverse=True)
        shown = torch.from_numpy(place).to(self.device)
        candidates = self.targets.embedding.read(each_once).to(self.device)
        start, end = self.options.temperature
        if mixture is None:
            temperature = annealed(start, end, (self.done - _MIXING) / (1 - _MIXING))
            contrast = soft_clip(decoded.retrieval, candidates, shown, temperature)
        else:
            contrast = bimixco(decoded.retrieval, candidates, shown, mixture, start)

        def of_rows(values: Tensor) -> Tensor:
            return values[shown] if mixture is None else mixture(values[shown])

        parts = {"contrast": contrast, "embedding": nn.functional.mse_loss(decoded.embedding, of_rows(candidates))}
        if decoded.latents is not None and self.targets.latents is not None:
            latents = self.targets.latents.read(each_once).to(self.device)
            parts["latents"] = nn.functional.l1_loss(decoded.latents, of_rows(latents))
        return parts

    def progress(self) -> dict[str, Any]:
        return {**super().progress(), "history": self.history}

    def restore(self, progress: dict[str, Any]) -> None:
        super().restore(progress)
        self.history = progress["history"]
