"""Single-trial betas of the Natural Scenes Dataset (Allen et al., Nature Neuroscience 25, 2022), volume preparations.

Never tried on real files.

Layout, below the source folder, for a subject ("subj01") and a preparation ("func1pt8mm"):

- ``nsddata_betas/ppdata/<subject>/<preparation>/<betas>/betas_sessionNN.hdf5`` or ``.nii.gz``: 750 trials, int16,
  percent signal change times 300. HDF5 stores ``/betas`` as (trial, z, y, x), MATLAB's x, y, z, trial read in C order,
  in chunks of one voxel; NIfTI as (x, y, z, trial), without a scale in its header.
- ``nsddata/ppdata/<subject>/behav/responses.tsv``: SESSION, RUN, 73KID (from 1); or
  ``nsddata/experiments/nsd/nsd_expdesign.mat``: masterordering (trial to image of 10,000, from 1) and subjectim
  (subject, image to 73KID, from 1).
- ``nsddata/ppdata/<subject>/<preparation>/roi/<atlas>.nii.gz`` with names in ``nsddata/freesurfer/<subject>/label/
  <atlas>.mgz.ctab``: numbers above 0 are regions, 0 and -1 are none; ``lh.`` and ``rh.`` files give the hemisphere.
- ``.../<betas>/ncsnr.nii.gz``: noise ceiling signal-to-noise ratio.
- ``nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5``: ``imgBrick`` (73000, 425, 425, 3).

A stimulus id is the row of the image in ``imgBrick``, from 0: 73KID minus one. ``noise_ceiling`` is that of the mean of
three trials, ncsnr^2 / (ncsnr^2 + 1/3). Memory holds one session of the masked voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from ..errors import FormatError, InputError, ShapeError
from ..stimuli import Stimuli
from ..volumes import mask_coordinates, read_nifti
from .bold import open_bold, read_volumes
from .files import dataset, need, open_hdf5, read_mat, read_table
from .registry import Contents, Options, Reader

SCALE = 300.0


class NsdOptions(Options):
    """Options of the format nsd."""

    subject: str
    """subj01 to subj08."""
    preparation: str = "func1pt8mm"
    """func1pt8mm or func1mm."""
    betas: str = "betas_fithrf_GLMdenoise_RR"
    """Which of the three GLMs."""
    sessions: tuple[int, ...] = ()
    """Sessions to read, from 1; by default all that are there."""
    mask: str = "nsdgeneral"
    """Atlas or mask file in the roi folder (voxels above 0 are read), or brainmask."""
    atlases: tuple[str, ...] = ("prf-visualrois", "streams")
    """Atlases that give the ROI; a voxel may be in regions of several."""


def read_nsd(source: Path, options: NsdOptions) -> Contents:
    """Betas of one subject in percent signal change; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : a session has another number of
    trials than the design, or another grid than the mask.
    """
    files = _session_files(source, options)
    folder = source / "nsddata" / "ppdata" / options.subject / options.preparation
    mask = folder / "brainmask.nii.gz" if options.mask == "brainmask" else folder / "roi" / f"{options.mask}.nii.gz"
    neuroids, space, grid = mask_coordinates(need(mask))
    rois = _add_rois(neuroids, grid, source, folder, options)
    _add_ceiling(neuroids, grid, next(iter(files.values())).parent / "ncsnr.nii.gz")
    trials = _trials(source, options)
    tables = [_session_table(trials, session, path) for session, path in files.items()]
    images = source / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5"
    return Contents(
        presentations=pd.concat(tables, ignore_index=True),
        neuroids=neuroids,
        blocks=_blocks(list(files.values()), [len(t) for t in tables], grid),
        space=space,
        rois=rois,
        attrs={"subject": options.subject, "units": "percent signal change", "betas": options.betas},
        stimuli=Stimuli.from_hdf5(images) if images.exists() else None,
    )


def _session_files(source: Path, options: NsdOptions) -> dict[int, Path]:
    folder = source / "nsddata_betas" / "ppdata" / options.subject / options.preparation / options.betas
    files: dict[int, Path] = {}
    # HDF5 last: where both are there it is read, because it need not be unpacked.
    for ending in (".nii.gz", ".hdf5"):
        files |= {int(f.name[13:15]): f for f in need(folder).glob(f"betas_session??{ending}")}
    missing = [s for s in options.sessions if s not in files]
    if missing or not files:
        raise FormatError(f"no betas of session {missing[0] if missing else 1}", where=folder)
    return {s: files[s] for s in sorted(options.sessions or files)}


def _trials(source: Path, options: NsdOptions) -> pd.DataFrame:
    responses = source / "nsddata" / "ppdata" / options.subject / "behav" / "responses.tsv"
    if responses.exists():
        table = read_table(responses, ("SESSION", "RUN", "73KID"))
        return pd.DataFrame({"session": table["SESSION"], "run": table["RUN"], "image": table["73KID"]})
    path = source / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    design = read_mat(path, ("masterordering", "subjectim"))
    if set(design) != {"masterordering", "subjectim"}:
        raise FormatError("lacks masterordering or subjectim", where=path)
    order = np.asarray(design["masterordering"]).ravel().astype(int) - 1
    number = int(options.subject.removeprefix("subj")) - 1
    trial = np.arange(len(order))
    # 62 or 63 trials a run, so a run cannot be told from the order alone.
    image = np.asarray(design["subjectim"])[number].astype(int)[order]
    return pd.DataFrame({"session": trial // 750 + 1, "run": 0, "image": image})


def _session_table(trials: pd.DataFrame, session: int, path: Path) -> pd.DataFrame:
    mine = trials[trials["session"] == session]
    n = _n_trials(path)
    if len(mine) != n:
        raise ShapeError(f"{n} trials, the design has {len(mine)} in session {session}", where=path)
    if mine["image"].min() < 1:
        raise InputError(f"image number {mine['image'].min()}", where=path, remedy="73KID counts from 1")
    ids = (mine["image"] - 1).astype(str)
    return pd.DataFrame({"stimulus_id": ids, "session": session, "run": mine["run"]}).reset_index(drop=True)


def _n_trials(path: Path) -> int:
    if path.suffix == ".hdf5":
        with open_hdf5(path) as file:
            return int(dataset(file, "betas").shape[0])
    return int(open_bold(path).shape[3])


def _blocks(files: list[Path], sizes: list[int], grid: np.ndarray) -> Iterator[np.ndarray]:
    for path, n in zip(files, sizes, strict=True):
        if path.suffix == ".hdf5":
            with open_hdf5(path) as file:
                yield _from_hdf5(dataset(file, "betas"), grid, path) / np.float32(SCALE)
        else:
            yield read_volumes(open_bold(path), grid, 0, n) / np.float32(SCALE)


def _from_hdf5(betas: h5py.Dataset, grid: np.ndarray, path: Path) -> np.ndarray:
    if betas.shape[:0:-1] != grid.shape:
        raise ShapeError(f"betas of {betas.shape[:0:-1]} voxels, mask of {grid.shape}", where=path)
    values = np.empty((len(betas), int(grid.sum())), np.float32)
    column = np.cumsum(grid.ravel()).reshape(grid.shape) - 1
    for z in np.flatnonzero(grid.any((0, 1))):
        x, y = np.nonzero(grid[:, :, z])
        low, high = y.min(), y.max() + 1
        values[:, column[x, y, z]] = betas[:, z, low:high][:, y - low, x]
    return values


def _add_rois(neuroids: pd.DataFrame, grid: np.ndarray, source: Path, folder: Path, options: NsdOptions) -> list[str]:
    labels = np.full(len(neuroids), "", object)
    declared: list[str] = []
    for atlas in options.atlases:
        numbers = _on_grid(folder / "roi" / f"{atlas}.nii.gz", grid).astype(int)
        names = _region_names(source / "nsddata" / "freesurfer" / options.subject / "label" / f"{atlas}.mgz.ctab")
        declared += names.values()
        for number, name in names.items():
            labels[numbers == number] += f"|{name}"
    neuroids["roi"] = [label.removeprefix("|") for label in labels]
    _add_hemisphere(neuroids, grid, folder, options)
    return declared


def _on_grid(path: Path, grid: np.ndarray) -> np.ndarray:
    values = read_nifti(need(path))
    if values.shape != grid.shape:
        raise ShapeError(f"{values.shape} voxels, mask of {grid.shape}", where=path)
    return values[grid]


def _region_names(path: Path) -> dict[int, str]:
    names = {}
    for line in need(path).read_text().splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0].isdigit() and int(fields[0]) > 0:
            names[int(fields[0])] = fields[1]
    if not names:
        raise FormatError("no numbered region in it", where=path)
    return names


def _add_hemisphere(neuroids: pd.DataFrame, grid: np.ndarray, folder: Path, options: NsdOptions) -> None:
    # A side's mask is -1 outside of its cortex and 0 on cortex outside of the region.
    files = {side: folder / "roi" / f"{prefix}.{options.mask}.nii.gz" for side, prefix in (("L", "lh"), ("R", "rh"))}
    if all(path.exists() for path in files.values()):
        left, right = (_on_grid(path, grid) > 0 for path in files.values())
        neuroids["hemisphere"] = np.select([left, right], ["L", "R"], "")


def _add_ceiling(neuroids: pd.DataFrame, grid: np.ndarray, path: Path) -> None:
    if path.exists():
        squared = np.nan_to_num(_on_grid(path, grid)).astype(np.float64) ** 2
        neuroids["ncsnr"] = np.sqrt(squared)
        neuroids["noise_ceiling"] = squared / (squared + 1 / 3)


NSD = Reader("nsd", read_nsd, NsdOptions, "Natural Scenes Dataset: single-trial betas of one subject, HDF5 or NIfTI")
