"""Volumes of a 4-D image inside a mask, and what the mask says about each voxel."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ..errors import FormatError, ShapeError, TruncatedFileError
from ..space import Space
from ..volumes import mask_coordinates, read_nifti
from .files import AGAIN, BLOCK_BYTES, need


def open_bold(path: Path) -> nib.Nifti1Image:
    """A 4-D image whose file stays open, so that a compressed one is unpacked once and not for each block."""
    need(path)
    try:
        image = nib.load(path, keep_file_open=True)
    except Exception as error:
        raise FormatError(f"not a NIfTI file, or cut ({error})", where=path, remedy=AGAIN) from error
    if len(image.shape) != 4:
        raise ShapeError(f"image of shape {image.shape}", where=path, remedy="Give a 4-D image, time last")
    return image


def repetition_time(image: nib.Nifti1Image, tr: float | None) -> float:
    """Seconds a volume, from the option or the header."""
    if tr is not None:
        return tr
    seconds = float(image.header.get_zooms()[3])
    if image.header.get_xyzt_units()[1] == "msec":
        seconds /= 1000
    if seconds <= 0:
        raise FormatError("the header has no repetition time", where=image.get_filename(), remedy="Give the option tr")
    return seconds


def read_volumes(image: nib.Nifti1Image, grid: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Masked voxels of volumes ``start:stop``, (volume, neuroid) float32, a few volumes unpacked at a time.

    Raises
    ------
    ShapeError : the mask `grid` has another shape than the volumes. TruncatedFileError : the file is cut.
    """
    shape = image.shape
    if shape[:3] != grid.shape:
        raise ShapeError(
            f"volumes of {shape[:3]} voxels, mask of {grid.shape}",
            where=image.get_filename(),
            remedy="Resample the mask to the volumes",
        )
    values = np.empty((stop - start, int(grid.sum())), np.float32)
    step = max(1, BLOCK_BYTES // (32 * int(np.prod(shape[:3]))))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        values[first - start : last - start] = _volumes(image, first, last)[grid].T
    return values


def _volumes(image: nib.Nifti1Image, start: int, stop: int) -> np.ndarray:
    try:
        return np.asarray(image.dataobj[..., start:stop], np.float32)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TruncatedFileError(
            f"volumes {start} to {stop - 1} cannot be read: the file ends before its header says ({error})",
            where=image.get_filename(),
            remedy=AGAIN,
        ) from error


def masked_neuroids(mask: Path, rois: Mapping[str, Path]) -> tuple[pd.DataFrame, Space, np.ndarray, list[str] | None]:
    """Neuroid table with a column roi, space, boolean grid, and declared names, from a mask and ROI mask images."""
    neuroids, space, grid = mask_coordinates(need(mask))
    if not rois:
        return neuroids, space, grid, None
    labels = np.array([""] * len(neuroids), object)
    for name, path in rois.items():
        inside = read_nifti(need(path)) > 0
        inside = inside[..., 0] if inside.ndim == 4 and inside.shape[-1] == 1 else inside
        if inside.shape != grid.shape:
            raise ShapeError(f"ROI of shape {inside.shape}, mask of {grid.shape}", where=path)
        member = inside[grid]
        labels[member] = [f"{label}|{name}" if label else name for label in labels[member]]
    neuroids["roi"] = labels
    return neuroids, space, grid, list(rois)
