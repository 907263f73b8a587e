"""Representational dissimilarity matrices of features and responses, in blocks of stimuli."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from recordings.errors import (
    ConstantUnitError,
    DuplicateIdError,
    InputError,
    MismatchedIdsError,
    NotFiniteError,
    RepetitionError,
    UnknownNameError,
)
from recordings.events import OnEvent, Stop, report
from recordings.statistics import unit_rows

_BLOCK_BYTES = 128 * 2**20


class Rows(Protocol):
    """Something with one row a stimulus that is read in parts: `Features` or an averaged `Recording`."""

    @property
    def stimulus_ids(self) -> Any: ...

    def read(self, rows: Any = ..., /) -> np.ndarray: ...


class _Source(NamedTuple):
    ids: list[str]
    read: Callable[[np.ndarray], np.ndarray]


def rdm(
    source: np.ndarray | Rows,
    metric: str = "correlation",
    *,
    stimulus_ids: Sequence[str] | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> np.ndarray:
    """Dissimilarity of every pair of stimuli (Kriegeskorte, Mur & Bandettini 2008).

    Parameters
    ----------
    source : (stimulus, ...) array, `Features`, or a `Recording` averaged over repetitions; what is behind the first
        axis is flattened. Rows are read block by block and computed in float64.
    metric : "correlation" (1 - Pearson r across features), "cosine" (1 - cosine) or "sqeuclidean" (squared Euclidean
        distance), as `scipy.spatial.distance.pdist` defines them.
    stimulus_ids : rows to take, in this order, by their ids; by default all. Arrays have the ids "0", "1", ...

    Returns
    -------
    (pair,) float32, condensed as by `scipy.spatial.distance.squareform`.

    Raises
    ------
    ConstantUnitError : a stimulus whose features do not vary (correlation) or are all zero (cosine).
    NotFiniteError : NaN or infinity. RepetitionError : fewer than three stimuli.
    DuplicateIdError : a stimulus has several rows. MismatchedIdsError : an id that the source does not have.
    """
    if metric not in _PREPARE:
        raise UnknownNameError(f"no dissimilarity {metric!r}", remedy=f"There are: {', '.join(_PREPARE)}")
    ids, read = _rows(source)
    rows = np.arange(len(ids)) if stimulus_ids is None else _positions(ids, stimulus_ids)
    if len(rows) < 3:
        raise RepetitionError(f"{len(rows)} stimuli; an RDM needs at least three")

    def prepared(start: int) -> np.ndarray:
        block = rows[start : start + size]
        values = read(block).astype(np.float64)
        return _PREPARE[metric](values.reshape(len(block), -1), [ids[i] for i in block])

    size = max(1, _BLOCK_BYTES // (8 * max(read(rows[:1]).size, 1)))
    starts = range(0, len(rows), size)
    distances = np.empty(len(rows) * (len(rows) - 1) // 2, np.float32)
    for number, first in enumerate(starts):
        report(on_event, stop, "dissimilarities", number, len(starts))
        left = prepared(first)
        for second in starts[number:]:
            right = left if second == first else prepared(second)
            _store(distances, _DISTANCE[metric](left, right), first, second, len(rows))
    return distances


def category_rdm(labels: Sequence[Any]) -> np.ndarray:
    """Model RDM of a partition: 0 within a category and 1 across, (pair,) float32.

    Raises
    ------
    ConstantUnitError : all labels are the same, or all differ.
    """
    codes, _ = pd.factorize(np.asarray(labels))
    first, second = np.triu_indices(len(codes), 1)
    model = (codes[first] != codes[second]).astype(np.float32)
    if model.min(initial=1) == model.max(initial=0):
        raise ConstantUnitError("the labels put all stimuli in one category, or each in its own")
    return model


def _rows(source: np.ndarray | Rows) -> _Source:
    if isinstance(source, np.ndarray):
        if source.ndim < 2:
            raise InputError(f"values of shape {source.shape}", remedy="Give one row a stimulus")
        return _Source([str(i) for i in range(len(source))], lambda rows: source[rows])
    ids = [str(i) for i in source.stimulus_ids]
    twice = pd.Index(ids).duplicated()
    if twice.any():
        raise DuplicateIdError(
            f"stimulus {ids[int(np.flatnonzero(twice)[0])]!r} has several rows",
            remedy="Average repetitions first (Recording.average_repetitions)",
        )
    return _Source(ids, source.read)


def _positions(ids: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    rows = pd.Index(ids).get_indexer(pd.Index([str(i) for i in wanted]))
    if (rows < 0).any():
        missing = [str(i) for i, row in zip(wanted, rows, strict=True) if row < 0]
        raise MismatchedIdsError(
            f"{len(missing)} stimuli have no features or responses, first {missing[0]!r}",
            remedy="Stimuli are matched by id; check that both sides name them alike",
        )
    return rows


def _store(distances: np.ndarray, block: np.ndarray, first: int, second: int, n: int) -> None:
    for offset, row in enumerate(block):
        i = first + offset
        j = max(i + 1, second)
        if j < second + len(row):
            start = n * i - i * (i + 1) // 2 + j - i - 1
            distances[start : start + second + len(row) - j] = row[j - second :]


def _check_finite(values: np.ndarray, ids: Sequence[str]) -> None:
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise NotFiniteError(f"NaN or infinite features of stimulus {ids[int(bad.argmax())]!r}")


def _unit_length(values: np.ndarray, ids: Sequence[str], centred: bool, what: str) -> np.ndarray:
    _check_finite(values, ids)
    rows, flat = unit_rows(values, centred=centred)
    if flat.any():
        raise ConstantUnitError(
            f"the features of stimulus {ids[int(flat.argmax())]!r} {what} ({int(flat.sum())} such stimuli)",
            remedy="Leave these stimuli out, or use the metric 'sqeuclidean'",
        )
    return rows


def _correlated(values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    return _unit_length(values, ids, True, "do not vary")


def _directions(values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    return _unit_length(values, ids, False, "are all zero")


def _points(values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    _check_finite(values, ids)
    return values


def _angles(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.maximum(1 - left @ right.T, 0)


def _squares(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    # About the mean of one side, so that a large common offset does not cancel digits.
    left, right = left - right.mean(0), right - right.mean(0)
    lengths = (left**2).sum(1)[:, None] + (right**2).sum(1)
    return np.maximum(lengths - 2 * left @ right.T, 0)


_PREPARE = {"correlation": _correlated, "cosine": _directions, "sqeuclidean": _points}
_DISTANCE = {"correlation": _angles, "cosine": _angles, "sqeuclidean": _squares}
