"""CIFTI-2 time series and scalar maps (Human Connectome Project).

Never tried on real files.

Layout: ``.dtseries.nii`` (volume, grayordinate) with its repetition time, or ``.dscalar.nii`` (map, grayordinate)
whose map names are the stimulus ids. Cortex becomes a surface recording (hemisphere, vertex; the medial wall is not in
the file); with `subcortex` voxels come too (structure, i, j, k) and the recording has no single space. A
``.dlabel.nii`` over the same grayordinates gives the ROI. Read a run at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.cifti2 import cifti2_axes

from ..errors import FormatError, MismatchedIdsError, TruncatedFileError
from ..space import HEMISPHERES, Space
from .files import AGAIN, need
from .gifti import SURFACES
from .registry import Contents, Reader
from .series import Run, series_blocks, series_presentations
from .timing import TimingOptions, cut_runs

_CORTEX = {"CIFTI_STRUCTURE_CORTEX_LEFT": "L", "CIFTI_STRUCTURE_CORTEX_RIGHT": "R"}


class CiftiOptions(TimingOptions):
    """Options of the format cifti."""

    subcortex: bool = False
    """Read voxels too, and not the cortical surface alone."""
    rois: Path | None = None
    """A .dlabel.nii over the same grayordinates; its first map gives the ROI."""
    surface: str | None = None
    """Name of the mesh; by default known from the number of vertices."""


def read_cifti(source: Path, options: CiftiOptions) -> Contents:
    """Grayordinates as one row a volume, block, trial, single-trial beta or map.

    Raises
    ------
    FormatError, TruncatedFileError : not a CIFTI-2 file of these kinds, or cut. MismatchedIdsError : the labels are
    over other grayordinates.
    """
    image = open_cifti(source)
    rows, models = (image.header.get_axis(i) for i in range(2))
    if not isinstance(models, cifti2_axes.BrainModelAxis):
        raise FormatError(
            "not over grayordinates", where=source, remedy="Give a dtseries or dscalar, not a parcellated"
        )
    table = _grayordinates(models)
    keep = np.flatnonzero(np.ones(len(table), bool) if options.subcortex else table["hemisphere"] != "")
    neuroids, rois = table.iloc[keep].reset_index(drop=True), None
    if options.rois is not None:
        rois, labels = _labels(options.rois, models)
        neuroids["roi"] = labels[keep]
    if not options.subcortex:
        neuroids = neuroids.drop(columns=["structure", "i", "j", "k"])

    def read(start: int, stop: int) -> np.ndarray:
        return _rows(image, start, stop, source)[:, keep]

    runs = _runs(read, rows, options, source)
    return Contents(
        series_presentations(runs, options),
        neuroids,
        series_blocks(runs, options),
        space=Space() if options.subcortex else _space(models, options.surface),
        rois=rois,
    )


def open_cifti(path: Path) -> Any:
    """A CIFTI-2 image; `FormatError` or `TruncatedFileError` otherwise."""
    try:
        image = nib.load(need(path))
    except Exception as error:
        raise TruncatedFileError(f"not a whole CIFTI file ({error})", where=path, remedy=AGAIN) from error
    if not isinstance(image, nib.Cifti2Image):
        raise FormatError("not a CIFTI-2 file", where=path)
    return image


def _runs(read: Any, rows: Any, options: CiftiOptions, source: Path) -> list[Run]:
    if isinstance(rows, cifti2_axes.SeriesAxis):
        if options.tr is None and rows.unit != "SECOND":
            raise FormatError(f"a series in {rows.unit}s, not seconds", where=source, remedy="Give the option tr")
        return cut_runs(read, len(rows), options.tr or float(rows.step), options, source)
    if not isinstance(rows, cifti2_axes.ScalarAxis):
        raise FormatError("neither a dtseries nor a dscalar", where=source)
    runs = cut_runs(read, len(rows), options.tr or 1.0, options, source)
    if len(runs) == 1 and runs[0].table is None and options.events is None:
        runs[0].table = pd.DataFrame({"stimulus_id": [str(name) for name in rows.name]})
    return runs


def _rows(image: Any, start: int, stop: int, path: Path) -> np.ndarray:
    try:
        return np.asarray(image.dataobj[start:stop], np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise TruncatedFileError(f"rows {start} to {stop - 1} cannot be read ({error})", where=path) from error


def _grayordinates(models: Any) -> pd.DataFrame:
    structure = np.asarray(models.name).astype(str)
    side = np.array([_CORTEX.get(name, "") for name in structure], object)
    short = [name.removeprefix("CIFTI_STRUCTURE_").lower() for name in structure]
    ids = [
        f"{s}{v}" if s else f"{name}-{i}_{j}_{k}"
        for s, name, v, (i, j, k) in zip(side, short, models.vertex, models.voxel, strict=True)
    ]
    i, j, k = np.asarray(models.voxel).T
    fields = {"hemisphere": side, "vertex": models.vertex, "structure": short, "i": i, "j": j, "k": k}
    return pd.DataFrame({"neuroid_id": ids, **fields})


def _labels(path: Path, models: Any) -> tuple[list[str], np.ndarray]:
    image = open_cifti(path)
    maps, other = (image.header.get_axis(i) for i in range(2))
    if not isinstance(maps, cifti2_axes.LabelAxis):
        raise FormatError("not a dlabel file", where=path)
    if other != models:
        raise MismatchedIdsError("the labels are over other grayordinates than the responses", where=path)
    names = {key: str(name) for key, (name, _) in maps.label[0].items() if key > 0 and name != "???"}
    keys = np.asarray(image.dataobj[0]).astype(int)
    return list(names.values()), np.array([names.get(int(key), "") for key in keys], object)


def _space(models: Any, name: str | None) -> Space:
    sizes = {_CORTEX[s]: int(n) for s, n in models.nvertices.items() if s in _CORTEX}
    if not sizes:
        raise FormatError("no cortical surface in it", remedy="Give the option subcortex")
    both = [sizes.get(side, next(iter(sizes.values()))) for side in HEMISPHERES]
    return Space.surface(name or SURFACES.get(both[0], "native"), (both[0], both[1]))


CIFTI = Reader("cifti", read_cifti, CiftiOptions, "CIFTI-2 dtseries or dscalar, cortex or all grayordinates")
