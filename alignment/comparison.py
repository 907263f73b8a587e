"""Comparing dissimilarity matrices: similarity, its bootstrap over stimuli, and its null by permuted stimuli.

Every comparison here is the inner product of two unit vectors: Spearman's of centred ranks, Pearson's of centred
dissimilarities, the cosine of the dissimilarities themselves.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from recordings.errors import ConstantUnitError, UnknownNameError

Compare = Literal["spearman", "pearson", "cosine"]
COMPARISONS: tuple[Compare, ...] = ("spearman", "pearson", "cosine")
_CHUNK_BYTES = 64 * 2**20


def check_comparison(compare: str) -> None:
    """Raise `UnknownNameError` unless there is a comparison of that name."""
    if compare not in COMPARISONS:
        raise UnknownNameError(f"no comparison {compare!r}", remedy=f"There are: {', '.join(COMPARISONS)}")


def unit_vectors(dissimilarities: np.ndarray, compare: Compare) -> np.ndarray:
    """Unit vectors (..., pair) float64 whose inner product is the comparison.

    Raises
    ------
    ConstantUnitError : all dissimilarities of an RDM are the same, so that nothing can be compared with it.
    """
    values = np.asarray(dissimilarities, np.float64)
    if compare == "spearman":
        values = rankdata(values, axis=-1)
    if compare != "cosine":
        values = values - values.mean(-1, keepdims=True)
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    if (norm <= 1e-9 * max(float(np.abs(dissimilarities).max(initial=0)), 1e-300)).any():
        raise ConstantUnitError("all dissimilarities of an RDM are the same; it cannot be compared")
    return values / norm


def bootstrap_comparisons(
    model: np.ndarray, rdms: np.ndarray, compare: Compare, n_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Comparison of a model with each RDM over resampled stimuli, (n_resamples, rdm) float64.

    Stimuli are drawn with replacement; the pairs that a repeated stimulus makes with itself, whose distance is zero by
    construction, are dropped (Nili et al. 2014). A pair drawn m times weighs m: ranks and moments are those of the
    list in which it stands m times, without forming that list. NaN where a resample leaves nothing to compare.

    Parameters
    ----------
    model : (pair,). rdms : (rdm, pair).
    """
    n_pairs = model.shape[-1]
    n = round((1 + np.sqrt(1 + 8 * n_pairs)) / 2)
    first, second = np.triu_indices(n, 1)
    orders = [_Order(v) for v in (model, *rdms)] if compare == "spearman" else []
    chunk = max(1, _CHUNK_BYTES // (8 * n_pairs))
    found = []
    for start in range(0, n_resamples, chunk):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(chunk, n_resamples - start))
        weights = (times[:, first] * times[:, second]).astype(np.float64)
        columns = [order.ranks(weights) for order in orders] or [np.asarray(v, np.float64) for v in (model, *rdms)]
        found.append(np.stack([_weighted(columns[0], y, weights, compare) for y in columns[1:]], axis=1))
    return np.concatenate(found)


def permuted_scores(
    model: np.ndarray, rdms: np.ndarray, compare: Compare, n_permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Mean comparison over RDMs with the model's stimuli permuted, (n_permutations,) float64.

    Parameters
    ----------
    model : (pair,). rdms : (rdm, pair).
    """
    square = squareform(unit_vectors(model, compare), checks=False)
    target = squareform(unit_vectors(rdms, compare).mean(0), checks=False)
    scores = np.empty(n_permutations)
    for i in range(n_permutations):
        order = rng.permutation(len(square))
        scores[i] = np.einsum("ij,ij->", square[np.ix_(order, order)], target) / 2
    return scores


class _Order:
    """Sorted order of one RDM's dissimilarities, from which weighted ranks follow without sorting again."""

    def __init__(self, dissimilarities: np.ndarray):
        self.order = np.argsort(dissimilarities, kind="stable")
        ordered = dissimilarities[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.group = np.empty(len(ordered), int)
        self.group[self.order] = np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]])

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """Mid-ranks (resample, pair) of the list in which each pair stands `weights` times."""
        tied = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        middle = np.cumsum(tied, axis=1) - (tied - 1) / 2
        return middle[:, self.group]


def _weighted(x: np.ndarray, y: np.ndarray, weights: np.ndarray, compare: Compare) -> np.ndarray:
    if compare != "cosine":
        total = weights.sum(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            x = x - (weights * x).sum(1, keepdims=True) / total
            y = y - (weights * y).sum(1, keepdims=True) / total
    xx, yy, xy = ((weights * a * b).sum(1) for a, b in ((x, x), (y, y), (x, y)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return xy / np.sqrt(xx * yy)
