"""What was shown when: labels of volumes, tables of events or of presentations, cut into runs."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import FormatError, ShapeError
from .files import need, read_table
from .series import Reading, Run, SeriesOptions


class TimingOptions(SeriesOptions):
    """Tables that say what was shown; one of labels, events and presentations at most."""

    labels: Path | None = None
    """Condition and run of each volume, one line a volume."""
    events: Path | None = None
    """Tab-separated events: onset, duration, trial_type; and run, from 0, if there are several."""
    presentations: Path | None = None
    """CSV with the column stimulus_id, one row a volume, where the volumes are single-trial betas already."""
    volumes_per_run: int | None = None
    """Volumes in each run, where only events are given and there are several runs."""
    tr: float | None = None
    """Seconds a volume; by default what the image says."""


def cut_runs(read: Reading, n: int, tr: float, options: TimingOptions, source: Path) -> list[Run]:
    """Runs of a series of n volumes, from whichever table the options name.

    Parameters
    ----------
    read : gives volumes ``start:stop`` as (volume, neuroid). source : named in errors where there is no table.

    Raises
    ------
    ShapeError : a table has another length than the series. FormatError : a table is not what it should be.
    """
    if options.labels is not None:
        table = read_labels(options.labels)
        return [
            replace(run, conditions=rows["category"].to_numpy(), tr=tr)
            for run, rows in _by_run(read, table, n, options.labels)
        ]
    if options.presentations is not None:
        table = read_table(options.presentations, ("stimulus_id",), dtype={"stimulus_id": str})
        for column in {"session", "run"} - set(table):
            table[column] = 0
        return [replace(run, table=rows, tr=tr) for run, rows in _by_run(read, table, n, options.presentations)]
    return _equal_runs(read, n, tr, options, source)


def _by_run(read: Reading, table: pd.DataFrame, n: int, path: Path) -> list[tuple[Run, pd.DataFrame]]:
    if len(table) != n:
        raise ShapeError(f"{len(table)} rows for {n} volumes", where=path, remedy="One row a volume is needed")
    keys = list(zip(table.get("session", pd.Series(0, table.index)), table["run"], strict=True))
    bounds = [0, *(i for i in range(1, n) if keys[i] != keys[i - 1]), n]
    names = [keys[start] for start in bounds[:-1]]
    if len(set(names)) != len(names):
        raise FormatError("the volumes of a run do not follow each other", where=path, remedy="Sort the volumes by run")
    runs = []
    for (start, stop), (session, name) in zip(pairwise(bounds), names, strict=True):
        run = Run(read, start, stop - start, name, session, where=str(path))
        runs.append((run, table.iloc[start:stop].reset_index(drop=True)))
    return runs


def _equal_runs(read: Reading, n: int, tr: float, options: TimingOptions, source: Path) -> list[Run]:
    length = options.volumes_per_run or n
    if n % length:
        raise ShapeError(f"{n} volumes are not a whole number of runs of {length}", where=source)
    where = str(options.events or source)
    starts = range(0, n, length)
    runs = [Run(read, s, length, k, where=where, tr=tr) for k, s in enumerate(starts)]
    if options.events is None:
        return runs
    events = _event_table(options.events, len(runs))
    return [replace(run, events=events[events["run"] == run.name].reset_index(drop=True)) for run in runs]


def read_labels(path: Path) -> pd.DataFrame:
    """Columns category and run, one row a volume, from a labels file with or without a header."""
    lines = [re.split(r"[,\s]+", line.strip()) for line in need(path).read_text().splitlines() if line.strip()]
    if not lines or any(len(fields) < 2 for fields in lines):
        raise FormatError("not one condition and run a line", where=path)
    header = lines[0] if not lines[0][1].lstrip("-").isdigit() else None
    names = [{"labels": "category", "condition": "category", "chunks": "run"}.get(h, h) for h in header or []]
    rows = lines[1:] if header else lines
    if header and not {"category", "run"} <= set(names):
        raise FormatError(f"header {' '.join(header)!r} lacks labels and chunks", where=path)
    at = (names.index("category"), names.index("run")) if header else (0, 1)
    table = pd.DataFrame({"category": [r[at[0]] for r in rows], "run": [r[at[1]] for r in rows]})
    bad = ~table["run"].str.fullmatch(r"-?\d+")
    if bad.any():
        raise FormatError(f"run {table.loc[bad, 'run'].iloc[0]!r} is not a whole number", where=path)
    return table.astype({"run": int})


def _event_table(path: Path, n_runs: int) -> pd.DataFrame:
    events = check_events(read_table(path, ("onset", "duration"), sep=None, engine="python"), path)
    if "run" not in events:
        if n_runs > 1:
            raise FormatError(f"lacks the column 'run', but there are {n_runs} runs", where=path)
        events["run"] = 0
    outside = ~events["run"].isin(range(n_runs))
    if outside.any():
        raise FormatError(
            f"run {events.loc[outside, 'run'].iloc[0]} of {n_runs}", where=path, remedy="Runs count from 0"
        )
    return events


def check_events(events: pd.DataFrame, where: Path) -> pd.DataFrame:
    """Events with numeric onset and duration and a trial_type, or `FormatError` that names the row."""
    events = events.copy()
    if "trial_type" not in events:
        events["trial_type"] = "event"
    events["trial_type"] = events["trial_type"].astype(str)
    for column in ("onset", "duration"):
        numbers = pd.to_numeric(events[column], errors="coerce")
        if numbers.isna().any():
            raise FormatError(
                f"event {int(np.flatnonzero(numbers.isna())[0])} has no {column}", where=where, remedy="Complete it"
            )
        events[column] = numbers
    return events.reset_index(drop=True)
