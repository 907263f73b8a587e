"""A recording as a matrix for the solvers: read by neuroids, with the labels and the storage that a fit needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import numpy as np
import pandas as pd

from recordings import Recording
from recordings.errors import InputError, ShapeError
from recordings.storage import atomic_path


class Responses:
    """The responses of a recording, (presentation, neuroid), read when they are asked for.

    Raises
    ------
    ShapeError : the recording has time bins within presentations.
    """

    def __init__(self, recording: Recording) -> None:
        if "time" in recording.data.dims:
            raise ShapeError(
                "the recording has time bins within presentations",
                where="recording",
                remedy="Average over time or select one bin",
            )
        self.recording = recording
        self.shape = (len(recording), recording.n_neuroids)
        self.dtype = np.dtype(np.float32)
        self.chunks = recording.data.encoding.get("chunks")

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        return self.recording.read(*key)


def run_labels(recording: Recording) -> np.ndarray:
    """(presentation,) int: which run of which session; equal run numbers of two sessions are two runs."""
    pairs = pd.MultiIndex.from_arrays([recording.presentation("session"), recording.presentation("run")])
    return pairs.factorize()[0]


def without_nuisance(
    recording: Recording, nuisance: np.ndarray | None, mean: np.ndarray | None, coef: np.ndarray | None
) -> Recording:
    """Take off the part of nuisance regressors, (presentation, q), as a fit has learnt it.

    Parameters
    ----------
    mean, coef : (q,) and (q, neuroid) of the fit, None where it had no nuisance regressors.

    Raises
    ------
    InputError : regressors on one side only. ShapeError : another number of them.
    """
    if mean is None or coef is None or nuisance is None:
        if nuisance is not None or coef is not None:
            raise InputError("give nuisance regressors to both the fit and the score, or to neither", where="nuisance")
        return recording
    if np.shape(nuisance) != (len(recording), len(coef)):
        raise ShapeError(f"shape {np.shape(nuisance)} where {(len(recording), len(coef))} is needed", where="nuisance")
    centred = np.asarray(nuisance) - mean
    return recording.map_rows(lambda values, rows: values - (centred[rows] @ coef).astype(np.float32))


@contextmanager
def weights_on_disk(path: str | PathLike[str] | None, shape: tuple[int, int]) -> Iterator[np.ndarray | None]:
    """A float32 array to write weights to, memory-mapped to a .npy file that appears when all are written.

    Without a path it is None, which leaves weights in memory.
    """
    if path is None:
        yield None
        return
    with atomic_path(path) as part:
        weights = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        yield weights
        weights.flush()
