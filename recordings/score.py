"""`Score`: a value per neuroid with its ceiling, a centre, an interval and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .ceilings import MINIMUM_CEILING
from .coordinates import memberships, roi_names
from .errors import ShapeError, UnknownNameError
from .recording import Recording
from .statistics import Null, bootstrap_interval, correlate, r2_score, shuffled_correlation, shuffled_r2

METRICS = {"r": correlate, "r2": r2_score}
_SHUFFLED = {"r": shuffled_correlation, "r2": shuffled_r2}


@dataclass(frozen=True)
class Score:
    """How well predictions match a recording.

    Attributes
    ----------
    values : (neuroid,) raw score; NaN where it is undefined (a constant neuroid).
    ceiling : (neuroid,) noise ceiling as a fraction of variance, or None where there is none.
    neuroids : neuroid coordinates, column name to (neuroid,).
    metric : "r" (Pearson) or "r2".
    interval : bootstrap interval of `center` over stimuli, or None.
    provenance : what is needed to compute the score again.
    """

    values: np.ndarray
    ceiling: np.ndarray | None
    neuroids: Mapping[str, np.ndarray]
    metric: str = "r"
    interval: tuple[float, float] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def mask(self) -> np.ndarray:
        """(neuroid,) bool: score defined, and ceiling at least `MINIMUM_CEILING` where there is one."""
        return _usable(self.values, self.ceiling)

    @property
    def normalised(self) -> np.ndarray:
        """(neuroid,) r / sqrt(NC) or R2 / NC, NaN where masked; raw where there is no ceiling. Not clipped."""
        return _normalise(self.values, self.ceiling, self.metric)

    @property
    def center(self) -> float:
        """Mean of `normalised` over unmasked neuroids."""
        return _mean(self.normalised)

    def by_roi(self) -> dict[str, float]:
        """Mean of `normalised` in each region."""
        members = memberships(pd.Series(self.neuroids["roi"]))
        return {name: _mean(self.normalised[members[name]]) for name in roi_names(self.neuroids)}

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values: centre, interval, counts and provenance; not the value of each neuroid."""
        summary: dict[str, Any] = {
            "metric": self.metric,
            "center": self.center,
            "normalised": self.ceiling is not None,
            "n_neuroids": len(self.values),
            "n_masked": int((~self.mask).sum()),
            "provenance": self.provenance,
        }
        if self.interval is not None:
            summary |= {"low": self.interval[0], "high": self.interval[1]}
        if "roi" in self.neuroids:
            summary["roi"] = self.by_roi()
        return summary


def score_predictions(
    predicted: np.ndarray,
    observed: Recording,
    *,
    ceiling: np.ndarray | None = None,
    metric: str = "r",
    n_bootstrap: int = 200,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Score:
    """Compare predictions with a recording, neuroid by neuroid.

    Parameters
    ----------
    predicted : (presentation, neuroid), rows as in `observed`.
    observed : test responses, best averaged over repetitions; times are not accepted.
    ceiling : (neuroid,) fraction of variance, from `noise_ceiling`; by default the coordinate ``noise_ceiling`` of
        the recording, else none.
    metric : "r" or "r2". n_bootstrap : resamples of stimuli for the interval; 0 leaves it out.

    Raises
    ------
    ShapeError : shapes differ. UnknownNameError : no such metric.
    """
    if metric not in METRICS:
        raise UnknownNameError(f"no metric {metric!r}", remedy=f"There are: {', '.join(METRICS)}")
    responses = observed.values
    if predicted.shape != responses.shape:
        raise ShapeError(f"predictions of shape {predicted.shape} for responses of shape {responses.shape}")
    neuroids = {str(name): column.to_numpy() for name, column in observed.neuroids.items()}
    if ceiling is None and "noise_ceiling" in neuroids:
        ceiling = neuroids["noise_ceiling"].astype(np.float32)

    def center(rows: np.ndarray) -> float:
        return _mean(_normalise(METRICS[metric](responses[rows], predicted[rows]), ceiling, metric))

    interval = None
    if n_bootstrap:
        interval = bootstrap_interval(center, len(responses), n_resamples=n_bootstrap, seed=seed)
    values = METRICS[metric](responses, predicted)
    return Score(values, ceiling, neuroids, metric, interval, dict(provenance or {}))


def shuffled_score(score: Score, predicted: np.ndarray, observed: Recording, *, n: int = 100, seed: int = 0) -> Null:
    """What `score.center` becomes when stimuli are shuffled: same metric, ceiling and neuroids.

    Parameters
    ----------
    predicted, observed : (presentation, neuroid), as `score_predictions` was given them.
    n, seed : number of shuffles and their seed.
    """
    factors = _normalise(np.ones_like(score.values), score.ceiling, score.metric)
    weights = np.where(score.mask, factors, 0)
    return _SHUFFLED[score.metric](predicted, observed.values, weights=weights, n=n, seed=seed)


def _usable(values: np.ndarray, ceiling: np.ndarray | None) -> np.ndarray:
    usable = np.isfinite(values)
    return usable if ceiling is None else usable & (np.nan_to_num(ceiling) >= MINIMUM_CEILING)


def _normalise(values: np.ndarray, ceiling: np.ndarray | None, metric: str) -> np.ndarray:
    if ceiling is None:
        return values
    reachable = np.sqrt(ceiling) if metric == "r" else ceiling
    return np.where(_usable(values, ceiling), values / np.where(reachable > 0, reachable, np.nan), np.nan)


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
