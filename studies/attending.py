"""Where an encoder looks, written out: maps of attention, a table by query, overlays, and maps of the brain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from PIL import Image

from encoders import AttentionMaps
from encoders.attention.maps import overlay
from recordings import Recording, Stimuli
from recordings.errors import InputError
from recordings.storage import atomic_path

MAP_BYTES = 4e9


def check_size(n_stimuli: int, n_queries: int, n_places: int) -> None:
    """Raise `InputError` if attention maps would take more than 4 GB of memory."""
    needed = 4 * n_stimuli * n_queries * n_places
    if needed > MAP_BYTES:
        raise InputError(
            f"maps of {n_stimuli} stimuli and {n_queries} queries take {needed / 1e9:.0f} GB",
            where="attention",
            remedy="Name fewer of them (--query, --stimulus)",
        )


def save_maps(
    values: np.ndarray,
    path: Path,
    *,
    per_head: bool = False,
    overwrite: bool = False,
    **names: Sequence[str],
) -> None:
    """Write maps (stimulus, [query, [head,]] [frame,] row, column) to .npz or to .zarr (xarray), as ``weights``.

    Parameters
    ----------
    names : of stimuli, and of queries if there are any: stimulus_id=..., query=...

    Raises
    ------
    InputError : another ending.
    """
    if path.suffix not in (".npz", ".zarr"):
        raise InputError("maps are written as .npz or .zarr", where=path, remedy="Choose a name with such an ending")
    coords: dict[str, Any] = {axis: np.array(labels, dtype=str) for axis, labels in names.items()}
    with atomic_path(path, overwrite=overwrite) as part:
        if path.suffix == ".npz":
            with part.open("wb") as file:
                np.savez_compressed(file, weights=values, **coords)
            return
        dims = [*coords, *(["head"] if per_head else [])]
        dims += ["frame", "row", "column"][len(dims) - values.ndim :]
        xr.DataArray(values, dims=dims, coords=coords, name="weights").to_dataset().to_zarr(part, mode="w")


def summarise_attention(maps: AttentionMaps) -> pd.DataFrame:
    """One row a query: x, y, sigma, floor and r2 of its mean map (`AttentionMaps.centre_and_spread`); entropy, its mean
    over pictures relative to even attention; and content, the content index, NaN for a single picture."""
    table = maps.centre_and_spread()
    entropy, content = maps.entropy(relative=True).mean(0), np.full(len(maps.queries), np.nan)
    if len(maps) > 1:
        content = maps.content_index()
        content = content.mean(1) if maps.per_head else content
    table["entropy"] = entropy.mean(1) if maps.per_head else entropy
    table["content"] = content
    return table


def write_overlays(maps: AttentionMaps, stimuli: Stimuli, folder: Path, *, overwrite: bool = False) -> int:
    """Write ``STIMULUS/QUERY.png``, the picture with each query's attention laid over it; how many there are.

    Clips are shown by their middle frame.
    """
    with atomic_path(folder, overwrite=overwrite) as part:
        shown = stimuli.select(list(map(str, maps.stimulus_ids)))
        for row, (stimulus_id, picture) in enumerate(zip(maps.stimulus_ids, shown, strict=True)):
            picture = picture[len(picture) // 2] if picture.ndim == 4 else picture
            place = part / _file_name(str(stimulus_id))
            place.mkdir(parents=True)
            for column, query in enumerate(maps.queries):
                image = overlay(picture, maps.in_space[row, column])
                Image.fromarray(image).save(place / f"{_file_name(query)}.png")
    return len(maps) * len(maps.queries)


def write_brain_maps(
    recording: Recording, values: dict[str, ArrayLike], folder: Path, *, overwrite: bool = False
) -> list[str]:
    """Write values by neuroid as maps of the brain, and return the files' names.

    On a surface they are ``NAME.L.func.gii`` and ``NAME.R.func.gii``, in a volume ``NAME.nii.gz``.

    Raises
    ------
    InputError : the recording lies neither on a surface nor in a volume.
    """
    written = []
    with atomic_path(folder, overwrite=overwrite) as part:
        part.mkdir(parents=True)
        for name, numbers in values.items():
            row = np.asarray(numbers, np.float32)
            images: dict[str, Any]
            if recording.space.kind == "surface":
                images = {f"{name}.{side}.func.gii": image for side, image in recording.to_gifti(row).items()}
            else:
                images = {f"{name}.nii.gz": recording.to_nifti(row)}
            for file, image in images.items():
                image.to_filename(part / file)
                written.append(file)
    return written


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
