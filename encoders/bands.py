"""Bands: feature spaces brought to one scale, with what is needed to recognise and repeat each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recordings.errors import InputError, ShapeError

from .features import Features
from .solvers import delay

_COLUMNS = 2048
_ROWS = 64


@dataclass(frozen=True)
class Band:
    """One feature space as a linear encoder sees it: flattened, centred, scaled, and delayed.

    Attributes
    ----------
    name : how the caller named it.
    fingerprint : of the feature space, checked at predict.
    source : uri and layer, for the reader. space : `Features.space`, from which the features can be made again.
    mean, scale : (n_features,) float32, learnt on the training presentations.
    delays : samples by which copies are shifted; empty for none.
    pool : whether tokens are averaged, not laid side by side.
    """

    name: str
    fingerprint: str
    source: str
    mean: np.ndarray
    scale: np.ndarray
    delays: tuple[int, ...]
    pool: bool = False
    space: Mapping[str, Any] | None = None

    def design(
        self, features: Features, stimulus_ids: Sequence[str] | np.ndarray, runs: np.ndarray | None
    ) -> np.ndarray:
        """The band's columns for a sequence of stimuli, (n, delays x features) float32.

        `MismatchedIdsError` if a stimulus has no features.
        """
        return self.apply(read_flat(features, stimulus_ids, self.pool), runs)

    def apply(self, X: np.ndarray, runs: np.ndarray | None) -> np.ndarray:
        """The columns of raw features, (n, n_features) float32, which are overwritten."""
        X -= self.mean
        X /= self.scale
        return delay(X, self.delays, runs) if self.delays else X


def fit_band(
    name: str,
    features: Features,
    X: np.ndarray,
    *,
    standardise: bool,
    share: bool,
    delays: tuple[int, ...],
    pool: bool = False,
) -> Band:
    """Learn a band's mean and scale from the features of the training presentations, X (n, n_features).

    Parameters
    ----------
    standardise : scale features to unit variance; constant ones keep their scale.
    share : divide by the root of the number of columns as well, so that bands of different widths start out alike.
    pool : whether X holds averages over tokens.
    """
    mean = X.mean(0, dtype=np.float64).astype(np.float32)
    scale = _spread(X) if standardise else np.ones_like(mean)
    if share:
        scale *= np.float32(np.sqrt(len(mean) * max(len(delays), 1)))
    source = " ".join(str(features.attrs[key]) for key in ("uri", "layer") if key in features.attrs)
    return Band(name, features.fingerprint(), source, mean, scale, delays, pool, features.space())


def named(features: Features | Mapping[str, Features]) -> dict[str, Features]:
    """Features by band name; a single feature space is a band without a name."""
    bands = dict(features) if isinstance(features, Mapping) else {"": features}
    if not bands:
        raise InputError("no features", where="features", remedy="Give features, or a mapping from names to features")
    return bands


def read_flat(features: Features, stimulus_ids: Sequence[str] | np.ndarray, pool: bool = False) -> np.ndarray:
    """Features of a sequence of stimuli, a fresh (n, n_features) float32 array.

    Tokens or times are laid side by side, or with `pool` averaged.

    Raises
    ------
    ShapeError : there are no tokens to average. MismatchedIdsError : a stimulus has no features.
    """
    if pool and len(features.shape) != 3:
        raise ShapeError(
            f"features of shape {features.shape} have no tokens to average",
            where="pool",
            remedy="Extract with readout='tokens' (--readout tokens)",
        )
    unique, position = np.unique(features.rows([str(i) for i in stimulus_ids]), return_inverse=True)
    if pool:
        # All tokens of all stimuli need not fit in memory.
        values = np.empty((len(unique), features.shape[2]), np.float32)
        for start in range(0, len(unique), _ROWS):
            values[start : start + _ROWS] = features.read(unique[start : start + _ROWS]).mean(1)
    else:
        values = features.read(unique)
    return values.reshape(len(unique), -1).astype(np.float32, copy=False)[position]


def _spread(X: np.ndarray) -> np.ndarray:
    """Standard deviations, (n_features,) float32, by blocks of columns; 1 where a feature is constant."""
    spread = np.empty(X.shape[1], np.float32)
    for start in range(0, X.shape[1], _COLUMNS):
        block = X[:, start : start + _COLUMNS].astype(np.float64)
        std = block.std(0)
        flat = std <= 1e-6 * np.abs(block).max(0)
        spread[start : start + _COLUMNS] = np.where(flat, 1, std)
    return spread


def to_config(band: Band) -> dict[str, Any]:
    """What of a band is text and numbers."""
    return {
        "name": band.name,
        "fingerprint": band.fingerprint,
        "source": band.source,
        "delays": list(band.delays),
        "pool": band.pool,
        "space": band.space,
    }
