"""A plain NumPy array of responses, with tables or images beside it if there are any.

Tried on real files: the mouse V1 responses of Antolik et al. (2016), (repetition, stimulus, neuron).

Layout: one ``.npy`` file of numbers. The option `dims` says what its axes are. ``presentations`` and ``neuroids`` are
CSV tables with one row an entry of these axes; ``images`` are an array with one image a stimulus. The file is read
through a memory map, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..coordinates import neuroid_table
from ..errors import FormatError, NotFiniteError, ShapeError, naming
from ..stimuli import Stimuli
from .files import blocks_of, open_array, read_table
from .registry import Contents, Options, Reader

Dims = Literal[
    "presentation,neuroid",
    "neuroid,presentation",
    "presentation,time,neuroid",
    "repetition,stimulus,neuroid",
    "stimulus,repetition,neuroid",
]


class NpyOptions(Options):
    """Options of the format npy."""

    dims: Dims | None = None
    """Axes of the array; by default presentation,neuroid for two and repetition,stimulus,neuroid for three."""
    presentations: Path | None = None
    """CSV, one row a presentation (or a stimulus, if the array has such an axis); the column stimulus_id names it."""
    neuroids: Path | None = None
    """CSV, one row a neuroid: neuroid_id, roi, x, y, z, ..."""
    images: Path | None = None
    """Array .npy with one image a stimulus: (n, H, W), (n, H, W, 3), or (n, pixels) with image_shape. Other numbers
    than 8-bit ones are scaled linearly over the whole set, its minimum to 0 and its maximum to 255."""
    image_shape: tuple[int, int] | None = None
    """Height and width of images that are stored as rows of pixels."""
    time_step: float = 1.0
    """Seconds between time bins."""


def read_npy(source: Path, options: NpyOptions) -> Contents:
    """An array of responses; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : not a whole array of numbers. ShapeError : the tables, images or dims do not fit.
    """
    array = open_array(source, (2, 3))
    dims = (options.dims or ("presentation,neuroid" if array.ndim == 2 else "repetition,stimulus,neuroid")).split(",")
    if len(dims) != array.ndim:
        raise ShapeError(f"array of shape {array.shape} cannot have the axes {', '.join(dims)}", where=source)
    size = dict(zip(dims, array.shape, strict=True))
    rows = size.get("presentation", size.get("stimulus", 0))
    table = _table(options.presentations, rows, "stimulus_id", "stim{:05d}", "presentations")
    return Contents(
        presentations=_presentations(table, size),
        neuroids=_table(options.neuroids, size["neuroid"], "neuroid_id", "n{}", "neuroids"),
        blocks=_blocks(array, dims),
        time=np.arange(size["time"]) * options.time_step if "time" in size else None,
        stimuli=None if options.images is None else _stimuli(options.images, options.image_shape, table),
    )


def _table(path: Path | None, n: int, key: str, name: str, what: str) -> pd.DataFrame:
    if path is None:
        return pd.DataFrame({key: [name.format(i) for i in range(n)]})
    table = read_table(path, (key,), dtype={key: str})
    if len(table) != n:
        raise ShapeError(f"{len(table)} rows for {n} {what}", where=path)
    with naming(path):
        return neuroid_table(table, n) if key == "neuroid_id" else table


def _presentations(table: pd.DataFrame, size: dict[str, int]) -> pd.DataFrame:
    if "repetition" not in size:
        return table
    return pd.concat([table.assign(repetition=r) for r in range(size["repetition"])], ignore_index=True)


def _blocks(array: np.ndarray, dims: list[str]) -> Iterator[np.ndarray]:
    # Presentations run repetition by repetition, whichever way they are stored.
    if dims[0] in ("repetition", "stimulus"):
        ordered: Any = array if dims[0] == "repetition" else np.moveaxis(array, 1, 0)
        for block in ordered:
            for rows in blocks_of(len(block), block[0].size * 8):
                yield np.asarray(block[rows], np.float32)
        return
    ordered = array.T if dims[0] == "neuroid" else array
    for rows in blocks_of(len(ordered), ordered[0].size * 8):
        yield np.asarray(ordered[rows], np.float32)


def _stimuli(path: Path, shape: tuple[int, int] | None, table: pd.DataFrame) -> Stimuli:
    images = np.asarray(open_array(path, (2, 3, 4)))
    if images.ndim == 2:
        if shape is None or shape[0] * shape[1] != images.shape[1]:
            raise ShapeError(f"images of {images.shape[1]} pixels", where=path, remedy="Give a fitting image_shape")
        images = images.reshape(len(images), *shape)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    unique = table["stimulus_id"].drop_duplicates()
    if len(images) != len(unique) or images.shape[-1] != 3:
        raise ShapeError(f"images of shape {images.shape} for {len(unique)} stimuli", where=path)
    return Stimuli.from_arrays(_eight_bit(images, path), list(unique))


def _eight_bit(images: np.ndarray, path: Path) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise NotFiniteError("an image has NaN or infinite pixels", where=path)
    if high <= low:
        raise FormatError("all pixels of all images are the same", where=path)
    return np.round((images - low) * (255 / (high - low))).astype(np.uint8)


NPY = Reader("npy", read_npy, NpyOptions, "plain NumPy array of responses", tried_on_real_files=True)
