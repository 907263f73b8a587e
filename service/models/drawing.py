"""The networks that turn decoded targets into words, depth and pictures, and what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from decoders import CaptionDecoder, DecodedInputs, DepthDecoder, Generator, ImageReconstructor
from decoders.pictures.presets import Preset
from encoders.features.uris import parse_uri
from recordings.errors import InputError
from studies.pictures.fitting import PictureDecoder, Readers
from studies.pictures.targets import TRUTH, check_generator, targets_of

from .memory import bytes_of

TOKENS, DEPTH, INVERTED = "tokens", "depth", "features"
# Maps of the autoencoder's widest layer at full size that are alive together, for a rough estimate.
ALIVE = 6


@dataclass(frozen=True)
class Cost:
    """An estimate: seconds of work, and bytes beside the model's own."""

    seconds: float = 0
    bytes: float = 0


class Networks:
    """Loaded when first asked for, since what a request does not need should take neither time nor memory.

    Parameters
    ----------
    fitted : the decoder and the names of the models whose states it decodes. device : where they run.

    Raises
    ------
    InputError : features of a ``python:`` model are to be inverted.
    """

    def __init__(self, fitted: PictureDecoder, device: str = "auto"):
        if INVERTED in fitted.targets and parse_uri(fitted.sources.features).trained.library == "python":
            raise InputError("python: models run code of their own and are not allowed here")
        self.fitted, self.device = fitted, device
        self._loaded: dict[str, Any] = {}
        self._variant: tuple[bool, bool] | None = None
        self._seconds: dict[Any, float] = {}

    @property
    def memory_bytes(self) -> int:
        """Of all that are loaded."""
        return sum(map(bytes_of, {id(m): m for found in self._loaded.values() for m in _modules(found)}.values()))

    def captioner(self) -> CaptionDecoder:
        """That of the fit."""
        return self._once(TOKENS, lambda: self.fitted.sources.load_captioner(self.device))

    def depth(self) -> DepthDecoder | None:
        """That of the fit; None where depth itself is decoded."""
        if self.fitted.sources.depth == TRUTH:
            return None
        return self._once(DEPTH, lambda: self.fitted.sources.load_depth(self.device))

    def generator(self, preset: Preset) -> Generator:
        """That of the fit, with what the preset adds to it; one is kept at a time.

        Raises
        ------
        ArtifactError : it is not the one whose states were decoded. MissingWeightsError : it is not here.
        """
        variant = (preset.depth == "controlnet", preset.embedding)
        if variant != self._variant:
            for name in ("generator", INVERTED):
                self._loaded.pop(name, None)
            made = self.fitted.sources.load_generator(self.device, preset)
            if known := {"z", "c"} & self.fitted.targets:
                check_generator(self.fitted.part(sorted(known)), made)
            self._loaded["generator"], self._variant = made, variant
        return self._loaded["generator"]

    def readers(self, preset: Preset, captions: bool) -> Readers:
        """What turns decoded targets into the inputs of a preset, and into `captions` beside them."""
        generator, needed = self.generator(preset), targets_of(preset)
        inverter = None
        if INVERTED in needed:
            load = Readers.load
            inverter = self._once(
                INVERTED, lambda: load(self.fitted.sources, generator, [INVERTED], self.device).inverter
            )
        return Readers(
            generator,
            self.captioner() if captions or TOKENS in needed else None,
            self.depth() if DEPTH in needed else None,
            inverter,
        )

    def cost(self, reconstructor: ImageReconstructor | None, n: int, captions: bool, chunk: int) -> Cost:
        """Of `n` rows; what one takes is measured the first time."""
        seconds = n * self._once_timed(TOKENS, self._caption_nothing) if captions else 0.0
        if reconstructor is None:
            return Cost(seconds)
        preset, generator = reconstructor.preset, reconstructor.generator
        guided = float(np.max(preset.guidance)) > 1
        key = (self._variant, preset.name, guided)
        step = self._once_timed(key, lambda: self._draw_nothing(reconstructor))
        steps = max(1, int(float(np.max(preset.strength)) * preset.steps))
        pixels = n * preset.samples * math.prod(generator.image_size)
        width = max(generator.vae.config.block_out_channels)
        alive = ALIVE * 4 * width * math.prod(generator.image_size) * min(chunk, n * preset.samples)
        return Cost(seconds + n * preset.samples * steps * step, 3 * pixels + alive)

    def _once(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    def _once_timed(self, key: Any, work: Callable[[], object]) -> float:
        if key not in self._seconds:
            began = time.perf_counter()
            work()
            self._seconds[key] = time.perf_counter() - began
        return self._seconds[key]

    def _caption_nothing(self) -> None:
        shape = self.fitted.decoder.decoders_[TOKENS].feature_shape_
        self.captioner().decode(np.zeros((1, *shape), np.float32))

    def _draw_nothing(self, reconstructor: ImageReconstructor) -> None:
        """One step and the picture after it."""
        generator, preset = reconstructor.generator, reconstructor.preset
        guidance = float(np.max(preset.guidance))
        probe = replace(preset, strength=1.0, guidance=guidance, steps=1, samples=1)
        rng, (height, width) = np.random.default_rng(0), generator.image_size
        ramp = np.linspace(0, 1, height * width, dtype=np.float32).reshape(1, height, width)
        given: dict[str, Any] = {
            "z": rng.standard_normal((1, *generator.latent_shape)).astype(np.float32),
            "c": generator.encode_text([""]) if "c" in preset.needs else None,
            "depth": ramp,
            "embedding": np.zeros((1, generator.embedding_width or 1), np.float32),
            "image": np.full((1, height, width, 3), 127, np.uint8),
            "captions": [""],
        }
        inputs = DecodedInputs(["probe"], **{name: given[name] for name in preset.needs})
        ImageReconstructor(generator, probe).reconstruct(inputs, allow_long=True)


def _modules(found: Any) -> Sequence[nn.Module]:
    """Networks among the attributes of what uses them, and of the extractors among these."""
    held = [*vars(found).values()] if hasattr(found, "__dict__") else []
    inner = [value for each in held if type(each).__module__.startswith("encoders") for value in vars(each).values()]
    inner += [value.module for value in inner if hasattr(value, "module")]
    return [value for value in (*held, *inner) if isinstance(value, torch.nn.Module)]
