"""Finite impulse response: features copied at several delays, never across the border of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recordings.errors import InputError, ShapeError


def delay(X: NDArray[np.floating], delays: Sequence[int], groups: ArrayLike | None = None) -> NDArray[np.floating]:
    """Stack copies of the features shifted by `delays` samples, so that ridge fits a haemodynamic response a feature.

    Row i of the copy at delay d is row i - d of X, or zero where that lies before the beginning (for negative delays,
    after the end) of the run that i belongs to (Nishimoto et al. 2011; Huth et al. 2016).

    Parameters
    ----------
    X : (n_samples, n_features), in temporal order; dtype is kept.
    delays : samples (repetition times), distinct integers.
    groups : (n_samples,), runs; each must be one contiguous block of rows. By default all rows are one run.

    Returns
    -------
    (n_samples, len(delays) * n_features): all features at the first delay, then all at the second, and so on.

    Raises
    ------
    InputError : no delays, repeated or fractional ones, or a run that is not contiguous.
    ShapeError : X is not a matrix or the runs have another length.
    """
    X = np.asarray(X)
    if X.ndim != 2:
        raise ShapeError(f"features of shape {X.shape}", where="X", remedy="give (n_samples, n_features)")
    shifts = _check_delays(delays)
    n_samples, n_features = X.shape
    out = np.zeros((n_samples, len(shifts), n_features), dtype=X.dtype)
    for start, end in _runs(n_samples, groups):
        for j, shift in enumerate(shifts):
            rows = np.arange(max(start, start + shift), min(end, end + shift))
            out[rows, j] = X[rows - shift]
    return out.reshape(n_samples, -1)


def _check_delays(delays: Sequence[int]) -> list[int]:
    shifts = [int(shift) for shift in delays]
    if not shifts or len(set(shifts)) < len(shifts) or any(a != b for a, b in zip(shifts, delays, strict=True)):
        raise InputError(
            f"delays {list(delays)}",
            where="delays",
            remedy="give distinct whole numbers of samples, such as 1, 2, 3, 4",
        )
    return shifts


def _runs(n_samples: int, groups: ArrayLike | None) -> list[tuple[int, int]]:
    """First and last-plus-one row of each run."""
    labels = np.zeros(n_samples, dtype=int) if groups is None else np.asarray(groups)
    if labels.shape != (n_samples,):
        raise ShapeError(f"{labels.shape} run labels for {n_samples} samples", where="groups")
    borders = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), n_samples]
    starts = labels[borders[:-1]]
    if len(np.unique(starts)) < len(starts):
        raise InputError(
            "a run is split into several blocks of rows", where="groups", remedy="sort the samples by run and time"
        )
    return list(pairwise(borders))
