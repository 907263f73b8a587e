"""Cross-validation folds that never put one stimulus or run on both sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupKFold, KFold

from recordings.errors import InputError, LeakageError, ShapeError

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


def make_folds(n_samples: int, folds: int | Sequence[Fold], groups: ArrayLike | None = None) -> list[Fold]:
    """Turn a number of folds, or a list of folds, into checked (train, test) index arrays.

    Parameters
    ----------
    n_samples : number of rows of the design.
    folds : number of folds, or a list of (train, test) index arrays.
    groups : (n_samples,), optional
        Stimulus ids or runs. A number of folds then splits by group (`sklearn.model_selection.GroupKFold`); without
        groups it gives contiguous blocks, the safe choice for time series. A list of folds is checked against them.

    Raises
    ------
    InputError : fewer than two folds, more folds than groups, an empty side, or an index out of range.
    LeakageError : a row or a group stands on both sides of a fold.
    """
    labels = np.arange(n_samples) if groups is None else np.asarray(groups)
    if labels.shape != (n_samples,):
        raise ShapeError(
            f"{labels.shape} group labels for {n_samples} samples", where="groups", remedy="give one label a sample"
        )
    if isinstance(folds, (int, np.integer)):
        return _split(labels, int(folds), by_group=groups is not None)
    checked = [(np.asarray(train, dtype=np.intp), np.asarray(test, dtype=np.intp)) for train, test in folds]
    if not checked:
        raise InputError("no cross-validation folds", where="folds", remedy="give at least one (train, test) pair")
    for i, fold in enumerate(checked):
        _check_fold(i, fold, labels)
    return checked


def _split(labels: NDArray[np.generic], n_folds: int, by_group: bool) -> list[Fold]:
    n_groups = len(np.unique(labels))
    if not 2 <= n_folds <= n_groups:
        raise InputError(
            f"{n_folds} folds asked of {n_groups} {'groups' if by_group else 'samples'}",
            where="folds",
            remedy=f"choose between 2 and {n_groups}",
        )
    rows = np.zeros(len(labels))
    splitter = GroupKFold(n_folds) if by_group else KFold(n_folds)
    return list(splitter.split(rows, groups=labels if by_group else None))


def _check_fold(i: int, fold: Fold, labels: NDArray[np.generic]) -> None:
    where = f"fold {i}"
    for side, rows in zip(("training", "test"), fold, strict=True):
        if rows.ndim != 1 or rows.size == 0:
            raise InputError(f"empty {side} part", where=where, remedy="give every fold rows on both sides")
        if rows.min() < 0 or rows.max() >= len(labels):
            raise InputError(
                f"{side} rows reach {rows.min()} to {rows.max()}, outside the {len(labels)} samples", where=where
            )
    shared = np.intersect1d(labels[fold[0]], labels[fold[1]])
    if shared.size:
        raise LeakageError(
            f"{shared[0]!s} is in both the training and the test part",
            where=where,
            remedy="split by stimulus or run, never by presentation",
        )
