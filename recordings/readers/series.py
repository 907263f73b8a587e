"""Runs of a BOLD time series, cleaned and turned into one row a volume, block, trial or single-trial beta.

Every unit but the volume is a linear map of the cleaned run, so that each comes down to one weight matrix
(presentation, volume) a run. Memory holds one run of the masked voxels at a time, or 512 volumes if these are wanted as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..cleaning import clean_run
from ..errors import InputError
from .glm import trial_weights
from .registry import Options

Reading = Callable[[int, int], np.ndarray]
Unit = Literal["volume", "block", "trial", "lsa", "lss"]

_VOLUMES = 512


class SeriesOptions(Options):
    """What becomes of a time series."""

    unit: Unit = "volume"
    """One row a volume as it is, a mean over a block of one condition (labels), a mean over a window after each event,
    or a single-trial beta by least squares, all trials at once (lsa) or each against the others (lss)."""
    detrend: bool = False
    """Take the mean and a linear trend out of each run first."""
    scale: bool = False
    """Scale each voxel to unit variance in each run first (removes the mean too)."""
    exclude: tuple[str, ...] = ("rest",)
    """Conditions that make no block or trial; in a GLM they stay in the design."""
    lag: float = 0.0
    """Seconds between an event and the volumes that are averaged for it (blocks, trials)."""
    window: float | None = None
    """Seconds of volumes to average a trial; by default the event's duration."""
    stimulus_column: str | None = None
    """Column of the events that names the stimulus; by default stimulus_id, stim_id or stim_file, whichever is there;
    without any, each trial is a stimulus of its own."""
    hrf_model: Literal["glover", "spm"] = "glover"
    """Haemodynamic response of the GLM."""
    drift_model: Literal["cosine", "polynomial"] | None = "cosine"
    """Slow drifts in the GLM."""
    high_pass: float = 0.01
    """Cut-off of the cosine drifts, Hz."""


@dataclass
class Run:
    """Volumes that were recorded without a break.

    Attributes
    ----------
    read : gives volumes ``start:stop`` of the series, (volume, neuroid) float32.
    start : where in the series the run begins. n : how many volumes it has.
    name : run label; session : session label. where : the file that says what was shown, for errors.
    table : presentation columns of each volume, or None. conditions : (volume,) condition of each volume, or None.
    events : onset, duration, trial_type, or None. confounds : (volume, regressor) or None.
    tr : seconds a volume. first : time of the first volume, seconds.
    """

    read: Reading
    start: int
    n: int
    name: Any = 0
    session: Any = 0
    where: str = ""
    table: pd.DataFrame | None = None
    conditions: np.ndarray | None = None
    events: pd.DataFrame | None = None
    confounds: np.ndarray | None = None
    tr: float = 1.0
    first: float = 0.0

    @property
    def times(self) -> np.ndarray:
        """(volume,) acquisition times in seconds from the start of the run."""
        return self.first + self.tr * np.arange(self.n)

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Volumes ``begin:end`` of the run, (volume, neuroid) float32."""
        return self.read(self.start + begin, self.start + end)


def series_blocks(runs: list[Run], options: SeriesOptions) -> Iterator[np.ndarray]:
    """Rows of each run in turn, float32; volumes that nothing is done to come in smaller blocks."""
    is_glm = options.unit in ("lsa", "lss")
    cleaned = options.detrend or options.scale
    for run in runs:
        if options.unit == "volume" and not cleaned and run.confounds is None:
            yield from (run.rows(begin, min(begin + _VOLUMES, run.n)) for begin in range(0, run.n, _VOLUMES))
            continue
        # In a GLM the confounds stand in the design; taking them out beforehand as well would bias the betas.
        confounds = None if is_glm else run.confounds
        values = clean_run(run.rows(0, run.n), detrend=options.detrend, scale=options.scale, confounds=confounds)
        _, weights = run_rows(run, options)
        yield values if weights is None else (weights @ values).astype(np.float32)


def series_presentations(runs: list[Run], options: SeriesOptions) -> pd.DataFrame:
    """The presentation table of all runs."""
    return pd.concat([run_rows(run, options)[0] for run in runs], ignore_index=True)


def run_rows(run: Run, options: SeriesOptions) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Presentations of a run and their weights (presentation, volume); None where rows are the volumes themselves."""
    if options.unit == "volume":
        return _volume_rows(run), None
    if options.unit == "block":
        return _block_rows(run, options)
    events = _events(run)
    kept = events[~events["trial_type"].isin(options.exclude)]
    if options.unit == "trial":
        weights = _window_weights(run, kept, options)
    else:
        weights = trial_weights(run.times, events, kept.index.to_numpy(), options, run.confounds)
    return _trial_table(run, kept, options), weights


