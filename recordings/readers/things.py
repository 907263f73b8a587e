"""THINGS-fMRI single-trial responses in table format (Hebart et al., eLife 12:e82580, 2023).

Never tried on real files.

Layout: a folder ``betas_csv`` with, for each subject,

- ``sub-01_ResponseData.h5``: a pandas frame in PyTables' fixed format: rows are voxels, a column voxel_id, then one
  column a trial, named by its number. The numbers lie in ``<key>/block?_values`` (voxel, trial); only these are read,
  the pickled column names are not. ``sub-01_ResponseData.csv`` is taken if there is no ``.h5``.
- ``sub-01_StimulusMetadata.csv``: trial_type (train, test), session, run, trial_id, stimulus (file name), concept. A
  row names its column of responses by trial_id; trials may be missing or out of order.
- ``sub-01_VoxelMetadata.csv``: voxel_id, voxel_x, voxel_y, voxel_z (indices), nc_singletrial and nc_testset (noise
  ceilings in percent), pRF parameters, and one column of 0 and 1 a region (V1, lFFA, glasser-TE1m, ...).

``noise_ceiling`` is nc_testset / 100, that of the mean of the test images' 12 trials; ``noise_ceiling_single`` that of
one trial. Memory holds 512 trials of the voxels that are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from ..errors import DuplicateIdError, FormatError, MismatchedIdsError, ShapeError, UnknownNameError
from ..space import Space
from ..stimuli import Stimuli
from ..volumes import mask_coordinates
from .files import BLOCK_BYTES, need, open_hdf5, read_table
from .registry import Contents, Options, Reader

_NOT_REGIONS = ("voxel_", "subject_id", "nc_", "splithalf", "prf-", "prf_")


class ThingsOptions(Options):
    """Options of the format things."""

    subject: str = "01"
    """Label without sub-."""
    rois: tuple[str, ...] = ()
    """Read the voxels of these regions only."""
    mask: Path | None = None
    """The subject's brain mask (NIfTI), which gives the voxels their place in millimetres."""
    images: Path | None = None
    """Folder of THINGS images, one folder a concept."""


def read_things(source: Path, options: ThingsOptions) -> Contents:
    """Single-trial responses of one subject; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : voxels differ in number.
    MismatchedIdsError : a trial or voxel of the tables has no responses. UnknownNameError : no such region.
    """
    folder = source / "betas_csv" if (need(source) / "betas_csv").is_dir() else source
    stem = f"sub-{options.subject}_"
    trials = read_table(folder / f"{stem}StimulusMetadata.csv", ("trial_id", "stimulus", "session", "run"))
    voxels = read_table(folder / f"{stem}VoxelMetadata.csv", ("voxel_id", "voxel_x", "voxel_y", "voxel_z"))
    if voxels["voxel_id"].duplicated().any():
        raise DuplicateIdError("a voxel_id occurs twice", where=folder / f"{stem}VoxelMetadata.csv")
    neuroids, rois = _neuroids(voxels)
    keep = _kept(neuroids, rois, options)
    responses = _response_file(folder, stem)
    rows = keep if responses.suffix == ".csv" else _check_hdf5(responses, trials, voxels)[keep]
    neuroids, space = _place(neuroids.iloc[keep].reset_index(drop=True), options)
    read = _from_csv if responses.suffix == ".csv" else _from_hdf5
    return Contents(
        presentations=_presentations(trials),
        neuroids=neuroids,
        blocks=read(responses, trials["trial_id"].to_numpy(int), rows),
        space=space,
        rois=rois,
        attrs={"subject": options.subject},
        stimuli=None if options.images is None else _stimuli(options.images),
    )


def _response_file(folder: Path, stem: str) -> Path:
    hdf5 = folder / f"{stem}ResponseData.h5"
    return hdf5 if hdf5.exists() else need(folder / f"{stem}ResponseData.csv")


def _presentations(trials: pd.DataFrame) -> pd.DataFrame:
    ids = [Path(str(name)).stem for name in trials["stimulus"]]
    table = pd.DataFrame({"stimulus_id": ids, "session": trials["session"], "run": trials["run"]})
    table["trial_id"] = trials["trial_id"]
    if "trial_type" in trials:
        table["split"] = trials["trial_type"].astype(str)
    return table.assign(category=trials["concept"].astype(str)) if "concept" in trials else table


