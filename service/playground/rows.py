"""Rows of responses from the content of an ``.npy`` file."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.lib import format as npy

from recordings.errors import FormatError, ShapeError

WHERE = "responses"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_rows(content: bytes) -> np.ndarray:
    """Responses float32 (row, unit) of an ``.npy`` file of floats, (row, unit) or (unit,).

    Nothing is unpickled, and no more memory is taken than the content has.

    Raises
    ------
    FormatError : not an ``.npy`` file, or one that was cut off. ShapeError : another rank or dtype.
    """
    file = io.BytesIO(content)
    try:
        shape, fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except (ValueError, KeyError) as error:
        raise FormatError("not an .npy file", where=WHERE, remedy="Save it with numpy.save") from error
    if dtype.kind != "f" or dtype.itemsize > 8 or len(shape) not in (1, 2) or min(shape) < 1:
        raise ShapeError(f"{dtype} of shape {shape}", where=WHERE, remedy="Save floats (row, unit)")
    size = math.prod(shape) * dtype.itemsize
    if len(content) - file.tell() != size:
        raise FormatError(f"{len(content) - file.tell()} bytes for {shape} {dtype}", where=WHERE, remedy="Save it anew")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    # Doubles too large for float32 become infinite, and are refused as such.
    with np.errstate(over="ignore"):
        values = flat.reshape(shape, order="F" if fortran else "C").astype(np.float32)
    return np.atleast_2d(np.ascontiguousarray(values))
