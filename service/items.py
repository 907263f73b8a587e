"""What is asked of a model and what it answers, in arrays; light enough for a process without models to import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recordings.errors import DuplicateIdError, InputError, NotFiniteError, ShapeError, UnknownNameError

from .errors import NotOfferedError

CAPTION, IMAGE, DEPTH, SHAPE, TARGETS = "caption", "image", "depth", "shape", "targets"
OUTPUTS = frozenset({CAPTION, IMAGE, DEPTH, SHAPE, TARGETS})
MAX_SEED = 2**32 - 1


@dataclass(frozen=True, eq=False)
class EncodeItem:
    """Stimuli of one request to an encoder: images, clips or features, one of the three.

    Parameters
    ----------
    images : uint8 (height, width, 3) each. clips : uint8 (time, height, width, 3) each.
    features : by name of the feature space, float (stimulus, ...); "" names the space of a model that has one.
    fingerprints : of feature spaces by name, checked against those of the fit; none need be given.
    rois : only units of these regions; empty for all.

    Raises
    ------
    InputError : not one of the three, or nothing in it. ShapeError : another shape or dtype than these.
    NotFiniteError : features that are NaN or infinite.
    """

    images: Sequence[np.ndarray] | None = None
    clips: Sequence[np.ndarray] | None = None
    features: Mapping[str, np.ndarray] | None = None
    rois: tuple[str, ...] = ()
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in ("images", "clips", "features") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"{' and '.join(given) or 'nothing'} given", where="stimuli", remedy="Give images, clips or features"
            )
        for name, ndim in (("images", 3), ("clips", 4)):
            for number, pixels in enumerate(getattr(self, name) or ()):
                _check_pixels(pixels, f"{name}[{number}]", ndim)
        if self.features is not None:
            _check_features(self.features)
        if not len(self):
            raise InputError("no stimulus", where=given[0], remedy="Give at least one")

    @property
    def stimuli(self) -> Sequence[np.ndarray]:
        """The images or clips."""
        return self.images or self.clips or ()

    def __len__(self) -> int:
        if self.features is not None:
            return len(next(iter(self.features.values())))
        return len(self.stimuli)


@dataclass(frozen=True, eq=False)
class DecodeItem:
    """Responses of one request to a decoder.

    Parameters
    ----------
    responses : float (row, unit), in the order of the model's units, on the scale of the fit.
    outputs : some of `OUTPUTS`.
    stimulus_ids : a name a row, unique, on which random numbers depend; empty for "0", "1", ...
    preset : of drawing. strength, guidance, steps, samples : None for the preset's.
    preview_every : every so many denoising steps a preview; 0 for none.
    seed : of all that is drawn at random, from 0 to 2**32 - 1.
    units_fingerprint : of the units that the responses are of; "" leaves it unchecked.

    Raises
    ------
    ShapeError : responses of another rank, or another number of ids. DuplicateIdError : an id stands twice.
    NotFiniteError : NaN or infinite responses. UnknownNameError, NotOfferedError, InputError : other values than these.
    """

    responses: np.ndarray
    outputs: frozenset[str]
    stimulus_ids: tuple[str, ...] = ()
    preset: str = "penfield"
    strength: float | None = None
    guidance: float | None = None
    steps: int | None = None
    samples: int | None = None
    preview_every: int = 0
    seed: int = 0
    units_fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.stimulus_ids:
            object.__setattr__(self, "stimulus_ids", tuple(str(row) for row in range(len(self.responses))))
        _check_responses(self.responses, self.stimulus_ids)
        if not self.outputs:
            raise InputError("nothing asked for", where="outputs", remedy=f"Ask for {', '.join(sorted(OUTPUTS))}")
        for name in sorted(self.outputs - OUTPUTS):
            raise UnknownNameError(f"no output {name!r}", where="outputs", remedy=f"There are {', '.join(OUTPUTS)}")
        if SHAPE in self.outputs:
            raise NotOfferedError(
                "objects are not decoded by this server", where="outputs", remedy="Ask for depth, image or caption"
            )
        for name, least in (("steps", 1), ("samples", 1), ("preview_every", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{value}", where=name, remedy=f"Give a whole number of at least {least}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"{self.seed}", where="seed", remedy=f"Give a whole number from 0 to {MAX_SEED}")

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def settings(self) -> tuple[object, ...]:
        """All but the rows, so that requests with equal settings can be decoded together."""
        return (self.outputs, self.preset, self.strength, self.guidance, self.steps, self.samples, self.preview_every)


@dataclass(frozen=True, eq=False)
class DecodedRow:
    """What was decoded of one row; what was not asked for is None.

    Attributes
    ----------
    images : uint8 (sample, height, width, 3). depth : float32 (height, width), nearness. targets : float32 by name.
    failure : why there is nothing else. settings : of drawing, JSON values.
    """

    stimulus_id: str
    caption: str | None = None
    images: np.ndarray | None = None
    depth: np.ndarray | None = None
    targets: Mapping[str, np.ndarray] | None = None
    failure: Exception | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


OnRow = Callable[[DecodedRow], None]


def _check_pixels(pixels: np.ndarray, where: str, ndim: int) -> None:
    if pixels.ndim != ndim or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        axes = "(height, width, 3)" if ndim == 3 else "(time, height, width, 3)"
        raise ShapeError(f"{pixels.dtype} of shape {pixels.shape}", where=where, remedy=f"Give uint8 {axes}")


def _check_features(features: Mapping[str, np.ndarray]) -> None:
    if not features:
        raise InputError("no feature space", where="features", remedy="Give one array a feature space")
    if len({len(values) for values in features.values()}) > 1:
        raise ShapeError("feature spaces of several lengths", where="features", remedy="Give a row a stimulus in each")
    for name, values in features.items():
        where = f"features {name}" if name else "features"
        if values.ndim not in (2, 3) or values.dtype.kind != "f":
            raise ShapeError(
                f"{values.dtype} of shape {values.shape}",
                where=where,
                remedy="Give floats (stimulus, feature), (stimulus, token, channel) or (stimulus, time, feature)",
            )
        _check_finite(values, where)


def _check_responses(responses: np.ndarray, stimulus_ids: Sequence[str]) -> None:
    if responses.ndim != 2 or responses.dtype.kind != "f" or not responses.size:
        raise ShapeError(
            f"{responses.dtype} of shape {responses.shape}", where="responses", remedy="Give floats (row, unit)"
        )
    if len(stimulus_ids) != len(responses):
        raise ShapeError(f"{len(stimulus_ids)} names for {len(responses)} rows", where="stimulus_ids")
    twice = next((name for name, n in Counter(stimulus_ids).items() if n > 1), None)
    if twice is not None:
        raise DuplicateIdError(f"{twice!r} stands twice", where="stimulus_ids", remedy="Average repetitions first")
    _check_finite(responses, "responses")


def _check_finite(values: np.ndarray, where: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NotFiniteError(f"{values[first]} at {list(first)}", where=where, remedy="Leave such rows out")
