"""Recordings to and from NIfTI volumes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import apply_affine

from .errors import FormatError, InputError, ShapeError, TruncatedFileError
from .space import Space

if TYPE_CHECKING:
    from .coordinates import Table
    from .recording import Recording


def open_nifti(source: Any) -> nib.Nifti1Image:
    """A NIfTI image from a path or an image; `TruncatedFileError` or `FormatError` names the file if it is broken."""
    if not isinstance(source, str | PathLike):
        return source
    try:
        return nib.load(source)
    except FileNotFoundError as error:
        raise FormatError("does not exist", where=source) from error
    except Exception as error:
        raise FormatError(
            f"not a NIfTI file, or cut ({error})", where=source, remedy="Copy or download it again"
        ) from error


def read_nifti(source: Any) -> np.ndarray:
    """All values of a NIfTI image, float32, with the header's scaling applied."""
    image = open_nifti(source)
    try:
        return image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, ValueError) as error:
        name = fspath(source) if isinstance(source, str | PathLike) else image.get_filename()
        raise TruncatedFileError(
            f"ends before its header says it should ({error})", where=name, remedy="Copy or download it again"
        ) from error


def mask_coordinates(mask: Any) -> tuple[pd.DataFrame, Space, np.ndarray]:
    """Neuroid table (neuroid_id, i, j, k, x, y, z), space and boolean grid of a mask image."""
    image = open_nifti(mask)
    grid = read_nifti(mask) > 0
    grid = grid[..., 0] if grid.ndim == 4 and grid.shape[-1] == 1 else grid
    if not grid.any():
        raise InputError("the mask is empty", where=_name(mask), remedy="Give a mask with at least one voxel")
    ijk = np.argwhere(grid)
    xyz = apply_affine(image.affine, ijk)
    table = pd.DataFrame(ijk, columns=["i", "j", "k"])
    table[["x", "y", "z"]] = xyz
    table.insert(0, "neuroid_id", [f"v{i}_{j}_{k}" for i, j, k in ijk])
    return table, Space.volume(grid.shape, image.affine), grid


def recording_from_nifti(
    bold: Any, mask: Any, presentations: Table, attrs: Mapping[str, Any] | None = None
) -> Recording:
    """One presentation a volume of a 4-D image, one neuroid a voxel of a 3-D mask.

    Raises
    ------
    ShapeError : the mask has another grid than the volumes, or the table another length.
    TruncatedFileError, FormatError : the file is broken.
    """
    from .recording import Recording

    neuroids, space, grid = mask_coordinates(mask)
    volumes = read_nifti(bold)
    if volumes.shape[:3] != grid.shape:
        raise ShapeError(
            f"volumes of {volumes.shape[:3]} voxels, mask of {grid.shape}",
            where=_name(bold),
            remedy="Resample the mask to the volumes",
        )
    return Recording(volumes[grid].T, presentations, neuroids, space=space, attrs=attrs)


def to_nifti(recording: Recording, values: Any = None) -> nib.Nifti1Image:
    """Values per neuroid, (neuroid,) or (n, neuroid), as a volume; NaN becomes 0 outside the mask only."""
    if recording.space.kind != "volume":
        raise InputError(
            f"neuroids live in {recording.space.kind!r} space, not in a volume",
            remedy="Use to_gifti for surfaces",
        )
    values = recording.values if values is None else np.asarray(values)
    if values.shape[-1] != recording.n_neuroids:
        raise ShapeError(f"{values.shape[-1]} values for {recording.n_neuroids} neuroids")
    grid = np.zeros((*recording.space.shape, *values.shape[:-1]), np.float32)
    i, j, k = (recording.neuroid(axis) for axis in "ijk")
    grid[i, j, k] = np.moveaxis(values, -1, 0)
    return nib.Nifti1Image(grid, np.asarray(recording.space.affine))


def _name(source: Any) -> str | None:
    return fspath(source) if isinstance(source, str | PathLike) else source.get_filename()
