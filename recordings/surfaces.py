"""Recordings to GIFTI surface maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from .errors import InputError, ShapeError
from .space import HEMISPHERES

if TYPE_CHECKING:
    from .recording import Recording


def surface_maps(recording: Recording, values: Any) -> dict[str, np.ndarray]:
    """Values per neuroid, (neuroid,), spread over all vertices of each hemisphere, NaN where there is no neuroid."""
    if recording.space.kind != "surface":
        raise InputError(
            f"neuroids live in {recording.space.kind!r} space, not on a surface",
            remedy="Use to_nifti for volumes",
        )
    values = np.asarray(values, np.float32)
    if values.shape[-1] != recording.n_neuroids:
        raise ShapeError(f"{values.shape[-1]} values for {recording.n_neuroids} neuroids")
    sides, vertices = recording.neuroid("hemisphere"), recording.neuroid("vertex")
    maps = {}
    for side, size in zip(HEMISPHERES, recording.space.shape, strict=True):
        here = sides == side
        maps[side] = np.full((*values.shape[:-1], size), np.nan, np.float32)
        maps[side][..., vertices[here]] = values[..., here]
    return maps


def to_gifti(recording: Recording, values: Any) -> dict[str, nib.GiftiImage]:
    """One GIFTI image a hemisphere, keyed L and R; one data array a row of `values`, NaN outside the recording."""
    structures = {"L": "CortexLeft", "R": "CortexRight"}
    images = {}
    for side, maps in surface_maps(recording, values).items():
        arrays = [
            nib.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
            for row in np.atleast_2d(maps)
        ]
        meta = nib.gifti.GiftiMetaData(AnatomicalStructurePrimary=structures[side])
        images[side] = nib.GiftiImage(darrays=arrays, meta=meta)
    return images
