"""Correlation of decoded rows with candidate rows, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from encoders import Features
from recordings.errors import ConstantUnitError, MismatchedIdsError, NotFiniteError, ShapeError
from recordings.statistics import unit_rows

_BLOCK_BYTES = 128 * 2**20


def correlations(
    decoded: np.ndarray,
    candidates: np.ndarray | Features,
    *,
    mean: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """Pearson r across features of each decoded row with each candidate, (row, candidate) float32.

    Parameters
    ----------
    decoded : (row, feature). candidates : (candidate, ...), flattened behind the first axis; `Features` are read in
        blocks.
    mean, scale : (feature,) of the training stimuli: both sides are standardised with them first, so that what all
        stimuli share does not count.

    Raises
    ------
    ShapeError : another number of features. NotFiniteError : NaN or infinity.
    ConstantUnitError : a row that does not vary, so that it correlates with nothing.
    """
    rows = _checked_rows(np.asarray(decoded), mean, scale, "decoded row")
    found = np.empty((len(rows), len(candidates)), np.float32)
    width = 8 * max(int(np.prod(candidates.shape[1:])), 1)
    step = max(1, _BLOCK_BYTES // width)
    for start in range(0, len(candidates), step):
        here = slice(start, start + step)
        block = candidates.read(here) if isinstance(candidates, Features) else np.asarray(candidates[here])
        block = block.reshape(len(block), -1)
        if block.shape[1] != rows.shape[1]:
            raise ShapeError(
                f"candidates of {block.shape[1]} features for decoded rows of {rows.shape[1]}",
                remedy="Give candidates from the layer and read-out that the decoder was fitted on",
            )
        found[:, here] = rows @ _checked_rows(block, mean, scale, "candidate", start).T
    return found


def candidate_names(candidates: Any, candidate_ids: Sequence[str] | None) -> np.ndarray:
    """Stimulus ids of the candidates, (candidate,) object: those given, else those of `Features`.

    Raises
    ------
    MismatchedIdsError : an array without ids, or with another number of them.
    """
    if candidate_ids is None and isinstance(candidates, Features):
        candidate_ids = list(candidates.stimulus_ids)
    if candidate_ids is None or len(candidate_ids) != len(candidates):
        raise MismatchedIdsError(
            f"{0 if candidate_ids is None else len(candidate_ids)} stimulus ids for {len(candidates)} candidates",
            remedy="Give candidate_ids, or candidates as Features",
        )
    return np.array([str(i) for i in candidate_ids], object)


def _checked_rows(
    values: np.ndarray, mean: np.ndarray | None, scale: np.ndarray | None, what: str, first: int = 0
) -> np.ndarray:
    values = values.astype(np.float64)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise NotFiniteError(f"{what} {first + int(bad.argmax())} has NaN or infinite features")
    values = values if mean is None else values - mean
    values = values if scale is None else values / scale
    rows, flat = unit_rows(values)
    if flat.any():
        raise ConstantUnitError(
            f"{what} {first + int(flat.argmax())} does not vary across features ({int(flat.sum())} such rows)",
            remedy="Leave it out: it correlates with nothing",
        )
    return rows
