"""`ImageReconstructor`: from decoded inputs to pictures, many brains at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recordings.errors import InputError, NotFiniteError, ShapeError
from recordings.events import OnEvent, Stop, report

from .diffusion import count_steps, ddim, denoise
from .generator import Generator, torch_generator
from .inputs import DecodedInputs
from .pixels import resize
from .presets import Preset, check_count, find_preset
from .reconstructions import Reconstructions

# More brains than this at this size on a CPU take hours, so that it must be asked for knowingly.
LONG_BRAINS = 64
LONG_SIZE = 512


@dataclass
class _Batch:
    """Pictures that are made together: their rows among the inputs, their samples, and why some have failed."""

    rows: list[int]
    samples: list[int]
    inputs: DecodedInputs
    noise: list[torch.Generator]
    failed: dict[str, str]

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in self.inputs.stimulus_ids]

    def fail(self, finite: np.ndarray, reason: str) -> bool:
        """Note a first reason for the pictures that are not finite; whether none is left."""
        for k in np.flatnonzero(~finite):
            self.failed.setdefault(self.ids[k], reason)
        return all(i in self.failed for i in self.ids)


class ImageReconstructor:
    """Pictures from decoded inputs by latent diffusion (Takagi & Nishimoto 2023).

    Parameters
    ----------
    generator : the latent diffusion model. preset : a name among `PRESETS`, or a `Preset`.
    strength, guidance : one number or (n,), one a brain; steps, samples : whole numbers. They replace the preset's;
        strength and guidance are best chosen by `choose_strength`. With strength 0 the decoded start itself is shown.

    Attributes
    ----------
    preset : `Preset` with all replaced.

    Raises
    ------
    UnknownNameError : no such preset. InputError : settings out of range or contradicting each other.
    """

    def __init__(
        self,
        generator: Generator,
        preset: str | Preset = "penfield",
        *,
        strength: ArrayLike | None = None,
        guidance: ArrayLike | None = None,
        steps: int | None = None,
        samples: int | None = None,
    ):
        given = {"strength": strength, "guidance": guidance, "steps": steps, "samples": samples}
        self.generator = generator
        self.preset = replace(find_preset(preset), **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]

    def reconstruct(
        self,
        inputs: DecodedInputs,
        *,
        seed: int | Sequence[int] = 0,
        keys: Sequence[str] | None = None,
        batch_size: int = 8,
        preview_every: int = 0,
        allow_long: bool = False,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Reconstructions:
        """Make `samples` pictures of each brain.

        Random numbers of a picture depend on its seed, its key and its sample alone, so that neither order nor batch
        matters. A brain with a broken input (see `DecodedInputs.broken`), or whose picture is not finite, goes to
        `failed`; the others are finished.

        Parameters
        ----------
        seed : one for all, or (n,), one a brain.
        keys : (n,) names for the random numbers, which need not be unique; by default the stimulus ids. So brains of
            several subjects or requests that saw one stimulus are drawn together as each would be alone.
        batch_size : pictures made together.
        preview_every : with every so many steps the event "reconstruct" has in its payload a "preview", uint8
            (picture, H, W, 3), of the picture as it is foreseen, beside its "stimulus_ids" and "samples"; 0 for none.
        allow_long : do what would take hours: more than 64 brains at 512 pixels or more on a CPU.
        on_event, stop : progress and cancellation, at every step of the UNet.

        Raises
        ------
        InputError, ShapeError, DuplicateIdError : see `DecodedInputs.check`; options out of range, or not one a brain.
        NotFiniteError : not one brain could be reconstructed. Cancelled : `stop` answered True.
        """
        preset, n = self.preset, len(inputs)
        check_count("batch_size", batch_size)
        check_count("preview_every", preview_every, 0)
        inputs.check(self.generator, preset)
        names = _random_names(seed, keys, [str(i) for i in inputs.stimulus_ids])
        strength, guidance = (_each(name, getattr(preset, name), n) for name in ("strength", "guidance"))
        failed = inputs.broken(preset.needs, self.generator)
        jobs = [
            (row, sample)
            for row, i in enumerate(inputs.stimulus_ids)
            if str(i) not in failed
            for sample in range(preset.samples)
        ]
        if not allow_long:
            steps = float(strength.sum()) * preset.steps * preset.samples
            refuse_long(self, inputs.select([jobs[0][0]]), n, f"{n} brains", steps)
        parts = [jobs[k : k + batch_size] for k in range(0, len(jobs), batch_size)]
        scheduler = ddim(self.generator.scheduler) if preset.scheduler == "ddim" else self.generator.scheduler
        counts = [count_steps(scheduler, strength[[row for row, _ in part]], preset.steps) for part in parts]
        unconditional = self._unconditional(guidance)
        images = np.zeros((n, preset.samples, *self.generator.image_size, 3), np.uint8)
        for number, part in enumerate(parts):
            batch = _batch(inputs, part, names, failed)
            progress = _Progress(
                self.generator, batch, sum(counts[:number]), sum(counts), preview_every, on_event, stop
            )
            latents = self._latents(batch, strength, guidance, unconditional, scheduler, progress)
            if latents is not None:
                pixels, finite = self.generator.decode(latents)
                batch.fail(finite, "the picture decoded from its latents is not finite")
                images[batch.rows, batch.samples] = pixels
        kept = [row for row, i in enumerate(inputs.stimulus_ids) if str(i) not in failed]
        if not kept:
            first = next(iter(failed))
            raise NotFiniteError(f"stimulus {first!r}: {failed[first]}, and none of {n} is better")
        ids = [str(inputs.stimulus_ids[row]) for row in kept]
        return Reconstructions(ids, images[kept], failed, self._settings(seed, kept))

    def _latents(
        self,
        batch: _Batch,
        strength: np.ndarray,
        guidance: np.ndarray,
        unconditional: Tensor | None,
        scheduler: Any,
        progress: _Progress,
    ) -> Tensor | None:
        """Denoised latents of a batch, or None where all its pictures have failed."""
        start = self._start(batch)
        if start is not None and batch.fail(_finite(start), "its latents are not finite before the first step"):
            return None
        inputs, latents = batch.inputs, start
        for step in denoise(
            self.generator,
            self._context(batch, unconditional),
            start,
            batch.noise,
            unconditional=unconditional,
            depth=torch.as_tensor(inputs.depth) if self.preset.depth else None,
            embedding=torch.as_tensor(inputs.embedding) if self.preset.embedding else None,
            strength=strength[batch.rows],
            guidance=guidance[batch.rows],
            steps=self.preset.steps,
            scheduler=scheduler,
        ):
            latents = step.latents
            if batch.fail(_finite(latents), f"its latents are not finite after step {step.number} of {step.total}"):
                return None
            progress.show(step.number, step.estimate)
        return latents

    def _start(self, batch: _Batch) -> Tensor | None:
        inputs, generator = batch.inputs, self.generator
        if self.preset.start is None:
            return None
        if self.preset.start == "image":
            assert inputs.image is not None
            return generator.encode(resize(inputs.image, generator.image_size), batch.noise)
        z = torch.as_tensor(inputs.z, dtype=torch.float32, device=generator.device)
        if not self.preset.reproject:
            return z
        pixels, finite = generator.decode(z)
        batch.fail(finite, "the picture decoded from z is not finite")
        return generator.encode(resize(pixels, generator.image_size), batch.noise)

    def _context(self, batch: _Batch, unconditional: Tensor | None) -> Tensor:
        if self.preset.text == "c":
            return torch.as_tensor(batch.inputs.c, dtype=torch.float32)
        if self.preset.text == "caption":
            assert batch.inputs.captions is not None
            return torch.as_tensor(self.generator.encode_text(batch.inputs.captions))
        assert unconditional is not None
        return unconditional.expand(len(batch.rows), -1, -1)

    def _unconditional(self, guidance: np.ndarray) -> Tensor | None:
        """Embedding of the empty prompt, (token, channel), where it is needed."""
        if self.preset.text is not None and (guidance <= 1).all():
            return None
        return torch.as_tensor(self.generator.encode_text([""])[0])

    def _settings(self, seed: int | Sequence[int], kept: Sequence[int]) -> dict[str, Any]:
        preset = self.preset.to_config()
        # One value a brain, as there is one picture a brain.
        preset |= {k: [preset[k][row] for row in kept] for k in ("strength", "guidance") if np.ndim(preset[k])}
        return {
            "preset": preset,
            "seed": int(seed) if isinstance(seed, int | np.integer) else [int(seed[row]) for row in kept],
            "generator": self.generator.name,
            "fingerprint": self.generator.fingerprint,
        }


@dataclass
class _Progress:
    """Events of a batch whose first step is the `before`-th of all."""

    generator: Generator
    batch: _Batch
    before: int
    total: int
    preview_every: int
    on_event: OnEvent | None
    stop: Stop | None

    def show(self, step: int, estimate: Tensor) -> None:
        payload: dict[str, Any] = {"stimulus_ids": self.batch.ids, "samples": self.batch.samples}
        if self.on_event is not None and self.preview_every and step % self.preview_every == 0:
            payload["preview"] = self.generator.decode(estimate)[0]
        report(self.on_event, self.stop, "reconstruct", self.before + step, self.total, **payload)


def refuse_long(reconstructor: ImageReconstructor, one: DecodedInputs, n: int, what: str, steps: float) -> None:
    """Raise `InputError`, with the time that it would take, for more than `LONG_BRAINS` large pictures on a CPU.

    Parameters
    ----------
    one : inputs of one brain, on which a step is timed. n : pictures, which an error calls `what`. steps : in all.
    """
    generator, preset = reconstructor.generator, reconstructor.preset
    height, width = generator.image_size
    if generator.device.type != "cpu" or n <= LONG_BRAINS or height * width < LONG_SIZE**2:
        return
    probe = replace(preset, strength=1.0, guidance=float(np.max(preset.guidance)), steps=1, samples=1)
    began = time.perf_counter()
    ImageReconstructor(generator, probe).reconstruct(one, allow_long=True)
    # With no step at all each picture is decoded, which is part of what was timed.
    hours = (time.perf_counter() - began) * max(steps, n) / 3600
    raise InputError(
        f"{what} at {height} x {width} pixels on the CPU take up to {hours:.2g} hours",
        where="inputs",
        remedy="Take a GPU, fewer brains, steps or samples, or allow_long (--allow-long)",
    )


def _batch(
    inputs: DecodedInputs, jobs: Sequence[tuple[int, int]], names: Sequence[tuple[int, str]], failed: dict[str, str]
) -> _Batch:
    rows, samples = [row for row, _ in jobs], [sample for _, sample in jobs]
    noise = [torch_generator(*names[row], sample) for row, sample in jobs]
    return _Batch(rows, samples, inputs.select(rows), noise, failed)


def _random_names(seed: int | Sequence[int], keys: Sequence[str] | None, ids: Sequence[str]) -> list[tuple[int, str]]:
    """Seed and key of the random numbers of each brain."""
    seeds: list[Any] = [seed] * len(ids) if np.ndim(seed) == 0 else list(seed)  # type: ignore[arg-type]
    for value in seeds:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputError(f"seed={value!r}", remedy="Give a whole number")
    chosen = ids if keys is None else [str(key) for key in keys]
    for name, values in (("seed", seeds), ("keys", chosen)):
        if len(values) != len(ids):
            raise ShapeError(f"{len(values)} values for {len(ids)} brains", where=name, remedy="Give one a brain")
    return [(int(value), key) for value, key in zip(seeds, chosen, strict=True)]


def _each(name: str, value: ArrayLike, n: int) -> np.ndarray:
    """One value a brain, float (n,)."""
    values = np.asarray(value, float)
    if values.ndim and len(values) != n:
        raise ShapeError(f"{len(values)} values for {n} brains", where=name, remedy="Give one number, or one a brain")
    return np.broadcast_to(values, n)


def _finite(latents: Tensor) -> np.ndarray:
    return latents.isfinite().flatten(1).all(1).cpu().numpy()
