"""Targets streamed in chunks: read, checked, centred, and written back without ever being held whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recordings.errors import NotFiniteError, ShapeError


class ArrayLike2D(Protocol):
    """A matrix that is read by slices: NumPy, Zarr, h5py, xarray."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Sink2D(Protocol):
    """A matrix that is written by slices along its last axis."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class ConstantTargetWarning(UserWarning):
    """Some targets do not vary: they are predicted by their mean and have no score."""


def read_columns(source: ArrayLike2D, columns: slice, name: str, ids: Sequence[str] | None = None) -> NDArray[Any]:
    """Read some columns of an array-like as a fresh float array; float64 stays, all else becomes float32.

    Raises
    ------
    NotFiniteError : names the first column that holds NaN or an infinite value.
    """
    dtype = np.float64 if source.dtype == np.float64 else np.float32
    block = np.array(source[:, columns], dtype=dtype, order="C")
    finite = np.isfinite(block).all(axis=0)
    if not finite.all():
        column = int(np.argmin(finite)) + (columns.start or 0)
        label = f"{name} {column}" if ids is None else f"{name} {column} ({ids[column]})"
        row = int(np.argmin(np.isfinite(block[:, np.argmin(finite)])))
        raise NotFiniteError(
            f"NaN or infinite value in row {row}", where=label, remedy="fill or drop these values before fitting"
        )
    return block


def read_targets(
    source: ArrayLike2D, size: int, ids: Sequence[str] | None = None
) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.float64], NDArray[np.bool_]]]:
    """Read all targets in chunks, each stored chunk once.

    Yields
    ------
    columns : where the chunk stands, at most `size` wide.
    values : (n_samples, t), centred.
    mean : (t,), what was taken off.
    constant : (t,), targets that do not vary; their centred values are exactly 0.
    """
    width = stored_width(source)
    for wide in chunks(source.shape[1], -(-size // width) * width):
        block = read_columns(source, wide, "target", ids)
        for part in chunks(block.shape[1], size):
            values = np.ascontiguousarray(block[:, part])
            constant = values.max(axis=0) == values.min(axis=0)
            mean = np.where(constant, values[0], values.mean(axis=0, dtype=np.float64))
            values -= mean.astype(values.dtype)
            yield slice(wide.start + part.start, wide.start + part.stop), values, mean, constant


def chunks(n_targets: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` targets."""
    for start in range(0, n_targets, size):
        yield slice(start, min(start + size, n_targets))


def chunk_size(bytes_per_target: int, budget: int, sink: object = None) -> int:
    """Number of targets that fit the working memory, in whole chunks of the array that coefficients are written to.

    Parameters
    ----------
    bytes_per_target : working memory that one target takes.
    budget : bytes of working memory.
    sink : where coefficients go; a chunk wider than the working memory is written in parts.
    """
    size = max(budget // bytes_per_target, 16)
    width = stored_width(sink)
    return size // width * width if width < size else size


def stored_width(array: object) -> int:
    """Columns of one stored chunk (zarr, h5py, which have `chunks`), or 1 where storage is not chunked."""
    shape = getattr(array, "shards", None) or getattr(array, "chunks", None)
    return shape[-1] if shape and isinstance(shape[-1], int) else 1


def check_samples(Y: ArrayLike2D, n_samples: int) -> None:
    """Raise `ShapeError` unless Y is (n_samples, n_targets) with at least one target."""
    if len(Y.shape) != 2 or Y.shape[0] != n_samples or Y.shape[1] == 0:
        raise ShapeError(
            f"responses of shape {tuple(Y.shape)} for {n_samples} rows of features",
            where="Y",
            remedy="give one row of responses a row of features, (n_samples, n_targets)",
        )


def check_sink(sink: Sink2D, shape: tuple[int, int]) -> None:
    """Raise `ShapeError` unless `sink` has the coefficients' shape."""
    if tuple(sink.shape) != shape:
        raise ShapeError(f"the coefficients are {shape}, the array for them is {tuple(sink.shape)}", where="out")


def warn_constant(constant: NDArray[np.bool_]) -> None:
    """Warn with a `ConstantTargetWarning` that counts and names the targets that do not vary."""
    if constant.any():
        first = int(np.argmax(constant))
        warnings.warn(
            f"{int(constant.sum())} of {constant.size} targets are constant (first: target {first}); they are "
            "predicted by their mean, and have no alpha and no score",
            ConstantTargetWarning,
            stacklevel=3,
        )
