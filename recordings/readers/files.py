"""Opening arrays, tables, HDF5 and MATLAB files with errors that name the file and never with pickle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from scipy.io import loadmat
from scipy.io.matlab import MatReadError, mat_struct

from ..errors import FormatError, InputError, ShapeError, TruncatedFileError

BLOCK_BYTES = 128 * 2**20
AGAIN = "Copy or download it again"


def need(path: Path) -> Path:
    """The path, or `FormatError` if nothing stands there."""
    if not path.exists():
        raise FormatError("does not exist", where=path)
    return path


def open_array(path: Path, ndim: Sequence[int] = ()) -> np.ndarray:
    """A ``.npy`` file as a memory map.

    Raises
    ------
    TruncatedFileError : shorter than its header says. FormatError : not an array of numbers.
    ShapeError : not one of the allowed numbers of dims.
    """
    try:
        array = np.load(need(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        message = str(error).lower()
        if "mmap length" in message or "no data left" in message or isinstance(error, EOFError):
            raise TruncatedFileError("ends before its header says it should", where=path, remedy=AGAIN) from error
        raise FormatError(f"not a NumPy array of numbers ({error})", where=path) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise FormatError(f"holds {getattr(array, 'dtype', 'an archive')}, not numbers", where=path)
    if ndim and array.ndim not in ndim:
        raise ShapeError(f"array of shape {array.shape}", where=path, remedy=f"Expected {_either(ndim)} dims")
    return array


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def read_table(path: Path, required: Sequence[str] = (), **kwargs: Any) -> pd.DataFrame:
    """A CSV (or, by its ending, tab-separated) table that has the required columns; `FormatError` otherwise."""
    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        table = pd.read_csv(need(path), sep=kwargs.pop("sep", separator), **kwargs)
    except (OSError, ValueError) as error:
        raise FormatError(f"not a readable table ({error})", where=path) from error
    missing = [c for c in required if c not in table]
    if missing:
        raise FormatError(
            f"lacks the column {missing[0]!r}", where=path, remedy=f"There are: {', '.join(map(str, table.columns))}"
        )
    return table


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file; errors while it is open become `TruncatedFileError` or `FormatError` that name it."""
    try:
        with h5py.File(need(path), "r") as file:
            yield file
    except OSError as error:
        if isinstance(error, InputError):
            raise
        kind = "truncated" if "truncated" in str(error).lower() else "not a readable HDF5 file"
        wanted = TruncatedFileError if kind == "truncated" or "read" in str(error).lower() else FormatError
        raise wanted(f"{kind} ({error})", where=path, remedy=AGAIN) from error


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of an open HDF5 file; `FormatError` lists what there is instead."""
    if name not in file or not isinstance(file[name], h5py.Dataset):
        raise FormatError(f"no dataset {name!r}", where=file.filename, remedy=f"There are: {', '.join(file)}")
    return file[name]


def read_mat(path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a MATLAB file, version 5 (scipy) or 7.3 (HDF5, whose arrays come transposed and are turned back).

    Structs come as dicts, cell arrays and struct arrays as lists (in MATLAB's column order), text as str.
    """
    if h5py.is_hdf5(need(path)):
        with open_hdf5(path) as file:
            wanted = [n for n in file if n != "#refs#" and (names is None or n in names)]
            return {name: _from_hdf5(file[name], file) for name in wanted}
    try:
        found = loadmat(path, variable_names=names, squeeze_me=True, struct_as_record=False)
    except (MatReadError, ValueError, TypeError, OSError, EOFError, NotImplementedError) as error:
        raise TruncatedFileError(f"not a whole MATLAB file ({error})", where=path, remedy=AGAIN) from error
    except Exception as error:
        # zlib has an error class of its own for a compressed variable that is cut.
        raise TruncatedFileError(f"cannot be read to its end ({error})", where=path, remedy=AGAIN) from error
    return {name: _from_mat5(v) for name, v in found.items() if not name.startswith("__")}


def _from_mat5(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_from_mat5(v) for v in value.ravel(order="F")]
    if isinstance(value, mat_struct):
        return {name: _from_mat5(getattr(value, name)) for name in value._fieldnames}
    return str(value) if isinstance(value, np.str_) else value


def _from_hdf5(node: h5py.Group | h5py.Dataset, file: h5py.File) -> Any:
    if isinstance(node, h5py.Group):
        fields = {name: _from_hdf5(child, file) for name, child in node.items()}
        lengths = {len(v) for v in fields.values() if isinstance(v, list)}
        # A struct array is stored as one cell array a field.
        if len(lengths) == 1 and all(isinstance(v, list) for v in fields.values()):
            return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
        return fields
    kind = node.attrs.get("MATLAB_class", b"").decode()
    values = node[()]
    if node.dtype == h5py.ref_dtype:
        return [_from_hdf5(file[r], file) for r in values.ravel()]
    if kind == "char":
        return "".join(chr(c) for c in values.ravel())
    return values.T


def blocks_of(n: int, bytes_per_row: int) -> list[slice]:
    """Consecutive slices of n rows, each of at most `BLOCK_BYTES` and at least one row."""
    rows = max(1, min(512, BLOCK_BYTES // max(bytes_per_row, 1)))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
