"""How the features that an encoder was fitted on are computed again from pictures, as its artifact tells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from encoders import Encoder, Ensemble, FeatureExtractor, Features, TransformerEncoder
from encoders.features.reduction import Reduction, random_projection
from encoders.linear import LinearEncoder
from recordings.errors import ArtifactError, InputError, PenfieldError

from .description import FeatureSpace


@dataclass(frozen=True)
class Wanted:
    """A feature space as an encoder remembers it.

    Attributes
    ----------
    label : name under which requests give it.
    space : `Features.space` of the fit; None where the artifact does not hold it.
    shape : of one stimulus' features, as far as it is known. size : numbers a stimulus, or of one token where they are
        averaged.
    grid : whether the tokens stand on a grid, so that their number is fixed. pool : whether tokens are averaged.
    """

    label: str
    fingerprint: str
    space: Mapping[str, Any] | None
    shape: tuple[int, ...]
    size: int
    grid: bool = False
    pool: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether features of one stimulus may have this shape."""
        if self.pool:
            return len(shape) == 2 and shape[1] == self.size
        return math.prod(shape) == self.size and (not self.grid or tuple(shape) == self.shape)


@dataclass(frozen=True)
class Recipe:
    """How to compute a feature space from pictures.

    Attributes
    ----------
    shape : of one stimulus' features. clip : frames of each stimulus; 0 for pictures.
    """

    extractor: FeatureExtractor
    layer: str
    readout: str
    n_frames: int | None
    reduction: Reduction | None
    shape: tuple[int, ...]
    clip: int

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
    found: dict[str, Wanted] = {}
    leaves = list(_leaves(encoder, ()))
    for path, source, size in leaves:
        alike = {known["fingerprint"] for other, known, _ in leaves if other[-1] == path[-1]}
        label = path[-1] if len(alike) == 1 else "/".join(part for part in path if part)
        grid, pool, space = source.get("grid"), source.get("pool", False), source.get("space")
        if space is not None:
            shape = tuple(space["shape"])
        else:
            tokens = math.prod(grid) if grid else 1
            shape = (tokens, size // tokens) if grid or pool else (size,)
        found.setdefault(label, Wanted(label, source["fingerprint"], space, shape, size, grid is not None, pool))
    return list(found.values())


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


def find_recipe(wanted: Wanted, extractors: dict[tuple[str, str], FeatureExtractor], device: str) -> Recipe:
    """How a space is computed; its extractor is taken from `extractors` by URI and dtype, or loaded into it.

    Raises
    ------
    MissingWeightsError : the model is not on this machine. ArtifactError : it is another one than that of the fit.
    InputError : a ``python:`` model, or features that a model alone does not give.
    """
    if wanted.space is None or not wanted.space.get("uri"):
        raise InputError("the model does not hold how its features are made", remedy="Send features")
    space = dict(wanted.space)
    uri, dtype, layer, readout = (space[name] for name in ("uri", "compute_dtype", "layer", "readout"))
    extractor = extractors.get((uri, dtype))
    if extractor is None:
        extractor = extractors[uri, dtype] = FeatureExtractor.from_uri(uri, device, dtype, allow_python=False)
    layers = extractor.resolve_layers([layer], readout)
    plain = extractor.readout_shapes(layers, readout)[layer]
    reduction = _reduction(space["reduction"], plain[-1])
    of_here = {"weights": extractor.weights, "preprocessing": extractor.backbone.preprocessing}
    values = np.empty((1, *space["shape"]), np.float32)
    if Features(values, ["any"], space | of_here).fingerprint() != wanted.fingerprint:
        raise ArtifactError(
            f"{uri} has other weights here, or other preprocessing, than when the model was fitted",
            remedy="Install what it was fitted with, or send features",
        )
    one = (*plain[:-1], reduction.components.shape[0]) if reduction is not None else plain
    clip = extractor.backbone.n_frames or 0
    if extractor.modality == "image" and wanted.shape != one:
        clip = math.prod(wanted.shape) // math.prod(one)
    return Recipe(extractor, layer, readout, space["n_frames"], reduction, wanted.shape, clip)


def _reduction(known: str | None, n_features: int) -> Reduction | None:
    """The map of a fit, from its `Reduction.fingerprint`; random ones of one width are all the same."""
    if known is None:
        return None
    kind, _, k = known.partition(" ")[0].partition(":")
    if kind == "srp":
        found = _projection(n_features, int(k))
        if found.fingerprint() == known:
            return found
    raise InputError(
        f"its features went through {known.partition(' ')[0]}, which the model does not hold", remedy="Send features"
    )


@lru_cache(maxsize=8)
def _projection(n_features: int, k: int) -> Reduction:
    """As `random_projection`, which takes a second for a wide layer; layers of one width share it."""
    return random_projection(n_features, k)


def describe_space(wanted: Wanted, found: Recipe | PenfieldError) -> FeatureSpace:
    """What is told of a space."""
    space = wanted.space or {}
    layer = str(space.get("layer") or "")
    if isinstance(found, Recipe):
        return FeatureSpace(wanted.label, space["uri"], layer, found.readout, found.shape, wanted.fingerprint)
    # A URI says that pictures can be given, which they cannot.
    return FeatureSpace(wanted.label, "", layer, "", wanted.shape, wanted.fingerprint, str(found))
