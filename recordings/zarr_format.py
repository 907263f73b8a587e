"""The layout of a recording on disk: a Zarr group that xarray reads, written block by block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from .coordinates import plain, roi_names
from .errors import FormatError, NotFiniteError, ShapeError, TruncatedFileError
from .storage import atomic_path

FORMAT_VERSION = 1
_CHUNK = (512, 4096)


def write_group(
    path: str | PathLike[str],
    blocks: Iterable[np.ndarray],
    presentations: pd.DataFrame,
    neuroids: pd.DataFrame,
    *,
    meta: Mapping[str, Any],
    time: Any = None,
    overwrite: bool = False,
    allow_nan: bool = False,
) -> None:
    """Stream blocks (rows, [time,] neuroid) into a group that appears under `path` when it is whole.

    `meta` holds space, declared regions (None: those of the table) and provenance, as JSON values.
    """
    middle = () if time is None else (len(np.asarray(time)),)
    shape = (len(presentations), *middle, len(neuroids))
    rois = list(roi_names(neuroids)) if meta["rois"] is None else meta["rois"]
    penfield = json.dumps({"format_version": FORMAT_VERSION, **meta, "rois": rois})
    with atomic_path(path, overwrite=overwrite) as part:
        _write_coordinates(part, presentations, neuroids, time)
        chunks = (min(_CHUNK[0], shape[0]), *middle, min(_CHUNK[1], shape[-1]))
        array = zarr.open_group(part, mode="a").create_array(
            "responses",
            shape=shape,
            chunks=tuple(max(c, 1) for c in chunks),
            dtype="float32",
            config={"write_empty_chunks": True},
            # Without it a flipped bit would read as a plausible number.
            compressors=[ZstdCodec(level=0, checksum=True)],
            dimension_names=("presentation", *(("time",) if middle else ()), "neuroid"),
            attributes={"penfield": penfield, "coordinates": " ".join([*presentations, *neuroids])},
        )
        _fill(array, blocks, neuroids, allow_nan)


def open_group(path: str | PathLike[str]) -> tuple[xr.DataArray, dict[str, Any]]:
    """The lazy responses of a group with their coordinates, and its `meta`.

    Raises
    ------
    FormatError : not a recording of this format version. TruncatedFileError : chunks are missing.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError("does not exist", where=path, remedy="Give the folder that `penfield import` wrote")
    try:
        data = xr.open_dataset(path, engine="zarr", chunks=None, cache=False, consolidated=False)["responses"]
    except (KeyError, ValueError, OSError, zarr.errors.BaseZarrError) as error:
        raise FormatError(
            f"not a Penfield recording ({error})", where=path, remedy="Import the source again"
        ) from error
    meta = json.loads(data.attrs.pop("penfield", "{}"))
    if meta.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"recording format {meta.get('format_version')}, expected {FORMAT_VERSION}",
            where=path,
            remedy="Import the source again with this version of Penfield",
        )
    _check_whole(path)
    return _like_in_memory(data, path), meta


def _like_in_memory(data: xr.DataArray, path: Path) -> xr.DataArray:
    # The order in which they were written, not that of the folder; strings as Python objects, since scikit-learn and
    # scipy do not take NumPy's StringDType.
    written = data.encoding.get("coordinates", "").split()
    names = sorted(data.coords, key=lambda name: written.index(name) if name in written else len(written))
    coords: dict[Any, Any] = {name: data.coords[name].variable for name in names}
    for name, column in coords.items():
        if column.dtype.kind == "T":
            coords[name] = (column.dims, column.values.astype(object))
    ordered = data.reset_coords(drop=True).assign_coords(coords)
    ordered.encoding |= {"source": str(path)}
    return ordered


def _fill(array: zarr.Array, blocks: Iterable[np.ndarray], neuroids: pd.DataFrame, allow_nan: bool) -> None:
    row = 0
    for block in blocks:
        if not allow_nan:
            check_finite(block, neuroids, row)
        if block.shape[1:] != array.shape[1:] or row + len(block) > array.shape[0]:
            raise ShapeError(f"block of shape {block.shape} at row {row} of a recording of shape {array.shape}")
        array[row : row + len(block)] = np.asarray(block, np.float32)
        row += len(block)
    if row != array.shape[0]:
        raise ShapeError(f"{row} rows of responses for {array.shape[0]} presentations")


def _write_coordinates(path: Path, presentations: pd.DataFrame, neuroids: pd.DataFrame, time: Any) -> None:
    coords = {c: ("presentation", plain(presentations[c])) for c in presentations}
    coords |= {c: ("neuroid", plain(neuroids[c])) for c in neuroids}
    if time is not None:
        coords["time"] = ("time", np.asarray(time, np.float64))
    xr.Dataset(coords=coords).to_zarr(path, mode="w", consolidated=False, zarr_format=3)


def _check_whole(path: Path) -> None:
    # A chunk that vanished from disk would read as zeros, which is a plausible number.
    array = zarr.open_group(path, mode="r")["responses"]
    if not isinstance(array, zarr.Array) or array.nchunks_initialized != array.nchunks:
        raise TruncatedFileError("chunks of the responses are missing", where=path, remedy="Import the source again")


def check_finite(block: np.ndarray, neuroids: pd.DataFrame, first_row: int) -> None:
    """Raise `NotFiniteError` that names the first bad value of a block, whose first row is `first_row`."""
    bad = ~np.isfinite(block)
    if bad.any():
        first = np.argwhere(bad)[0]
        count = int(bad.any(axis=tuple(range(bad.ndim - 1))).sum())
        raise NotFiniteError(
            f"presentation {first_row + first[0]} has a NaN or infinite value in neuroid "
            f"{neuroids['neuroid_id'].iloc[first[-1]]!r} ({count} neuroids affected in this block)",
            remedy="Mask these neuroids or interpolate them before importing",
        )
