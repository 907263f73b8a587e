"""Responses as training targets: standardised by the training part, and split to choose the epoch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recordings import Recording, split_by_stimulus
from recordings.errors import ArtifactError, InputError, LeakageError, RepetitionError
from recordings.splits import Split, check_split

from ..responses import run_labels

_IN_MEMORY_BYTES = 2_000_000_000


class StandardisedResponses:
    """Responses of a recording, minus `mean`, over `scale`; held in memory where they take less than two gigabytes.

    Parameters
    ----------
    mean, scale : (neuroid,) float32.
    """

    def __init__(self, recording: Recording, mean: np.ndarray, scale: np.ndarray) -> None:
        self.shape = (len(recording), recording.n_neuroids)
        self._recording, self._mean, self._scale = recording, mean, scale
        held = 4 * self.shape[0] * self.shape[1] <= _IN_MEMORY_BYTES
        self._values = recording.read() if held else None

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Rows of responses, (b, neuroid) float32."""
        values = self._recording.read(rows) if self._values is None else self._values[rows]
        return (values - self._mean) / self._scale

    def columns(self, neuroids: np.ndarray) -> np.ndarray:
        """All responses of some neuroids, (n, v) float32."""
        values = self._recording.read(neuroid=neuroids) if self._values is None else self._values[:, neuroids]
        return (values - self._mean[neuroids]) / self._scale[neuroids]


def moments(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each neuroid over presentations, (neuroid,) float32; 1 for a constant neuroid."""
    total = square = np.zeros(recording.n_neuroids)
    shift = recording.read(slice(0, 1))[0].astype(np.float64)
    for block in recording.blocks():
        block = block - shift
        total, square = total + block.sum(0), square + (block**2).sum(0)
    mean = total / len(recording)
    std = np.sqrt((square / len(recording) - mean**2).clip(0))
    flat = std <= 1e-6 * np.maximum(np.abs(mean + shift), np.abs(mean)).clip(1e-30)
    return (mean + shift).astype(np.float32), np.where(flat, 1, std).astype(np.float32)


def split_validation(
    recording: Recording, validation: Recording | None, fraction: float, by_run: bool, seed: int
) -> tuple[Recording, Recording]:
    """What weights are learnt from, and what chooses the epoch; no stimulus is in both.

    Parameters
    ----------
    validation : given by the caller, or None to hold out `fraction` of stimuli, or of runs if `by_run`.

    Raises
    ------
    LeakageError : a stimulus in both. ArtifactError : other neuroids. RepetitionError : too few stimuli or runs.
    InputError : a fraction not in (0, 1).
    """
    if validation is not None:
        if validation.fingerprint() != recording.fingerprint():
            raise ArtifactError(
                "other neuroids than in the recording, or in another order or space",
                where="validation",
                remedy="Give responses of the same subject and the same mask",
            )
        seen = np.intersect1d(recording.stimulus_ids.astype(str), validation.stimulus_ids.astype(str))
        if len(seen):
            raise LeakageError(
                f"stimulus {seen[0]!s} is in the training and in the validation part ({len(seen)} in all)",
                where="validation",
                remedy="Split by stimulus (split_by_stimulus)",
            )
        return recording, validation
    if not 0 < fraction < 1:
        raise InputError(f"a validation part of {fraction}", where="validation", remedy="Give a fraction such as 0.1")
    if not by_run:
        return split_by_stimulus(recording, fraction, seed).apply(recording)
    runs = _runs_apart(recording)
    count = len(np.unique(runs))
    if count < 2:
        raise RepetitionError(
            "no run can be held out to choose the epoch: all are one, or show the same stimuli",
            where="recording",
            remedy="Give `validation`, responses of another run",
        )
    held = np.random.default_rng(seed).permutation(count)[: max(1, round(fraction * count))]
    inside = np.isin(runs, held)
    split = Split(np.flatnonzero(~inside), np.flatnonzero(inside), "validation runs")
    check_split(recording, split)
    return split.apply(recording)


def _runs_apart(recording: Recording) -> np.ndarray:
    """(presentation,) int, groups of runs such that no stimulus is in two groups: repeats of a movie stay together."""
    runs, stimuli = run_labels(recording), pd.factorize(recording.stimulus_ids)[0]
    size = runs.max() + 1 + stimuli.max() + 1
    shows = coo_array((np.ones(len(runs)), (runs, runs.max() + 1 + stimuli)), shape=(size, size))
    return connected_components(shows, directed=False)[1][runs]
