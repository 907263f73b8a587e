"""How the features that an encoder was fitted on are computed again from pictures.

An artifact names model and layer of its features and keeps a hash of everything else that defines them. What it does
not name, such as the read-out, is found by trying: only the one that gives the hash is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from encoders import Encoder, Ensemble, FeatureExtractor, Features, TransformerEncoder
from encoders.features.readouts import READOUTS
from encoders.features.reduction import Reduction, random_projection
from encoders.linear import LinearEncoder
from recordings.errors import InputError, PenfieldError

from .description import FeatureSpace

PROJECTED, TOKENS = "projected", "tokens"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Wanted:
    """A feature space as an encoder remembers it.

    Attributes
    ----------
    label : name under which requests give it.
    source : uri and layer. size : numbers a stimulus, or of one token where they are averaged.
    tokens : number of them, 0 where it is not known. pool : whether tokens are averaged.
    """

    label: str
    source: str
    fingerprint: str
    size: int
    tokens: int = 0
    pool: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one stimulus' features, as far as it is known."""
        return (self.tokens, self.size // self.tokens) if self.tokens else (self.size,)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether features of one stimulus may have this shape."""
        if self.pool:
            return len(shape) == 2 and shape[1] == self.size
        return math.prod(shape) == self.size and (not self.tokens or tuple(shape) == self.shape)


@dataclass(frozen=True)
class Recipe:
    """How to compute a feature space from pictures."""

    extractor: FeatureExtractor
    layer: str
    readout: str
    n_frames: int | None
    reduction: Reduction | None
    shape: tuple[int, ...]

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Features from those of the layer."""
        return values if self.reduction is None else self.reduction.transform(values)


class FeaturesOfFit(Features):
    """Features that are taken for those of a fit, whatever is known of where they come from."""

    def __init__(self, values: np.ndarray, stimulus_ids: Sequence[str], fingerprint: str):
        super().__init__(values, stimulus_ids, {})
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint


def wanted_spaces(encoder: Encoder) -> list[Wanted]:
    """Every feature space that an encoder or a member of it reads, labelled by its name.

    Different spaces of one name, which members of an ensemble may read, are labelled MEMBER/NAME.
    """
    found: list[Wanted] = []
    leaves = list(_leaves(encoder, ()))
    for path, source, size in leaves:
        alike = {known["fingerprint"] for other, known, _ in leaves if other[-1] == path[-1]}
        label = path[-1] if len(alike) == 1 else "/".join(part for part in path if part)
        tokens = math.prod(source["grid"]) if "grid" in source else 0
        text = source.get("source") or source.get("label") or ""
        space = Wanted(label, text, source["fingerprint"], size, tokens, source.get("pool", False))
        if space not in found:
            found.append(space)
    return found


def _leaves(encoder: Encoder, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any], int]]:
    """Where each space is read, what is remembered of it, and its size."""
    if isinstance(encoder, Ensemble):
        for name, member in encoder.members.items():
            yield from _leaves(member, (*path, name))
    elif isinstance(encoder, LinearEncoder):
        for source, band in zip(encoder._sources(), encoder.bands_, strict=True):
            yield (*path, band.name), source, len(band.mean)
    elif isinstance(encoder, TransformerEncoder):
        for source, known in zip(encoder._sources(), encoder.sources_, strict=True):
            yield (*path, known.name), source, math.prod(known.grid) * known.channels


def find_recipe(wanted: Wanted, extractors: dict[str, FeatureExtractor], device: str) -> Recipe:
    """How a space is computed; its extractor is taken from `extractors` by URI, or loaded into it.

    Raises
    ------
    MissingWeightsError : the model is not on this machine. InputError : a ``python:`` model, or features that were not
        made from pictures by a model and a layer alone.
    """
    uri, _, layer = wanted.source.rpartition(" ")
    if not uri:
        raise InputError("features of arrays, not of a model", remedy="Send features")
    extractor = extractors.get(uri)
    if extractor is None:
        extractor = extractors[uri] = FeatureExtractor.from_uri(uri, device, allow_python=False)
    for candidate in _candidates(wanted, extractor, layer):
        frames = dict.fromkeys((extractor.backbone.n_frames, candidate.n_frames))
        for dtype, n_frames in itertools.product(DTYPES, frames):
            if _fingerprint(candidate, dtype, n_frames) == wanted.fingerprint:
                return _with_dtype(candidate, dtype, extractors, uri, device)
    raise InputError(
        f"features of {uri}, layer {layer}, in a form that cannot be computed again from pictures, such as principal "
        "components of the training stimuli",
        remedy="Send features",
    )


def _candidates(wanted: Wanted, extractor: FeatureExtractor, layer: str) -> Iterator[Recipe]:
    for readout in [PROJECTED] if layer == PROJECTED else [name for name in READOUTS if name != PROJECTED]:
        try:
            shape = extractor.readout_shapes(extractor.resolve_layers([layer], readout), readout)[layer]
        except PenfieldError:
            continue
        yield from _framed(wanted, Recipe(extractor, layer, readout, None, None, shape))
        rows = 1 if wanted.pool or len(shape) == 1 else shape[0]
        width = wanted.size // rows
        # Principal components come from data; random projections of one width are all the same.
        if width * rows == wanted.size and 0 < width < shape[-1]:
            reduction = _projection(shape[-1], width)
            yield from _framed(wanted, Recipe(extractor, layer, readout, None, reduction, (*shape[:-1], width)))


@lru_cache(maxsize=8)
def _projection(n_features: int, k: int) -> Reduction:
    """As `random_projection`, which takes a second for a wide layer; layers of one width share it."""
    return random_projection(n_features, k)


def _framed(wanted: Wanted, still: Recipe) -> Iterator[Recipe]:
    """The recipe for pictures, and for clips of as many frames as the size tells."""
    if wanted.fits(still.shape):
        yield still
    one = math.prod(still.shape)
    if still.extractor.modality == "image" and not wanted.pool and wanted.size % one == 0 and wanted.size > one:
        n = wanted.size // one
        shape = (n * still.shape[0], *still.shape[1:]) if len(still.shape) == 2 else (n, *still.shape)
        yield Recipe(still.extractor, still.layer, still.readout, n, still.reduction, shape)


def _fingerprint(recipe: Recipe, dtype: str, n_frames: int | None) -> str:
    extractor = recipe.extractor
    attrs = {
        "uri": extractor.uri,
        "weights": extractor.weights,
        "preprocessing": extractor.backbone.preprocessing,
        "compute_dtype": dtype,
        "n_frames": n_frames,
        "layer": recipe.layer,
        "readout": recipe.readout,
        "reduction": recipe.reduction and recipe.reduction.fingerprint(),
        "grid": _grid(recipe) if recipe.readout == TOKENS else None,
    }
    return Features(np.empty((1, *recipe.shape), np.float32), ["any"], attrs).fingerprint()


def _grid(recipe: Recipe) -> list[int]:
    grid = list(recipe.extractor.grid(recipe.layer) or [])
    n = recipe.shape[0] // math.prod(grid)
    return [n, *grid] if grid and n > 1 else grid


def _with_dtype(recipe: Recipe, dtype: str, extractors: dict[str, FeatureExtractor], uri: str, device: str) -> Recipe:
    if dtype == recipe.extractor.dtype:
        return recipe
    key = f"{uri} {dtype}"
    if key not in extractors:
        extractors[key] = FeatureExtractor.from_uri(uri, device, dtype, allow_python=False)
    r = recipe
    return Recipe(extractors[key], r.layer, r.readout, r.n_frames, r.reduction, r.shape)


def describe_space(wanted: Wanted, found: Recipe | PenfieldError) -> FeatureSpace:
    """What is told of a space."""
    uri, _, layer = wanted.source.rpartition(" ")
    if isinstance(found, Recipe):
        return FeatureSpace(wanted.label, uri, layer, found.readout, found.shape, wanted.fingerprint)
    # A URI says that pictures can be given, which they cannot.
    return FeatureSpace(wanted.label, "", layer, "", wanted.shape, wanted.fingerprint, str(found))
