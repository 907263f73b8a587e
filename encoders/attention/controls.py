"""Controls of what attention goes by: content, place, or neither; each gives what is scored like the original."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recordings.errors import InputError, UnknownNameError

from ..features import Features
from .encoder import TransformerEncoder
from .modules import Attention, GaussianField


class PermutedTokens(Features):
    """Features whose tokens are shuffled over the places of each stimulus: the same content, found nowhere.

    Values are read and shuffled when asked for. A stimulus's order draws from the seed and its id alone.
    """

    seed = 0

    def read(self, rows: Any = slice(None), *args: Any, **options: Any) -> np.ndarray:
        """Values of the given rows, shuffled over tokens; see `Features.read`."""
        values = super().read(rows, *args, **options)
        ids = np.atleast_1d(self.stimulus_ids[np.asarray(rows, int) if isinstance(rows, list) else rows])
        return np.stack([v[self._order(i, len(v))] for v, i in zip(values, ids, strict=True)]) if len(ids) else values

    def select(self, stimulus_ids: Sequence[str]) -> PermutedTokens:
        """The features of the given stimuli, in that order."""
        return permute_tokens(super().select(stimulus_ids), self.seed)

    def _order(self, stimulus_id: str, n: int) -> np.ndarray:
        return np.random.default_rng([self.seed, *stimulus_id.encode()]).permutation(n)


def permute_tokens(features: Features, seed: int = 0) -> PermutedTokens:
    """Features (stimulus, token, channel) with the tokens of each stimulus shuffled over its places.

    Raises
    ------
    InputError : features without tokens.
    """
    if len(features.shape) != 3:
        raise InputError(f"features of shape {features.shape} have no tokens", remedy="Extract with readout='tokens'")
    permuted = PermutedTokens(features._values, list(features.stimulus_ids), features.attrs)
    permuted._positions, permuted.seed = features._positions, seed
    return permuted


def without_position(encoder: TransformerEncoder) -> TransformerEncoder:
    """A copy that attends by content alone: no token knows its place. For the routings "roi" and "vertex".

    It is for scoring, not for keeping: read back from a folder, it would have its position code again.
    """
    other, routing = _copy(encoder)
    if not isinstance(routing, Attention):
        raise InputError(f"routing {encoder.routing!r} has no position code", remedy="Take routing roi or vertex")
    routing.position.zero_()
    return other


def with_uniform_attention(encoder: TransformerEncoder) -> TransformerEncoder:
    """A copy that weighs all places alike. For all routings but "gaussian"."""
    other, routing = _copy(encoder)
    if isinstance(routing, GaussianField):
        raise InputError("a Gaussian field is never even", remedy="Take another routing than gaussian")
    with torch.no_grad():
        if isinstance(routing, Attention):
            layers: Any = routing.layers
            for layer in layers:
                layer.query.weight.zero_()
                layer.query.bias.zero_()
        else:
            routing.logits.zero_()
    return other


def with_swapped_queries(encoder: TransformerEncoder, first: str, second: str) -> TransformerEncoder:
    """A copy in which two regions look where the other one did, and read it out as before.

    Raises
    ------
    UnknownNameError : no such region. InputError : a routing by neuroid.
    """
    other, routing = _copy(encoder)
    names = encoder.regions_.names
    if other.module_.by_neuroid:
        raise InputError(f"routing {encoder.routing!r} has no query a region", remedy="Take roi or spatial_roi")
    for name in (first, second):
        if name not in names:
            raise UnknownNameError(f"no region {name!r}", remedy=f"There are: {', '.join(names)}")
    queries = routing.query if isinstance(routing, Attention) else routing.logits
    pair = [names.index(first), names.index(second)]
    with torch.no_grad():
        queries[pair] = queries[pair[::-1]].clone()
    return other


def _copy(encoder: TransformerEncoder) -> tuple[TransformerEncoder, Any]:
    encoder._check_fitted()
    other = copy.copy(encoder)
    other.module_ = copy.deepcopy(encoder.module_)
    return other, other.module_.routing
