"""Arrays on the wire: dtype, shape and little-endian bytes, checked before anything is computed with them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from recordings.errors import InputError, NotFiniteError, ShapeError
from service.errors import BudgetError
from service.generated.penfield.v1 import tensor_pb2

DTYPES = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype("bool"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("uint8"),
    tensor_pb2.DATA_TYPE_UINT16: np.dtype("uint16"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("int32"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("int64"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("float16"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("float32"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("float64"),
}
MAX_AXES = 16
_TYPES = {dtype: number for number, dtype in DTYPES.items()}


def to_tensor(array: np.ndarray) -> tensor_pb2.Tensor:
    """An array of any shape, in one of the types of `DTYPES`, as a message.

    Raises
    ------
    ShapeError : another dtype.
    """
    dtype = array.dtype.newbyteorder("=")
    if dtype not in _TYPES:
        names = ", ".join(map(str, _TYPES))
        raise ShapeError(f"{array.dtype} cannot be sent", remedy=f"Convert it to one of {names}")
    data = array.astype(dtype.newbyteorder("<"), copy=False).tobytes()
    return tensor_pb2.Tensor(dtype=_TYPES[dtype], shape=array.shape, data=data)


def to_array(
    tensor: tensor_pb2.Tensor,
    *,
    name: str,
    dtypes: Collection[str] | None = None,
    ndim: int | None = None,
    finite: bool = True,
    max_bytes: int | None = None,
) -> np.ndarray:
    """The array of a message: a read-only view of its bytes.

    Parameters
    ----------
    name : how errors call it, such as "responses".
    dtypes : dtypes that are taken, such as ``{"float32"}``; all of `DTYPES` by default.
    ndim : axes that it must have; any number up to `MAX_AXES` by default.
    finite : refuse NaN and infinite values.
    max_bytes : refuse more than this.

    Raises
    ------
    ShapeError : dtype, axes, or a number of bytes that is not that of its shape.
    NotFiniteError : names the index of the first NaN or infinite value.
    InputError : a truth value other than 0 and 1.
    BudgetError : more than `max_bytes`.
    """
    dtype = DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ShapeError("has no dtype that this server knows", where=name, remedy=f"Send {_listed(dtypes)}")
    if dtypes is not None and dtype.name not in dtypes:
        raise ShapeError(f"holds {dtype.name}", where=name, remedy=f"Send {_listed(dtypes)}")
    if ndim is not None and len(tensor.shape) != ndim:
        raise ShapeError(f"has {len(tensor.shape)} axes, not {ndim}", where=name)
    return from_bytes(tensor.data, dtype, tensor.shape, name=name, finite=finite, max_bytes=max_bytes)


def from_bytes(
    data: bytes,
    dtype: np.dtype,
    shape: Sequence[int],
    *,
    name: str,
    finite: bool = True,
    max_bytes: int | None = None,
) -> np.ndarray:
    """Little-endian bytes in row-major order as an array: a read-only view, checked as by `to_array`."""
    _check_length(len(data), dtype, shape, name, max_bytes)
    array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tuple(shape))
    if dtype.kind == "b":
        _check_truth(array, name)
    if finite and dtype.kind == "f":
        _check_finite(array, name)
    return array


def _check_finite(array: np.ndarray, name: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        index = _index(int(np.argmin(finite)), array.shape)
        raise NotFiniteError(f"holds {array[index]} at {list(index)}", where=name, remedy="Replace or leave it out")


def _check_length(length: int, dtype: np.dtype, shape: Sequence[int], name: str, max_bytes: int | None) -> None:
    if max_bytes is not None and length > max_bytes:
        raise BudgetError(f"{length:,} bytes, more than the limit of {max_bytes:,}", where=name, remedy="Send less")
    if len(shape) > MAX_AXES:
        raise ShapeError(f"has {len(shape)} axes, more than {MAX_AXES}", where=name)
    if any(n < 0 for n in shape):
        raise ShapeError(f"has a negative axis in its shape {list(shape)}", where=name)
    # Of an empty array too: NumPy can hold no axes whose product exceeds the address space.
    if math.prod(n or 1 for n in shape) * dtype.itemsize > np.iinfo(np.intp).max:
        raise ShapeError(f"cannot have the shape {list(shape)}", where=name)
    expected = math.prod(shape) * dtype.itemsize
    if length != expected:
        raise ShapeError(f"{length:,} bytes; {dtype.name} of shape {list(shape)} takes {expected:,}", where=name)


def _check_truth(array: np.ndarray, name: str) -> None:
    numbers = array.view(np.uint8)
    if (numbers > 1).any():
        index = _index(int(np.argmax(numbers > 1)), array.shape)
        raise InputError(f"holds {numbers[index]} at {list(index)}", where=name, remedy="Send 1 for true, 0 for false")


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(flat, shape)))


def _listed(dtypes: Collection[str] | None) -> str:
    return " or ".join(sorted(dtypes) if dtypes is not None else (dtype.name for dtype in DTYPES.values()))
