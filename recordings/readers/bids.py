"""BIDS derivatives of fMRIPrep: preprocessed runs with their events, confounds and brain masks.

Never tried on real files.

Layout: ``sub-X[/ses-Y]/func/sub-X[_ses-Y]_task-T[_run-R]_space-S[_res-2]_desc-preproc_bold.nii.gz`` with
``..._desc-brain_mask.nii.gz``, a ``.json`` beside it (RepetitionTime, StartTime) and
``..._desc-confounds_timeseries.tsv`` without the space; ``..._events.tsv`` in the raw data set, beside the run or at
any level above it (inheritance). The recording's mask is where all runs have brain. Values that fMRIPrep writes as n/a
in the first volume (derivatives of motion) count as 0.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..errors import FormatError, InputError, NotFiniteError, ShapeError
from ..volumes import mask_coordinates, read_nifti
from .bold import open_bold, read_volumes, repetition_time
from .files import need, read_table
from .registry import Contents, Reader
from .series import Run, SeriesOptions, series_blocks, series_presentations
from .timing import check_events

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")


class BidsOptions(SeriesOptions):
    """Options of the format bids."""

    subject: str
    """Label without sub-."""
    task: str
    """Label without task-."""
    space: str | None = None
    """Label without space-; needed if there are several."""
    session: str | None = None
    """Label without ses-; by default all sessions."""
    events_root: Path | None = None
    """Raw data set that holds the events; by default the source, or the data set around it."""
    confounds: tuple[str, ...] = MOTION
    """Columns taken out of each run, or put into the design of a GLM."""
    mask: Path | None = None
    """Another mask, on the same grid; by default the intersection of the runs' brain masks."""


def read_bids(source: Path, options: BidsOptions) -> Contents:
    """All preprocessed runs of one subject and task; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : runs differ in their grid, or
    confounds in length. NotFiniteError : a confound has a gap after the first volume.
    """
    files = _bold_files(need(source), options)
    images = [open_bold(path) for path in files]
    for path, image in zip(files, images, strict=True):
        if image.shape[:3] != images[0].shape[:3] or not np.allclose(image.affine, images[0].affine, atol=1e-3):
            raise ShapeError(f"another grid than {files[0].name}", where=path, remedy="Choose one space and resolution")
    neuroids, space, grid = mask_coordinates(options.mask or _common_mask(files))
    runs = [_run(path, image, grid, source, options) for path, image in zip(files, images, strict=True)]
    name = _entities(files[0]).get("space", "native")
    return Contents(
        series_presentations(runs, options),
        neuroids,
        series_blocks(runs, options),
        space=replace(space, name="native" if name == "T1w" else name),
        attrs={"subject": options.subject, "task": options.task, "tr": runs[0].tr},
    )


def _entities(path: Path) -> dict[str, str]:
    return dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)


def _bold_files(source: Path, options: BidsOptions) -> list[Path]:
    found = sorted((source / f"sub-{options.subject}").rglob(f"*_task-{options.task}_*desc-preproc_bold.nii*"))
    if options.session is not None:
        found = [f for f in found if _entities(f).get("ses") == options.session]
    spaces = {_entities(f).get("space", "") for f in found}
    if options.space is not None:
        found = [f for f in found if _entities(f).get("space") == options.space]
    elif len(spaces) > 1:
        raise InputError("runs in several spaces", where=source, remedy=f"Choose one: {', '.join(sorted(spaces))}")
    if not found:
        raise FormatError(
            f"no preprocessed run of sub-{options.subject}, task-{options.task}"
            + (f", space-{options.space}" if options.space else ""),
            where=source,
            remedy=f"Spaces there: {', '.join(sorted(spaces)) or 'none'}",
        )
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[str, int, str]:
    entities = _entities(path)
    return entities.get("ses", ""), int(entities.get("run", 0)), path.name


def _common_mask(files: list[Path]) -> nib.Nifti1Image:
    masks = [need(f.with_name(f.name.replace("desc-preproc_bold", "desc-brain_mask"))) for f in files]
    grids = [read_nifti(mask) > 0 for mask in masks]
    for mask, grid in zip(masks, grids, strict=True):
        if grid.shape != grids[0].shape:
            raise ShapeError(f"a mask of {grid.shape}, the first run's is {grids[0].shape}", where=mask)
    return nib.Nifti1Image(np.logical_and.reduce(grids).astype(np.uint8), nib.load(masks[0]).affine)


def _run(path: Path, image: nib.Nifti1Image, grid: np.ndarray, source: Path, options: BidsOptions) -> Run:
    n, entities, sidecar = image.shape[3], _entities(path), _sidecar(path)
    events = _find_events(path, source, options)
    return Run(
        partial(read_volumes, image, grid),
        0,
        n,
        int(entities.get("run", 0)),
        entities.get("ses", 0),
        where=str(events or path),
        events=None if events is None else check_events(read_table(events, ("onset", "duration")), events),
        confounds=_confounds(path, n, options),
        tr=repetition_time(image, sidecar.get("RepetitionTime")),
        first=float(sidecar.get("StartTime", 0.0)),
    )


def _sidecar(path: Path) -> dict[str, Any]:
    sidecar = path.with_name(path.name.split(".nii")[0] + ".json")
    if not sidecar.exists():
        return {}
    try:
        return json.loads(sidecar.read_text())
    except ValueError as error:
        raise FormatError(f"not JSON ({error})", where=sidecar) from error


def _stem(path: Path, drop: tuple[str, ...]) -> str:
    parts = [p for p in path.name.split("_")[:-1] if p.split("-")[0] not in drop]
    return "_".join(parts)


def _find_events(path: Path, source: Path, options: BidsOptions) -> Path | None:
    stem = _stem(path, ("space", "res", "desc", "cohort", "den"))
    around = [p for p in source.resolve().parents if (p / "dataset_description.json").exists()]
    for root in [options.events_root] if options.events_root else [source, *around[:1]]:
        session = [f"ses-{_entities(path)['ses']}"] if "ses" in _entities(path) else []
        folder = root.joinpath(f"sub-{options.subject}", *session, "func")
        names = [f"{stem}_events.tsv", f"{_without_run(stem)}_events.tsv", f"task-{options.task}_events.tsv"]
        places = [folder, folder.parent, root / f"sub-{options.subject}", root]
        for candidate in (place / name for place in places for name in names):
            if candidate.exists():
                return candidate
    return None


def _without_run(stem: str) -> str:
    return "_".join(p for p in stem.split("_") if not p.startswith("run-"))


def _confounds(path: Path, n: int, options: BidsOptions) -> np.ndarray | None:
    if not options.confounds:
        return None
    stem = _stem(path, ("space", "res", "desc", "cohort", "den"))
    table_path = path.with_name(f"{stem}_desc-confounds_timeseries.tsv")
    table = read_table(table_path, options.confounds, na_values="n/a")
    if len(table) != n:
        raise ShapeError(f"{len(table)} rows of confounds for {n} volumes", where=table_path)
    values = table[list(options.confounds)].astype(float)
    values.iloc[0] = values.iloc[0].fillna(0.0)
    gaps = values.isna()
    if gaps.to_numpy().any():
        row, column = np.argwhere(gaps.to_numpy())[0]
        raise NotFiniteError(f"confound {values.columns[column]!r} has no value in volume {row}", where=table_path)
    return values.to_numpy()


BIDS = Reader(
    "bids", read_bids, BidsOptions, "fMRIPrep derivatives in BIDS: preprocessed runs, events, confounds, masks"
)
