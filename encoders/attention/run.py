"""A training run of any network: steps that all processes take together, and the checkpoint that it goes on from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from recordings.errors import Cancelled, NotFiniteError
from recordings.events import OnEvent, Stop

from .checkpoint import load_checkpoint, save_checkpoint

CHECKPOINT = "training.safetensors"


@dataclass
class TrainingRun:
    """A run between two steps, in this process; a subclass says what a step computes.

    Attributes
    ----------
    seed : of all that a step draws, with its number. path : of the checkpoint, None for none.
    fingerprint : what the checkpoint must agree with, by what it is.
    step : number of steps that are done. best : weights to end with, where the last ones are not.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    accelerator: Accelerator
    device: torch.device
    seed: int
    path: Path | None
    fingerprint: dict[str, str]
    step: int = field(default=0, init=False)
    best: dict[str, Tensor] = field(default_factory=dict, init=False)

    @property
    def share(self) -> tuple[int, int]:
        """Number of this process, and of how many."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def sum(self, x: Tensor) -> Tensor:
        """Over processes."""
        return x if self.share[1] == 1 else self.accelerator.reduce(x.to(self.device), "sum").to(x.device)

    def shared(self, on_event: OnEvent | None, stop: Stop | None) -> tuple[OnEvent | None, Stop | None]:
        """Events of one process only; a stop of all when one is asked to."""
        if self.share[1] == 1:
            return on_event, stop
        own = stop or (lambda: False)
        return on_event if self.share[0] == 0 else None, lambda: bool(self.sum(torch.tensor(float(own()))) > 0)

    def step_seed(self, *purpose: int) -> int:
        """Of what this process draws in this step, by purpose."""
        key = (self.seed, self.step, self.share[0], *purpose)
        return int(np.random.SeedSequence(key).generate_state(1)[0])

    def descend(
        self,
        loss: float,
        learning_rate: float,
        clip: float | None = None,
        remedy: str = "Take a lower learning rate",
    ) -> None:
        """Take a step along the gradients, summed over processes and clipped to a norm.

        Raises
        ------
        NotFiniteError : loss or gradient is NaN or infinite; names the step.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        for parameter in parameters:
            parameter.grad = self.sum(cast(Tensor, parameter.grad))
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip)
        if not math.isfinite(loss + float(norm)):
            raise NotFiniteError(
                f"the {'gradient' if math.isfinite(loss) else 'loss'} is NaN or infinite at step {self.step + 1}",
                where="training",
                remedy=remedy,
            )
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()

    def progress(self) -> dict[str, Any]:
        """How far the run is, as JSON values."""
        return {"step": self.step}

    def restore(self, progress: dict[str, Any]) -> None:
        """Go to where `progress` was taken."""
        self.step = progress["step"]

    def save(self) -> None:
        """Write the checkpoint, from the first process."""
        if self.path is not None and self.accelerator.is_main_process:
            save_checkpoint(self.path, self.module, self.optimiser, self.best, self.progress(), self.fingerprint)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Go on from the checkpoint, if there is one, and write it if cancelled; torch's random state outside is kept.

        Raises
        ------
        ArtifactError : the checkpoint is of another run.
        """
        if self.path is not None and self.path.exists():
            self.best, progress = load_checkpoint(self.path, self.module, self.optimiser, self.fingerprint)
            self.restore(progress)
        self.accelerator.wait_for_everyone()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            try:
                yield
            except Cancelled:
                self.save()
                raise


def decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What of a module takes gradients, as an optimiser's groups: matrices with weight decay, vectors without."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
