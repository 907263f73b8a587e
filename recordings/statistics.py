"""Correlations by column, nulls by shuffling and intervals by bootstrap, over scipy.stats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .errors import ShapeError


def correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r of matching columns, (n, m) and (n, m) to (m,) float64; NaN where a column is constant."""
    x, y = _standardised(x), _standardised(y)
    if x.shape != y.shape:
        raise ShapeError(f"columns of shape {x.shape} and {y.shape} cannot be correlated")
    return np.einsum("ij,ij->j", x, y)


def r2_score(observed: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Coefficient of determination by column, 1 - SS_res / SS_tot, (m,) float64; NaN where `observed` is constant."""
    residual = ((observed - predicted).astype(np.float64) ** 2).sum(0)
    total = ((observed - observed.mean(0, dtype=np.float64)) ** 2).sum(0)
    return 1 - residual / np.where(total > 0, total, np.nan)


def unit_rows(values: np.ndarray, *, centred: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, p) of unit length, whose products are Pearson r, or without `centred` cosines.

    Returns
    -------
    (n, p) float64, and (n,) bool, which rows have no direction and are NaN: that do not vary or, not centred, are zero.
    """
    values = np.asarray(values, np.float64)
    size = np.abs(values).max(1, initial=0) if centred else np.zeros(len(values))
    values = values - values.mean(1, keepdims=True) if centred else values
    norm = np.linalg.norm(values, axis=1)
    # A spread at the level of rounding is no spread.
    flat = norm <= 1e-7 * size * np.sqrt(values.shape[1])
    return values / np.where(flat, np.nan, norm)[:, None], flat


def _standardised(columns: np.ndarray) -> np.ndarray:
    # Unit-norm columns; a spread at the level of rounding counts as constant.
    columns = np.asarray(columns, np.float64)
    centred = columns - columns.mean(0)
    norm = np.sqrt((centred**2).sum(0))
    flat = norm <= 1e-7 * np.abs(columns).max(0, initial=0) * np.sqrt(len(columns))
    return centred / np.where(flat, np.nan, norm)


@dataclass(frozen=True)
class Null:
    """Scores of shuffled data.

    Attributes
    ----------
    scores : (n_shuffles,) one mean score a shuffle.
    observed : the score of the data as they are.
    """

    scores: np.ndarray
    observed: float

    @property
    def mean(self) -> float:
        """Mean over shuffles."""
        return float(self.scores.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of that mean."""
        return float(self.scores.std(ddof=1) / np.sqrt(len(self.scores)))

    @property
    def p_value(self) -> float:
        """Share of shuffles at or above the observed score, counting the data themselves (Phipson & Smyth 2010)."""
        return float((1 + (self.scores >= self.observed).sum()) / (1 + len(self.scores)))


def shuffled_correlation(
    predicted: np.ndarray,
    observed: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    n: int = 100,
    seed: int = 0,
) -> Null:
    """Mean correlation by column when the rows (stimuli) of the prediction are shuffled.

    Parameters
    ----------
    predicted, observed : (stimulus, neuroid).
    weights : (neuroid,) factor of each column, such as 1 / sqrt(NC); NaN or 0 leaves a column out.
    n, seed : number of shuffles and their seed.
    """
    p, o = _standardised(predicted), _standardised(observed)
    weights = np.ones(p.shape[1]) if weights is None else np.nan_to_num(weights)
    use = (weights > 0) & np.isfinite(p[0]) & np.isfinite(o[0])
    p, o = p[:, use], o[:, use] * weights[use] / max(use.sum(), 1)
    return _shuffled(p @ o.T, 0.0, n, seed)


def shuffled_r2(
    predicted: np.ndarray,
    observed: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    n: int = 100,
    seed: int = 0,
) -> Null:
    """Mean R2 by column when the rows (stimuli) of the prediction are shuffled; arguments of `shuffled_correlation`."""
    mean = observed.mean(0, dtype=np.float64)
    p, o = predicted - mean, observed - mean
    weights = np.ones(p.shape[1]) if weights is None else np.nan_to_num(weights)
    total = (o**2).sum(0)
    use = (weights > 0) & (total > 0)
    p, o, weights = p[:, use], o[:, use], weights[use] / max(use.sum(), 1)
    # R2 = (2 sum(p o) - sum(p^2)) / total, of which only the first sum depends on the pairing.
    fixed = -float((weights * (p**2).sum(0) / total[use]).sum())
    return _shuffled(p @ (2 * o * weights / total[use]).T, fixed, n, seed)


def _shuffled(pairs: np.ndarray, fixed: float, n: int, seed: int) -> Null:
    # One matrix holds the part of the score of every pairing of a predicted row with an observed row.
    rows, rng = np.arange(len(pairs)), np.random.default_rng(seed)
    scores = np.array([pairs[rng.permutation(len(pairs)), rows].sum() for _ in range(n)])
    return Null(scores + fixed, float(pairs[rows, rows].sum()) + fixed)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    level: float = 0.95,
    n_resamples: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic of resampled items.

    Parameters
    ----------
    statistic : maps row numbers (n,), drawn with replacement, to a number.
    n : how many items there are. level : coverage.
    """
    result = stats.bootstrap(
        (np.arange(n),),
        statistic,
        n_resamples=n_resamples,
        vectorized=False,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
