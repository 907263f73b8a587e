"""bdpy files (BrainDecoderToolbox2; Kamitani lab), such as Generic Object Decoding.

Never tried on real files.

Layout: HDF5 with

- ``dataset`` (or ``dataSet``): (sample, column) float64; voxels and what describes the sample side by side;
- ``metadata`` (or ``metaData``): key (key,), description (key,) and value (key, column). A key such as VoxelData, Run
  or stimulus_name marks its columns with 1; ROI_V1 marks voxels with 1; voxel_x holds a number for each voxel. Wherever
  a key says nothing about a column its value is NaN (or 0).
- ``vmap/<key>/<number>``: what a number in the column of that key stands for, if it stands for a text.

Stimulus numbers of Generic Object Decoding are WordNet and image number in one, 1518878.005958 for n01518878_5958: they
need float64, and are written out with six decimals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ..errors import FormatError, ShapeError, UnknownNameError
from ..space import Space
from .files import blocks_of, dataset, need, open_hdf5
from .registry import Contents, Options, Reader

_STIMULUS_KEYS = ("stimulus_name", "stimulus_id", "image_id", "image_index", "Label")


class BdpyOptions(Options):
    """Options of the format bdpy."""

    stimulus: str | None = None
    """Key whose column names the stimulus; by default stimulus_name, stimulus_id, image_id, image_index or Label."""
    drop_unknown: bool = True
    """Leave out samples whose stimulus is NaN, such as rest."""


def read_bdpy(source: Path, options: BdpyOptions) -> Contents:
    """Samples and voxels of a bdpy file; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : not such a file, or cut. ShapeError : metadata for another number of columns.
    UnknownNameError : no key of that name.
    """
    with open_hdf5(need(source)) as file:
        data = _either(file, "dataset", "dataSet")
        marks = _metadata(file, data.shape)
        if "VoxelData" not in marks:
            raise FormatError("no key VoxelData in its metadata", where=source, remedy=f"There are: {', '.join(marks)}")
        voxels = np.flatnonzero(marks["VoxelData"] == 1)
        presentations = _presentations(file, data, marks, options)
    keep = np.ones(len(presentations), bool)
    if options.drop_unknown:
        keep = (presentations["stimulus_id"] != "n/a").to_numpy()
    neuroids, rois = _neuroids(marks, voxels)
    return Contents(
        presentations[keep].reset_index(drop=True),
        neuroids,
        _blocks(source, voxels, np.flatnonzero(keep)),
        space=Space(),
        rois=rois,
    )


def _either(file: h5py.File, *names: str) -> Any:
    return dataset(file, next((n for n in names if n in file), names[0]))


def _metadata(file: h5py.File, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    group = next((n for n in ("metadata", "metaData") if n in file), "metadata")
    keys = [k.decode() if isinstance(k, bytes) else str(k) for k in dataset(file, f"{group}/key")[()]]
    values = np.asarray(dataset(file, f"{group}/value")[()], np.float64)
    if values.shape != (len(keys), shape[1]):
        turned = " (the data set may be transposed)" if values.shape == (len(keys), shape[0]) else ""
        raise ShapeError(f"metadata of shape {values.shape} for data of shape {shape}{turned}", where=file.filename)
    return dict(zip(keys, values, strict=True))


def _presentations(
    file: h5py.File, data: h5py.Dataset, marks: dict[str, np.ndarray], options: BdpyOptions
) -> pd.DataFrame:
    voxel = marks["VoxelData"] == 1
    table = {}
    for key, mark in marks.items():
        columns = np.flatnonzero((mark == 1) & ~voxel)
        if len(columns) == 1 and not (mark[voxel] == 1).any():
            table[key] = _labels(file, key, data[:, columns[0]])
    wanted = [options.stimulus] if options.stimulus else [k for k in _STIMULUS_KEYS if k in table]
    if not wanted or wanted[0] not in table:
        raise UnknownNameError(
            f"no key {options.stimulus!r}" if options.stimulus else "no key that names the stimulus",
            remedy=f"Name one with the option stimulus: {', '.join(table)}",
        )
    frame = pd.DataFrame({"stimulus_id": [_name(v) for v in table.pop(wanted[0])]})
    for key, values in table.items():
        # A key may be called what Penfield fills in itself.
        taken = key.lower() in ("stimulus_id", "repetition")
        frame[f"bdpy_{key.lower()}" if taken else key.lower()] = values
    return frame


def _labels(file: h5py.File, key: str, numbers: np.ndarray) -> np.ndarray:
    if f"vmap/{key}" not in file:
        return numbers
    texts = {}
    for number, node in file[f"vmap/{key}"].items():
        value = node[()]
        texts[float(number)] = value.decode() if isinstance(value, bytes) else str(value)
    unnamed = {n for n in numbers[~np.isnan(numbers)] if n not in texts}
    if unnamed:
        raise FormatError(f"number {min(unnamed):g} of {key!r} has no text in vmap", where=file.filename)
    return np.array([texts.get(n, "n/a") for n in numbers], object)


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value
    if np.isnan(value):
        return "n/a"
    return str(int(value)) if float(value).is_integer() else f"{value:.6f}"


def _neuroids(marks: dict[str, np.ndarray], voxels: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    regions = {key.removeprefix("ROI_"): mark[voxels] == 1 for key, mark in marks.items() if key.startswith("ROI_")}
    labels = np.full(len(voxels), "", object)
    for name, member in regions.items():
        labels[member] += f"|{name}"
    table = pd.DataFrame({"neuroid_id": [f"v{n}" for n in range(len(voxels))]})
    table["roi"] = [label.removeprefix("|") for label in labels]
    for key, mark in marks.items():
        if key.startswith("voxel_") and np.isfinite(mark[voxels]).all():
            name = key.removeprefix("voxel_")
            table[name] = mark[voxels].astype(int) if name in "ijk" else mark[voxels]
    return table, list(regions)


def _blocks(source: Path, voxels: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    low, high = int(voxels.min()), int(voxels.max()) + 1
    with open_hdf5(source) as file:
        data = _either(file, "dataset", "dataSet")
        for part in blocks_of(len(data), data.shape[1] * 8):
            wanted = rows[(rows >= part.start) & (rows < part.stop)]
            if len(wanted):
                yield np.asarray(data[part, low:high][wanted - part.start][:, voxels - low], np.float32)


BDPY = Reader("bdpy", read_bdpy, BdpyOptions, "bdpy HDF5 (Kamitani lab): samples, voxels, ROIs and labels in one file")
