"""Standardisation per session, learnt on the training part alone."""

from __future__ import annotations

from os import PathLike

import numpy as np
import pandas as pd

from .errors import MismatchedIdsError
from .recording import Recording

# Attribute of a recording that says by what it is standardised.
STANDARDISED = "standardised"


class SessionScaler:
    """Remove each session's mean and scale each session to unit variance, neuroid by neuroid.

    Attributes
    ----------
    means_, stds_ : one array ([time,] neuroid) a session, float32; a constant neuroid keeps its scale of 1.
    """

    means_: dict[object, np.ndarray]
    stds_: dict[object, np.ndarray]

    def fit(self, recording: Recording) -> SessionScaler:
        """Learn means and standard deviations from the training part, session by session."""
        sessions = recording.presentation("session")
        self.means_, self.stds_ = {}, {}
        for session in pd.unique(sessions):
            mean, std = _moments(recording.take(np.flatnonzero(sessions == session)))
            self.means_[session] = mean
            self.stds_[session] = np.where(std > 0, std, np.float32(1))
        return self

    def transform(self, recording: Recording, path: str | PathLike[str] | None = None) -> Recording:
        """Standardise with what `fit` learnt; with `path`, block by block on disk.

        The result says so in its attribute ``standardised``, so that a model refuses responses of another scale.

        Raises
        ------
        MismatchedIdsError : a session that the training part does not have.
        """
        self.check_sessions(recording)
        sessions = recording.presentation("session")

        def scale(values: np.ndarray, rows: slice) -> np.ndarray:
            means = np.stack([self.means_[s] for s in sessions[rows]])
            return (values - means) / np.stack([self.stds_[s] for s in sessions[rows]])

        return recording.map_rows(scale, path, attrs={STANDARDISED: "session"})

    def check_sessions(self, recording: Recording) -> None:
        """Raise `MismatchedIdsError` if a session of the recording is not in the training part."""
        sessions = recording.presentation("session")
        unknown = [s for s in pd.unique(sessions) if s not in self.means_]
        if unknown:
            raise MismatchedIdsError(
                f"session {unknown[0]} has no training data to learn its scale from",
                remedy="Hold out stimuli instead of sessions, or standardise per run beforehand",
            )


def _moments(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    total = count = 0
    for block in recording.blocks():
        total = total + block.sum(0, dtype=np.float64)
        count += len(block)
    mean = total / count
    squares = sum(((block - mean) ** 2).sum(0) for block in recording.blocks())
    return np.asarray(mean, np.float32), np.sqrt(squares / count).astype(np.float32)