def _neuroids(voxels: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    others = [c for c in voxels if not str(c).startswith(_NOT_REGIONS)]
    regions = [c for c in others if voxels[c].dropna().isin([0, 1]).all()]
    labels = np.full(len(voxels), "", object)
    for name in regions:
        labels[(voxels[name] == 1).to_numpy()] += f"|{name}"
    ids = [f"v{i}" for i in voxels["voxel_id"]]
    table = pd.DataFrame({"neuroid_id": ids, "roi": [label.removeprefix("|") for label in labels]})
    for axis, name in zip("ijk", ("voxel_x", "voxel_y", "voxel_z"), strict=True):
        table[axis] = voxels[name].astype(int)
    for name, column in (("noise_ceiling", "nc_testset"), ("noise_ceiling_single", "nc_singletrial")):
        if column in voxels:
            table[name] = voxels[column] / 100
    return table, [str(r) for r in regions]


def _kept(neuroids: pd.DataFrame, rois: list[str], options: ThingsOptions) -> np.ndarray:
    unknown = [r for r in options.rois if r not in rois]
    if unknown:
        raise UnknownNameError(f"no region {unknown[0]!r}", remedy=f"There are: {', '.join(rois)}")
    if not options.rois:
        return np.arange(len(neuroids))
    member = neuroids["roi"].str.split("|").apply(lambda names: bool(set(names) & set(options.rois)))
    if not member.any():
        raise UnknownNameError(f"no voxel in {', '.join(options.rois)}", remedy="Name other regions")
    return np.flatnonzero(member)


def _place(neuroids: pd.DataFrame, options: ThingsOptions) -> tuple[pd.DataFrame, Space]:
    if options.mask is None:
        return neuroids, Space()
    places, space, _ = mask_coordinates(need(options.mask))
    merged = neuroids.merge(places[["i", "j", "k", "x", "y", "z"]], on=["i", "j", "k"], how="left")
    outside = merged["x"].isna()
    if outside.any():
        raise MismatchedIdsError(
            f"voxel {merged.loc[outside, 'neuroid_id'].iloc[0]} lies outside of the mask", where=options.mask
        )
    return merged, space


def _frame(file: h5py.File) -> h5py.Group:
    for group in file.values():
        if isinstance(group, h5py.Group) and any(name.endswith("_values") for name in group):
            return group
    raise FormatError("no pandas frame in fixed format in it", where=file.filename)


def _responses(file: h5py.File) -> h5py.Dataset:
    blocks = [d for n, d in _frame(file).items() if n.endswith("_values") and d.dtype.kind == "f" and d.ndim == 2]
    if len(blocks) != 1:
        raise FormatError(f"{len(blocks)} blocks of numbers, not one", where=file.filename)
    return blocks[0]


def _check_hdf5(path: Path, trials: pd.DataFrame, voxels: pd.DataFrame) -> np.ndarray:
    # Row of the responses for each row of the voxel table.
    with open_hdf5(path) as file:
        values = _responses(file)
        if values.shape[0] != len(voxels):
            raise ShapeError(f"responses of shape {values.shape} for {len(voxels)} voxels", where=path)
        missing = trials["trial_id"][(trials["trial_id"] < 0) | (trials["trial_id"] >= values.shape[1])]
        if len(missing):
            raise MismatchedIdsError(f"trial {missing.iloc[0]} is not among the {values.shape[1]} columns", where=path)
        whole = [d for n, d in _frame(file).items() if n.endswith("_values") and d.dtype.kind in "iu" and d.ndim == 2]
        ids = whole[0][:, 0] if whole else voxels["voxel_id"].to_numpy()
    rows = pd.Index(ids).get_indexer(pd.Index(voxels["voxel_id"]))
    if (rows < 0).any():
        lost = voxels["voxel_id"].iloc[int(np.flatnonzero(rows < 0)[0])]
        raise MismatchedIdsError(f"voxel {lost} of the voxel table has no responses", where=path)
    return rows


def _from_hdf5(path: Path, columns: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    with open_hdf5(path) as file:
        values = _responses(file)
        for start in range(0, len(columns), 512):
            yield _columns(values, columns[start : start + 512], rows)


def _columns(values: h5py.Dataset, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # Stored voxel by voxel: a few thousand voxels at a time, and of these the columns from first to last.
    block = np.empty((len(columns), len(rows)), np.float32)
    low, high = int(columns.min()), int(columns.max()) + 1
    position = np.full(values.shape[0], -1)
    position[rows] = np.arange(len(rows))
    step = max(1, BLOCK_BYTES // (8 * (high - low)))
    for start in range(0, values.shape[0], step):
        wanted = position[start : start + step]
        if (wanted >= 0).any():
            part = values[start : start + step, low:high]
            block[:, wanted[wanted >= 0]] = part[wanted >= 0][:, columns - low].T
    return block


def _from_csv(path: Path, columns: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    header = read_table(path, nrows=0).columns
    missing = [c for c in columns if str(c) not in header]
    if missing:
        raise MismatchedIdsError(f"trial {missing[0]} has no column of responses", where=path)
    for start in range(0, len(columns), 512):
        names = [str(c) for c in columns[start : start + 512]]
        part = read_table(path, names, usecols=names, dtype=np.float32)
        if len(part) <= rows.max():
            raise ShapeError(f"{len(part)} rows, fewer than voxels", where=path)
        yield part[names].to_numpy(np.float32)[rows].T


def _stimuli(folder: Path) -> Stimuli:
    stimuli = Stimuli.from_folder(folder)
    table = stimuli.table.copy()
    table["stimulus_id"] = [Path(i).name for i in table["stimulus_id"]]
    return Stimuli(table, stimuli.source)


THINGS = Reader(
    "things", read_things, ThingsOptions, "THINGS-fMRI: single-trial responses of one subject, table format"
)
