"""One number about pictures with what it takes to judge it: its interval, its null, and what could not be measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recordings.errors import ShapeError
from recordings.statistics import Null, bootstrap_interval


@dataclass(frozen=True)
class Measure:
    """A score of reconstructions.

    Attributes
    ----------
    value : the score; NaN where it is undefined for every picture.
    interval : bootstrap interval over pictures, None with fewer than two pictures that have a value.
    values : (n,) the same for each picture, NaN where undefined; None for a score of the set as a whole.
    null : scores with the pictures shuffled. chance : what guessing reaches.
    n_undefined : pictures without a value. n_tied : comparisons that were ties, and so counted as failures.
    """

    value: float
    interval: tuple[float, float] | None = None
    values: np.ndarray | None = None
    null: Null | None = None
    chance: float | None = None
    n_undefined: int = 0
    n_tied: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is undefined is absent."""
        found: dict[str, Any] = {"n_undefined": self.n_undefined, "n_tied": self.n_tied}
        if np.isfinite(self.value):
            found["value"] = self.value
        if self.interval is not None:
            found |= {"low": self.interval[0], "high": self.interval[1]}
        if self.chance is not None:
            found["chance"] = self.chance
        if self.null is not None:
            low, high = np.quantile(self.null.scores, (0.025, 0.975))
            found |= {"shuffled": self.null.mean, "shuffled_low": float(low), "shuffled_high": float(high)}
            found |= {"shuffled_standard_error": self.null.standard_error, "p_value": self.null.p_value}
        return found


@dataclass(frozen=True)
class Resampling:
    """How often pictures are permuted (0: no null) and resampled (0: no interval), and by which seed."""

    n_permutations: int = 200
    n_bootstrap: int = 1000
    seed: int = 0

    def mean(self, values: np.ndarray, matrix: np.ndarray | None = None, **fields: Any) -> Measure:
        """Measure that is the mean of `values` (n,), NaN left out and counted.

        `matrix` (n, n) holds the value that reconstruction j would get as a picture of stimulus i; its diagonal is
        `values`, its permutations are the null.
        """
        values = np.asarray(values, np.float64)
        usable = values[np.isfinite(values)]
        value = float(usable.mean()) if len(usable) else float("nan")
        return Measure(
            value,
            self.interval(lambda rows: float(usable[rows].mean()), len(usable)),
            values,
            self._null(matrix, value),
            n_undefined=int(len(values) - len(usable)),
            **fields,
        )

    def interval(self, statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float] | None:
        """Percentile interval of a statistic of resampled pictures."""
        if n < 2 or not self.n_bootstrap:
            return None
        return bootstrap_interval(statistic, n, n_resamples=self.n_bootstrap, seed=self.seed)

    def _null(self, matrix: np.ndarray | None, observed: float) -> Null | None:
        if matrix is None or not self.n_permutations or not np.isfinite(observed):
            return None
        n, rng = len(matrix), np.random.default_rng(self.seed)
        columns = np.arange(n)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice")
            scores = [np.nanmean(matrix[rng.permutation(n), columns]) for _ in range(self.n_permutations)]
        defined = np.array([score for score in scores if np.isfinite(score)])
        return Null(defined, observed) if len(defined) > 1 else None


def difference(first: Measure, second: Measure, resampling: Resampling | None = None) -> Measure:
    """The first score less the second on the same pictures, paired, over those for which both are defined.

    Raises
    ------
    ShapeError : scores of other numbers of pictures, or without a value for each.
    """
    if first.values is None or second.values is None or len(first.values) != len(second.values):
        raise ShapeError("scores that have no value for each of the same pictures cannot be compared in pairs")
    return (resampling or Resampling()).mean(first.values - second.values)
