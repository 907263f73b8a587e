"""Matrices of targets that need not fit in memory: written by rows, as they are computed, and read by columns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from encoders import Features
from encoders.features.features import check_finite
from recordings.errors import disk_full_as_error
from recordings.events import OnEvent, Stop, report

# Larger matrices go to a file.
MEMORY_BYTES = 2**30
_BLOCK_BYTES = 64 * 2**20
_PANEL = 1024


class Panels:
    """A float32 matrix (n, p) in an unnamed temporary file, in panels of columns that are contiguous on disk.

    Read and written as ``panels[rows, columns]``, both slices without a step. The file is gone with the object; it lies
    where `tempfile` puts it (the environment variable TMPDIR).
    """

    def __init__(self, n: int, p: int):
        self.shape = (n, p)
        self.dtype = np.dtype(np.float32)
        # The ridge solver reads whole chunks where it can.
        self.chunks = (n, _PANEL)
        self._file: Any = tempfile.TemporaryFile(prefix="penfield-")  # noqa: SIM115 (lives as long as the matrix)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        first, last, _ = key[0].indices(self.shape[0])
        start, stop, _ = key[1].indices(self.shape[1])
        values = np.empty((last - first, stop - start), np.float32)
        for panel, width, inside in self._panels(start, stop):
            self._seek(panel, width, first)
            block = np.fromfile(self._file, np.float32, (last - first) * width).reshape(-1, width)
            values[:, panel + inside.start - start : panel + inside.stop - start] = block[:, inside]
        return values

    def __setitem__(self, key: tuple[slice, slice], values: np.ndarray) -> None:
        first = key[0].indices(self.shape[0])[0]
        start, stop, _ = key[1].indices(self.shape[1])
        with disk_full_as_error(tempfile.gettempdir()):
            for panel, width, inside in self._panels(start, stop):
                block = values[:, panel + inside.start - start : panel + inside.stop - start].astype(np.float32)
                if inside.stop - inside.start == width:
                    self._seek(panel, width, first)
                    self._file.write(block.tobytes())
                    continue
                for row, line in enumerate(block, first):
                    self._seek(panel, width, row, inside.start)
                    self._file.write(line.tobytes())
            self._file.flush()

    def _panels(self, start: int, stop: int) -> Iterator[tuple[int, int, slice]]:
        """First column and width of each panel that the columns touch, and which of its own columns they are."""
        for panel in range(start // _PANEL * _PANEL, stop, _PANEL):
            width = min(_PANEL, self.shape[1] - panel)
            yield panel, width, slice(max(start - panel, 0), min(stop - panel, width))

    def _seek(self, panel: int, width: int, row: int, column: int = 0) -> None:
        self._file.seek(4 * (self.shape[0] * panel + row * width + column))


Matrix = np.ndarray | Panels


class Rows:
    """Some rows of a matrix, read by columns."""

    def __init__(self, matrix: Matrix, rows: np.ndarray):
        self.matrix, self.rows = matrix, rows
        self.shape = (len(rows), matrix.shape[1])
        self.dtype = matrix.dtype
        if isinstance(matrix, Panels):
            self.chunks = (len(rows), _PANEL)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        return self.matrix[:, key[1]][self.rows[key[0]]]


def empty_matrix(n: int, p: int) -> Matrix:
    """An unwritten float32 matrix (n, p): in memory up to `MEMORY_BYTES`, else `Panels`."""
    return np.empty((n, p), np.float32) if 4 * n * p <= MEMORY_BYTES else Panels(n, p)


def column_blocks(matrix: Matrix | Rows) -> Iterator[slice]:
    """Consecutive columns, some 64 MB of them at a time."""
    n, p = matrix.shape
    width = max(_BLOCK_BYTES // (4 * max(n, 1)) // _PANEL, 1) * _PANEL
    return (slice(start, min(start + width, p)) for start in range(0, p, width))


def read_targets(
    features: Features, stimulus_ids: Sequence[str], on_event: OnEvent | None = None, stop: Stop | None = None
) -> tuple[Matrix, list[str]]:
    """Features of the given stimuli, flattened to (stimulus, feature), and their ids in the order of the rows.

    Rows stand as in the store, which is then read once from its beginning to its end.

    Raises
    ------
    MismatchedIdsError : a stimulus without features. NotFiniteError : names the first stimulus with NaN or infinity.
    DiskFullError : no room for the temporary file.
    """
    rows = np.sort(features.rows(stimulus_ids))
    ids = [str(i) for i in features.stimulus_ids[rows]]
    width = int(np.prod(features.shape[1:]))
    targets = empty_matrix(len(rows), width)
    step = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, len(rows), step):
        report(on_event, stop, "read targets", start, len(rows))
        values = features.read(rows[start : start + step])
        check_finite(values, ids[start : start + step], "features")
        targets[start : start + len(values), :] = values.reshape(len(values), -1)
    return targets, ids


def moments(matrix: Matrix | Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, (p,) float32; the latter 1 for columns that do not vary."""
    mean, scale = (np.empty(matrix.shape[1], np.float32) for _ in range(2))
    for columns in column_blocks(matrix):
        block = matrix[:, columns]
        deviation = block.std(0, dtype=np.float64)
        mean[columns] = block.mean(0, dtype=np.float64)
        scale[columns] = np.where(deviation > 0, deviation, 1)
    return mean, scale
