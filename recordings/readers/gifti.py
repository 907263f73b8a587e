"""GIFTI functional data on a cortical surface, one file a hemisphere.

Never tried on real files.

Layout: ``*hemi-L*.func.gii`` and ``*hemi-R*.func.gii`` (fMRIPrep; FreeSurfer's ``lh.*`` and ``rh.*`` are known too) or
one of them, in a folder or named by the left one. One data array a volume, as the standard has it, or a single array
(vertex, volume), as some writers have it. A region of interest comes from ``.label.gii`` files. GIFTI is XML: a file is
read whole, so memory holds one hemisphere at a time and then both of one run.
"""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ..errors import FormatError, InputError, ShapeError, TruncatedFileError
from ..space import HEMISPHERES, Space
from .files import AGAIN, need
from .registry import Contents, Reader
from .series import series_blocks, series_presentations
from .timing import TimingOptions, cut_runs

SURFACES = {2562: "fsaverage4", 10242: "fsaverage5", 40962: "fsaverage6", 163842: "fsaverage", 32492: "fsLR_32k"}
_SIDE = {"L": r"hemi-L|(?:^|[._])lh[._]|\.L\.", "R": r"hemi-R|(?:^|[._])rh[._]|\.R\."}


class GiftiOptions(TimingOptions):
    """Options of the format gifti."""

    right: Path | None = None
    """File of the right hemisphere; by default the left one's name with R for L."""
    surface: str | None = None
    """Name of the mesh; by default known from the number of vertices (fsaverage, fsLR), else native."""
    labels_left: Path | None = None
    """GIFTI labels (.label.gii) of the left hemisphere; they become the ROI."""
    labels_right: Path | None = None
    """GIFTI labels of the right hemisphere."""
    drop_empty: bool = False
    """Leave out vertices that are 0 or NaN in all volumes, such as the medial wall."""


def read_gifti(source: Path, options: GiftiOptions) -> Contents:
    """Surface time series or betas as one row a volume, block, trial or single-trial beta.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : hemispheres, labels or tables have
    different lengths.
    """
    files = _hemispheres(need(source), options)
    values = {side: read_surface(path) for side, path in files.items()}
    if len({len(v) for v in values.values()}) > 1:
        raise ShapeError(
            "the hemispheres have " + " and ".join(f"{len(v)}" for v in values.values()) + " volumes", where=source
        )
    neuroids, rois = _neuroids(values, options)
    everything = np.concatenate(list(values.values()), axis=1)
    if options.drop_empty:
        used = (np.nan_to_num(everything) != 0).any(0)
        neuroids, everything = neuroids[used].reset_index(drop=True), everything[:, used]
    space = _space({side: v.shape[1] for side, v in values.items()}, options.surface)
    tr = options.tr or 1.0
    runs = cut_runs(lambda start, stop: everything[start:stop], len(everything), tr, options, source)
    return Contents(
        series_presentations(runs, options),
        neuroids,
        series_blocks(runs, options),
        space=space,
        rois=rois,
        attrs={"tr": tr} if options.tr else {},
    )


def read_surface(path: Path) -> np.ndarray:
    """All data arrays of a GIFTI file, (volume, vertex) float32."""
    arrays = [np.asarray(array.data) for array in open_gifti(path).darrays]
    if not arrays:
        raise FormatError("holds no data array", where=path)
    if len(arrays) == 1 and arrays[0].ndim == 2:
        return np.ascontiguousarray(arrays[0].T, np.float32)
    if any(a.ndim != 1 or len(a) != len(arrays[0]) for a in arrays):
        raise ShapeError("data arrays of different lengths", where=path, remedy="Give functional data, no geometry")
    return np.stack(arrays).astype(np.float32)


def open_gifti(path: Path) -> nib.GiftiImage:
    """A GIFTI image; `TruncatedFileError` if its XML or its data end early."""
    try:
        image = nib.load(need(path))
    except Exception as error:
        raise TruncatedFileError(f"not a whole GIFTI file ({error})", where=path, remedy=AGAIN) from error
    if not isinstance(image, nib.GiftiImage):
        raise FormatError("not a GIFTI file", where=path)
    return image


def _hemispheres(source: Path, options: GiftiOptions) -> dict[str, Path]:
    if source.is_dir():
        files = sorted([*source.glob("*.func.gii"), *source.glob("*.shape.gii")])
        found = {side: [f for f in files if re.search(pattern, f.name)] for side, pattern in _SIDE.items()}
        if any(len(f) > 1 for f in found.values()) or not any(found.values()):
            raise InputError("not one functional file a hemisphere in it", where=source, remedy="Name the left file")
        return {side: f[0] for side, f in found.items() if f}
    if options.right is not None:
        return {"L": source, "R": need(options.right)}
    if re.search(_SIDE["R"], source.name):
        return {"R": source}
    other = source.with_name(
        re.sub(r"hemi-L", "hemi-R", re.sub(r"(^|[._])lh([._])", r"\1rh\2", source.name)).replace(".L.", ".R.")
    )
    return {"L": source} | ({"R": other} if other != source and other.exists() else {})


def _neuroids(values: dict[str, np.ndarray], options: GiftiOptions) -> tuple[pd.DataFrame, list[str] | None]:
    labels = {"L": options.labels_left, "R": options.labels_right}
    tables, declared = [], []
    for side, data in values.items():
        vertex = np.arange(data.shape[1])
        table = pd.DataFrame({"neuroid_id": [f"{side}{v}" for v in vertex], "hemisphere": side, "vertex": vertex})
        path = labels[side]
        if path is not None:
            names, table["roi"] = _labels(path, len(vertex))
            declared += names
        tables.append(table)
    neuroids = pd.concat(tables, ignore_index=True)
    if "roi" not in neuroids:
        return neuroids, None
    return neuroids.fillna({"roi": ""}), list(dict.fromkeys(declared))


def _labels(path: Path, n: int) -> tuple[list[str], list[str]]:
    image = open_gifti(path)
    keys = np.asarray(image.darrays[0].data).ravel()
    if len(keys) != n:
        raise ShapeError(f"{len(keys)} labels for {n} vertices", where=path)
    names = {k: str(v) for k, v in image.labeltable.get_labels_as_dict().items() if k > 0 and v not in ("", "???")}
    return list(names.values()), [names.get(int(k), "") for k in keys]


def _space(sizes: dict[str, int], name: str | None) -> Space:
    both = [sizes.get(side, next(iter(sizes.values()))) for side in HEMISPHERES]
    known = SURFACES.get(both[0]) if both[0] == both[1] else None
    return Space.surface(name or known or "native", (both[0], both[1]))


GIFTI = Reader(
    "gifti",
    read_gifti,
    GiftiOptions,
    "GIFTI functional data on a surface, one file a hemisphere, with labels or events",
)
