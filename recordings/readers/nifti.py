"""A 4-D NIfTI image with a label for each volume or a table of events.

Tried on real files: the Haxby et al. (2001) slice that PyMVPA ships, with its ``attributes_literal.txt``.

Layout: ``bold.nii.gz`` (x, y, z, time), all runs one after the other; ``mask.nii.gz`` (x, y, z), voxels above 0 are
neuroids; and either

- labels: one line a volume, condition and run, separated by spaces or commas, with or without a header (PyMVPA's
  attributes file; nilearn's ``labels chunks``); or
- events: a tab-separated table as in BIDS with onset and duration in seconds from the start of the run, trial_type,
  and, if the image holds several runs, a column run that counts from 0 and the option `volumes_per_run`.

Every volume, block and trial whose picture is unknown is a stimulus of its own ("face-run03"), with the coordinate
``category``.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from ..errors import FormatError, InputError, ShapeError
from .bold import (
    Run,
    SeriesOptions,
    check_events,
    masked_neuroids,
    open_bold,
    repetition_time,
    series_blocks,
    series_presentations,
)
from .files import need, read_table
from .registry import Contents, Reader


class NiftiOptions(SeriesOptions):
    """Options of the format nifti."""

    mask: Path | None = None
    """3-D image whose voxels above 0 are read; by default mask.nii.gz beside the source."""
    labels: Path | None = None
    """Condition and run of each volume; by default attributes_literal.txt beside the source, if it is there."""
    events: Path | None = None
    """Table of events."""
    volumes_per_run: int | None = None
    """Volumes in each run, where only events are given and the image holds several runs."""
    rois: dict[str, Path] = Field(default_factory=dict)
    """Mask image of each region of interest, by name."""


def read_nifti(source: Path, options: NiftiOptions) -> Contents:
    """A 4-D image as one row a volume, block, trial or single-trial beta; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : the mask has another grid, or the
    labels another length. InputError : the unit needs labels or events that are not given.
    """
    if source.is_dir():
        source = source / "bold.nii.gz"
    image = open_bold(source)
    neuroids, space, grid, rois = masked_neuroids(options.mask or _beside(source), options.rois)
    runs = _runs(source, image, options)
    return Contents(
        presentations=series_presentations(runs, options),
        neuroids=neuroids,
        blocks=series_blocks(runs, grid, options),
        space=space,
        rois=rois,
        attrs={"tr": runs[0].tr},
    )


def _beside(source: Path) -> Path:
    found = [source.with_name(name) for name in ("mask.nii.gz", "mask.nii") if source.with_name(name).exists()]
    if not found:
        raise InputError("no mask beside it", where=source, remedy="Give the option mask")
    return found[0]


def _runs(source: Path, image: Any, options: NiftiOptions) -> list[Run]:
    n, tr = image.shape[3], repetition_time(image, options.tr)
    labels = options.labels
    if labels is None and options.events is None and source.with_name("attributes_literal.txt").exists():
        labels = source.with_name("attributes_literal.txt")
    if labels is not None:
        return [Run(image, *span, tr=tr, where=str(labels)) for span in _labelled(labels, n)]
    length = options.volumes_per_run or n
    if n % length:
        raise ShapeError(f"{n} volumes are not a whole number of runs of {length}", where=source)
    events = None if options.events is None else _event_table(options.events, n // length)
    runs = []
    for number, start in enumerate(range(0, n, length)):
        mine = None if events is None else events[events["run"] == number].reset_index(drop=True)
        where = str(options.events or source)
        runs.append(Run(image, start, start + length, number, events=mine, tr=tr, where=where))
    return runs


def _labelled(path: Path, n: int) -> list[tuple[int, int, Any, Any, np.ndarray]]:
    table = read_labels(path)
    if len(table) != n:
        raise ShapeError(f"{len(table)} labels for {n} volumes", where=path, remedy="One line a volume is needed")
    run = table["run"].to_numpy()
    starts = [0, *(np.flatnonzero(run[1:] != run[:-1]) + 1), n]
    names = [run[s] for s in starts[:-1]]
    if len(set(names)) != len(names):
        raise FormatError("the volumes of a run do not follow each other", where=path, remedy="Sort the volumes by run")
    conditions = table["category"].to_numpy()
    spans = itertools.pairwise(starts)
    return [(int(a), int(b), name, 0, conditions[a:b]) for (a, b), name in zip(spans, names, strict=True)]


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


NIFTI = Reader(
    "nifti",
    read_nifti,
    NiftiOptions,
    "4-D NIfTI image with a mask and labels or events: volumes, block means, trial means or single-trial betas",
    tried_on_real_files=True,
)
