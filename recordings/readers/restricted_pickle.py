"""Reads the one published file that is a pickle, ``mapping_*.npy`` of Algonauts 2023, without running what it says.

An ``.npy`` file of one Python object is a header and a pickled 0-d array. Unpickling may call any function that the
stream names; here it may name only what rebuilds such an array and NumPy scalars. Everything else is refused before it
is imported.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from ..errors import FormatError, TruncatedFileError
from .files import need

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
_ALLOWED |= {(m, name): getattr(multiarray, name) for m in _MODULES for name in ("_reconstruct", "scalar")}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is no dict, int, str or NumPy scalar")
        return _ALLOWED[module, name]


def load_mapping(path: Path) -> dict[int, str]:
    """Region number to name.

    Raises
    ------
    FormatError : the file holds anything but such a dict, or names anything but what rebuilds one.
    TruncatedFileError : it is cut.
    """
    try:
        with need(path).open("rb") as file:
            _skip_header(file, path)
            found = _Unpickler(file).load()
    except (EOFError, pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        cut = isinstance(error, EOFError) or "truncated" in str(error)
        kind = TruncatedFileError if cut else FormatError
        raise kind(f"not a mapping of region numbers to names ({error})", where=path) from error
    mapping = found.item() if isinstance(found, np.ndarray) and found.shape == () else found
    if not isinstance(mapping, dict):
        raise FormatError(f"holds a {type(mapping).__name__}, not a dict", where=path)
    whole = all(isinstance(k, int | np.integer) and isinstance(v, str) for k, v in mapping.items())
    if not whole:
        raise FormatError("its dict is not from whole numbers to names", where=path)
    return {int(k): str(v) for k, v in mapping.items()}


def _skip_header(file: Any, path: Path) -> None:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise FormatError(f"version {version} of .npy is not known here", where=path)
    shape, _, dtype = readers[version](file)
    if shape != () or dtype != np.dtype(object):
        raise FormatError(f"holds an array of shape {shape} and dtype {dtype}, not one dict", where=path)
