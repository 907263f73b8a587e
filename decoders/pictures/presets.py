"""Presets: which decoded inputs a reconstruction uses, how, and from which regions they are decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from recordings.errors import InputError, UnknownNameError

# Regions of the Natural Scenes Dataset's `streams` atlas, as the papers use them: midparietal is left out.
_EARLY = ("early",)
_VENTRAL = ("ventral",)
_SIX = ("early", "ventral", "midventral", "midlateral", "lateral", "parietal")


def check_schedule(strength: ArrayLike, guidance: ArrayLike, steps: int) -> None:
    """Raise `InputError` for a strength outside [0, 1] or too small for one step, guidance under 0, or no steps."""
    check_count("steps", steps)
    s, g = np.atleast_1d(np.asarray(strength, float)), np.atleast_1d(np.asarray(guidance, float))
    bad = ~((s >= 0) & (s <= 1))
    if bad.any():
        raise InputError(f"strength {s[bad][0]:g}", remedy="Give a share of the steps, from 0 to 1")
    short = (s > 0) & ((s * steps).astype(int) < 1)
    if short.any():
        raise InputError(
            f"strength {s[short][0]:g} of {steps} steps is less than one step",
            remedy="Give more steps, more strength, or strength 0 for the decoded start itself",
        )
    wrong = ~((g >= 0) & np.isfinite(g))
    if wrong.any():
        raise InputError(f"guidance {g[wrong][0]:g}", remedy="Give a number of at least 0; up to 1 there is none")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise `InputError` unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name}={value!r}", remedy=f"Give a whole number of at least {least}")


@dataclass(frozen=True)
class Preset:
    """How decoded inputs become a picture.

    Attributes
    ----------
    name : for the record.
    start : what noise is added to: decoded latents "z", a decoded "image", or None for pure noise (strength 1).
    text : what cross-attention reads: decoded text embeddings "c", the text embeddings of a decoded "caption", or None
        for those of the empty prompt.
    reproject : take z through pixels once: decoded, 8 bit, resized to the generator's size and encoded again, which
        brings it back among the latents of pictures (Takagi & Nishimoto 2023); z may then have another size.
    depth : "depth2img", a UNet that sees the depth map beside its latents, "controlnet", or None.
    embedding : whether a decoded image embedding enters through an IP-Adapter (Ye et al. 2023).
    strength : share of the denoising steps that are run, after noise to match; 0 decodes the start itself. One number,
        or one a brain.
    guidance : classifier-free guidance scale (Ho & Salimans 2022); up to 1 there is none. One number, or one a brain.
    steps : of the whole schedule, of which int(strength * steps) are run. samples : pictures a brain.
    scheduler : "ddim" for DDIM with eta 0 and the noise schedule of the generator, "own" for the generator's scheduler.
    rois : regions that each target is decoded from, None for all.

    Raises
    ------
    InputError : values out of range, or settings that contradict each other.
    """

    name: str
    start: Literal["z", "image"] | None = "z"
    text: Literal["c", "caption"] | None = "c"
    reproject: bool = False
    depth: Literal["depth2img", "controlnet"] | None = None
    embedding: bool = False
    strength: float | Sequence[float] = 0.8
    guidance: float | Sequence[float] = 5.0
    steps: int = 50
    samples: int = 1
    scheduler: Literal["ddim", "own"] = "ddim"
    rois: Mapping[str, Sequence[str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name}={getattr(self, name)!r}",
                    where=self.name,
                    remedy=f"Take one of {', '.join(map(repr, choices))}",
                )
        for name in ("strength", "guidance"):
            value = np.asarray(getattr(self, name), float)
            object.__setattr__(self, name, float(value) if value.ndim == 0 else tuple(value.tolist()))
        check_count("samples", self.samples)
        check_schedule(self.strength, self.guidance, self.steps)
        if self.start is None and np.any(np.asarray(self.strength) != 1):
            raise InputError(
                f"strength {self.strength} without a start", where=self.name, remedy="From pure noise strength is 1"
            )
        if self.reproject and self.start != "z":
            raise InputError("reproject without z to start from", where=self.name, remedy="Take start='z'")
        if self.text is None and not self.embedding and np.any(np.asarray(self.guidance) > 1):
            raise InputError(
                f"guidance {self.guidance} with nothing to guide towards",
                where=self.name,
                remedy="Give text or embedding, or guidance=1",
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of `DecodedInputs` that the preset reads."""
        text = "captions" if self.text == "caption" else self.text
        wanted = (self.start, text, "depth" if self.depth else None, "embedding" if self.embedding else None)
        return tuple(name for name in wanted if name is not None)

    def to_config(self) -> dict[str, Any]:
        """All settings, as JSON values."""
        return asdict(self)


_CHOICES: dict[str, tuple[Any, ...]] = {
    "start": ("z", "image", None),
    "text": ("c", "caption", None),
    "depth": ("depth2img", "controlnet", None),
    "scheduler": ("ddim", "own"),
}

_TAKAGI = Preset("takagi-text", text="caption", reproject=True, samples=5, rois={"z": _EARLY, "tokens": _SIX})

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # Takagi & Nishimoto, CVPR 2023.
        replace(_TAKAGI, name="takagi-cvpr", text="c", rois={"z": _EARLY, "c": _VENTRAL}),
        # Takagi & Nishimoto, arXiv 2306.11536: each adds to the one before.
        _TAKAGI,
        replace(
            _TAKAGI, name="takagi-gan", start="image", reproject=False, rois={"features": _SIX, "tokens": _SIX}
        ),
        replace(
            _TAKAGI,
            name="takagi-depth",
            start="image",
            reproject=False,
            depth="depth2img",
            rois={"features": _SIX, "tokens": _SIX, "depth": _SIX},
        ),
        Preset(
            "penfield",
            depth="controlnet",
            embedding=True,
            strength=0.7,
            guidance=2.0,
            steps=25,
            rois={"z": None, "c": None, "depth": None, "embedding": None},
        ),
    )
}  # fmt: skip


def find_preset(preset: str | Preset) -> Preset:
    """A preset by its name, or as it is given. `UnknownNameError` if there is none of that name."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise UnknownNameError(f"no preset {preset!r}", remedy=f"There are: {', '.join(PRESETS)}")
    return PRESETS[preset]
