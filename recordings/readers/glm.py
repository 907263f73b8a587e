"""Single-trial betas of one run by ordinary least squares, as weights over its volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import InputError

if TYPE_CHECKING:
    from .series import SeriesOptions

_EARLIEST = 24.0  # Seconds before the first volume from which nilearn ignores events.


def trial_weights(
    times: np.ndarray,
    events: pd.DataFrame,
    trials: np.ndarray,
    options: SeriesOptions,
    confounds: np.ndarray | None = None,
) -> np.ndarray:
    """Weights W, (trial, volume), such that W @ run are the trials' betas.

    The design comes from nilearn, one regressor a trial, with drifts, a constant and confounds. "lsa" fits all trials
    together; "lss" fits each trial beside one regressor a condition that sums all the other trials (Mumford et al.,
    NeuroImage 59, 2012, and Abdulrahman & Henson, NeuroImage 125, 2016, their LSS-N): one small design a trial,
    solved by its pseudo-inverse.

    Parameters
    ----------
    times : (volume,) seconds. events : onset, duration and trial_type of the whole run.
    trials : rows of events to estimate.

    Raises
    ------
    InputError : the trials cannot be told apart (more regressors than volumes, or an event outside of the run).
    """
    design, nuisance = _design(times, events, options, confounds)
    if options.unit == "lsa":
        return _least_squares_all(design, nuisance, trials)
    return np.stack([_least_squares_separate(design, nuisance, events, t) for t in trials]).astype(np.float32)


def _design(
    times: np.ndarray, events: pd.DataFrame, options: SeriesOptions, confounds: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    from nilearn.glm.first_level import make_first_level_design_matrix

    outside = (events["onset"] >= times[-1]) | (events["onset"] < times[0] - _EARLIEST)
    if outside.any():
        raise InputError(
            f"the event at {events.loc[outside, 'onset'].iloc[0]:g} s leaves no trace in the {len(times)} volumes",
            remedy="Leave events outside of the run out",
        )
    single = events[["onset", "duration"]].assign(trial_type=[f"trial{i:06d}" for i in range(len(events))])
    table = make_first_level_design_matrix(
        times,
        single,
        hrf_model=options.hrf_model,
        drift_model=options.drift_model,
        high_pass=options.high_pass,
        add_regs=confounds,
        min_onset=-_EARLIEST,
    )
    design = table[single["trial_type"]].to_numpy()
    return design, table.drop(columns=single["trial_type"]).to_numpy()


def _least_squares_all(design: np.ndarray, nuisance: np.ndarray, trials: np.ndarray) -> np.ndarray:
    full = np.column_stack([design, nuisance])
    if np.linalg.matrix_rank(full) < full.shape[1]:
        raise InputError(
            f"{full.shape[1]} regressors cannot be told apart in {len(full)} volumes",
            remedy="Use lss, or leave confounds or trials out",
        )
    return np.linalg.pinv(full)[trials].astype(np.float32)


def _least_squares_separate(design: np.ndarray, nuisance: np.ndarray, events: pd.DataFrame, trial: int) -> np.ndarray:
    kinds = events["trial_type"].to_numpy()
    others = np.arange(len(events)) != trial
    sums = [design[:, others & (kinds == kind)].sum(1) for kind in pd.unique(kinds[others])]
    return np.linalg.pinv(np.column_stack([design[:, trial], *sums, nuisance]))[0]
