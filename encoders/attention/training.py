"""Training on cached tokens: one loop for one or several processes, which can be stopped and resumed at any step."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from recordings.errors import InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from .objective import Autocast, Targets, backward_at_once, backward_in_parts, on_device, validation_r
from .run import CHECKPOINT, TrainingRun, decayed
from .stream import Batch, TokenStream

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Epoch:
    """Of one epoch: its number from 0, mean training loss, and mean validation r over neuroids."""

    epoch: int
    loss: float
    validation: float


@dataclass
class History:
    """Epochs as they went; the best is the one whose weights were kept."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The first of the highest validation r."""
        return max(self.epochs, key=lambda e: e.validation)

    def stalled(self, patience: int | None) -> bool:
        """Whether so many epochs have gone without a gain."""
        return patience is not None and bool(self.epochs) and self.epochs[-1].epoch - self.best.epoch >= patience

    @property
    def last_r(self) -> dict[str, float]:
        """The last epoch's validation r by the name that events give it, if there was an epoch."""
        return {"validation_r": self.epochs[-1].validation} if self.epochs else {}

    def to_config(self) -> list[dict[str, Any]]:
        """As JSON values."""
        return [asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_config(cls, config: list[dict[str, Any]]) -> History:
        """From what `to_config` gave."""
        return cls([Epoch(**epoch) for epoch in config])


def train(
    module: nn.Module,
    stream: TokenStream,
    targets: Targets,
    validate: tuple[TokenStream, Targets],
    *,
    epochs: int,
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-4,
    schedule: str = "constant",
    step_epochs: int = 4,
    clip: float | None = 0.1,
    patience: int | None = None,
    neuroids: int | None = None,
    precision: str = "auto",
    seed: int = 0,
    device: torch.device,
    checkpoints: Path | None = None,
    every_steps: int | None = None,
    fingerprint: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> History:
    """Fit a network to standardised responses with AdamW, and leave it with the weights of the best epoch.

    Dropout draws from (seed, step) and the order of pictures from (stream's seed, epoch), so that a resumed run is the
    run that was not stopped, on a CPU to the last bit. Under `accelerate launch` each batch is shared among processes;
    without dropout the weights are those of one process, but for rounding.

    Parameters
    ----------
    module : forward(tokens, shown) gives (B, neuroid); see `Batch` for both. With `neuroids`, memory and respond as
        `objective.InParts` has them.
    stream, targets : tokens, and responses (row, neuroid) of the same rows, standardised.
    validate : the same of stimuli that choose the epoch: by mean Pearson r over neuroids, constant predictions being 0.
    learning_rate, schedule : "constant"; "step", halved every `step_epochs` epochs; "cosine", down to 0 step by step.
    weight_decay : of matrices; biases, norms and other vectors have none.
    clip : largest norm of the gradient; None for none.
    patience : stop after so many epochs without a better validation r.
    neuroids : how many have their activations in memory at a time; all by default.
    precision : "bf16" computes products in bfloat16 and keeps weights in float32; "auto" does where CUDA has it.
    checkpoints : folder of the checkpoint, written after every epoch, every `every_steps` steps, and when stopped.
    fingerprint : what a checkpoint must agree with, by what it is.
    on_event, stop : at every step; payload loss, epoch (from 1) and, from the second on, validation_r of the last one.

    Raises
    ------
    NotFiniteError : loss or gradient is NaN or infinite; names the step.
    InputError : no stimuli, or no epochs. UnknownNameError : no such schedule or precision.
    ArtifactError : the checkpoint is of another run.
    Cancelled : `stop` answered True; the checkpoint, if asked for, holds the last step.
    """
    factor = _schedule(schedule, stream.steps, epochs, step_epochs)
    if not len(stream) or not len(validate[0]):
        raise InputError("no stimuli to train on, or none to choose the epoch by", remedy="Give more stimuli")
    if min(epochs, step_epochs) < 1:
        raise InputError(f"{epochs} epochs, step_epochs {step_epochs}", where="training", remedy="Give at least 1")
    settings = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "step_epochs": step_epochs,
        "clip": clip,
        "precision": precision,
        "seed": seed,
    }
    # Accelerate keeps one precision and one device a process, whereas encoders have their own.
    accelerator = Accelerator()
    device = accelerator.device if accelerator.num_processes > 1 else device
    module.to(device)
    run = _Run(
        module,
        _optimiser(module, learning_rate, weight_decay, device),
        accelerator,
        device,
        seed,
        None if checkpoints is None else checkpoints / CHECKPOINT,
        _identity(module, stream, validate[0], settings) | dict(fingerprint or {}),
        _autocast(precision, device),
        neuroids,
    )
    on_event, stop = run.shared(on_event, stop)
    with run.resumed():
        while len(run.history.epochs) < epochs and not run.history.stalled(patience):
            epoch, last = len(run.history.epochs), run.history.last_r
            batches = stream.epoch(epoch, run.step - epoch * stream.steps, run.share)
            for batch, y in on_device(batches, targets, device):
                loss = run.take_step(batch, y, learning_rate * factor(run.step), clip)
                if every_steps and run.step % every_steps == 0:
                    run.save()
                report(on_event, stop, "train", run.step, epochs * stream.steps, loss=loss, epoch=epoch + 1, **last)
            run.close_epoch(stream.steps, validate, stop)
            run.save()
    module.load_state_dict(run.best)
    return run.history


@dataclass
class _Run(TrainingRun):
    autocast: Autocast
    neuroids: int | None
    loss: float = 0.0
    history: History = field(default_factory=History)

    def take_step(self, batch: Batch, y: Tensor, learning_rate: float, clip: float | None) -> float:
        """Mean squared error of a batch, before the step that it makes the optimiser take."""
        self.module.train()
        torch.manual_seed(self.step_seed())
        self.optimiser.zero_grad()
        total = int(self.sum(torch.tensor(len(y)))) * y.shape[1]
        if self.neuroids is None:
            error = backward_at_once(self.module, batch, y, total, self.autocast)
        else:
            error = backward_in_parts(self.module, batch, y, total, self.autocast, self.neuroids)
        loss = float(self.sum(error))
        self.descend(loss, learning_rate, clip, "Take a lower learning rate, or precision='fp32'")
        self.step, self.loss = self.step + 1, self.loss + loss
        return loss

    def close_epoch(self, steps: int, validate: tuple[TokenStream, Targets], stop: Stop | None) -> None:
        """Judge the weights, and keep them if they are the best so far."""
        r = validation_r(
            self.module,
            *validate,
            self.autocast,
            neuroids=self.neuroids,
            device=self.device,
            part=self.share,
            reduce=self.sum,
            stop=stop,
        )
        self.history.epochs.append(Epoch(len(self.history.epochs), self.loss / steps, float(r.mean())))
        self.loss = 0.0
        if self.history.best is self.history.epochs[-1]:
            self.best = {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}

    def progress(self) -> dict[str, Any]:
        return {**super().progress(), "loss": self.loss, "history": self.history.to_config()}

    def restore(self, progress: dict[str, Any]) -> None:
        super().restore(progress)
        self.loss, self.history = progress["loss"], History.from_config(progress["history"])


def _identity(
    module: nn.Module, stream: TokenStream, validation: TokenStream, settings: dict[str, Any]
) -> dict[str, str]:
    shapes = [(name, list(value.shape)) for name, value in module.state_dict().items()]
    return {
        "weights": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        "stream": json.dumps({"training": stream.layout, "validation": validation.layout}),
        "training": json.dumps(settings),
    }


def _optimiser(
    module: nn.Module, learning_rate: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW, fused where the device has it, without decay of vectors."""
    groups, fused = decayed(module, weight_decay), device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused, foreach=None if fused else True)


def _schedule(name: str, steps: int, epochs: int, step_epochs: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at a step."""
    factors: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "step": lambda step: 0.5 ** (step // steps // step_epochs),
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * step / (steps * epochs))),
    }
    if name not in factors:
        raise UnknownNameError(f"no schedule {name!r}", remedy=f"There are: {', '.join(factors)}")
    return factors[name]


def _autocast(precision: str, device: torch.device) -> Autocast:
    if precision not in PRECISIONS:
        raise UnknownNameError(f"no precision {precision!r}", remedy=f"There are: {', '.join(PRECISIONS)}")
    bf16 = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=bf16)