def _volume_rows(run: Run) -> pd.DataFrame:
    if run.table is not None:
        return run.table
    session = f"session{_label(run.session)}-" if run.session else ""
    ids = [f"{session}run{_label(run.name)}-volume{i:04d}" for i in range(run.n)]
    table = pd.DataFrame({"stimulus_id": ids, "run": run.name, "session": run.session, "onset": run.times})
    if run.conditions is not None:
        return table.assign(category=run.conditions)
    return table if run.events is None else table.assign(category=_ongoing(run))


def _ongoing(run: Run) -> list[str]:
    events = _events(run)
    starts, ends = events["onset"].to_numpy(), (events["onset"] + events["duration"]).to_numpy()
    inside = (run.times[:, None] >= starts) & (run.times[:, None] < ends)
    kinds = events["trial_type"].to_numpy()
    return [str(kinds[row.argmax()]) if row.any() else "rest" for row in inside]


def _block_rows(run: Run, options: SeriesOptions) -> tuple[pd.DataFrame, np.ndarray]:
    if run.conditions is None:
        raise InputError("blocks need a condition for each volume", where=run.where, remedy="Give the option labels")
    changes = np.flatnonzero(run.conditions[1:] != run.conditions[:-1]) + 1
    shift = round(options.lag / run.tr)
    n, rows, weights = len(run.conditions), [], []
    seen: dict[str, int] = {}
    for block in np.split(np.arange(n), changes):
        condition = str(run.conditions[block[0]])
        if condition in options.exclude:
            continue
        seen[condition] = seen.get(condition, 0) + 1
        volumes = block + shift
        rows.append([_block_id(run, condition, seen[condition]), condition, run.times[block[0]], len(block) * run.tr])
        weights.append(_mean_of(volumes[volumes < n], n, f"block {rows[-1][0]}", run))
    table = pd.DataFrame(rows, columns=["stimulus_id", "category", "onset", "duration"])
    return table.assign(run=run.name, session=run.session), np.array(weights, np.float32).reshape(-1, n)


def _block_id(run: Run, condition: str, number: int) -> str:
    session = f"-session{_label(run.session)}" if run.session else ""
    return f"{condition}{session}-run{_label(run.name)}" + (f"-block{number}" if number > 1 else "")


def _window_weights(run: Run, events: pd.DataFrame, options: SeriesOptions) -> np.ndarray:
    weights = np.zeros((len(events), len(run.times)), np.float32)
    for row, (onset, duration) in enumerate(events[["onset", "duration"]].to_numpy(float)):
        begin = onset + options.lag
        end = begin + (duration if options.window is None else options.window)
        volumes = np.flatnonzero((run.times >= begin - 1e-6) & (run.times < end - 1e-6))
        weights[row] = _mean_of(volumes, len(run.times), f"event at {onset:g} s", run)
    return weights


def _mean_of(volumes: np.ndarray, n: int, what: str, run: Run) -> np.ndarray:
    if not len(volumes):
        raise InputError(
            f"no volume of run {run.name} falls into the window of {what}",
            where=run.where,
            remedy="Change lag or window, or leave the event out",
        )
    weights = np.zeros(n, np.float32)
    weights[volumes] = 1 / len(volumes)
    return weights


def _events(run: Run) -> pd.DataFrame:
    if run.events is None:
        raise InputError("trials need events", where=run.where, remedy="Give the option events")
    return run.events


def _trial_table(run: Run, events: pd.DataFrame, options: SeriesOptions) -> pd.DataFrame:
    candidates = [options.stimulus_column] if options.stimulus_column else ["stimulus_id", "stim_id", "stim_file"]
    column = next((c for c in candidates if c in events), None)
    if options.stimulus_column and column is None:
        raise InputError(
            f"the events have no column {options.stimulus_column!r}",
            where=run.where,
            remedy=f"There are: {', '.join(events)}",
        )
    if column is None:
        number = events.groupby("trial_type").cumcount()
        ids = [_block_id(run, t, k + 1) for t, k in zip(events["trial_type"], number, strict=True)]
    elif column == "stim_file":
        ids = [Path(str(name)).with_suffix("").as_posix() for name in events[column]]
    else:
        ids = list(events[column].astype(str))
    table = events.rename(columns={"trial_type": "category"}).assign(run=run.name, session=run.session)
    keep = ["category", "onset", "duration", "run", "session"]
    return pd.DataFrame({"stimulus_id": ids, **{c: table[c].to_numpy() for c in keep}})


def _label(name: Any) -> str:
    return f"{int(name):02d}" if str(name).isdigit() else str(name)
