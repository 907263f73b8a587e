"""Correlation of pictures in the feature space of a network, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from recordings.errors import NotFiniteError, ShapeError
from recordings.events import OnEvent, Stop, report

Network = Callable[[np.ndarray], np.ndarray]

_KEPT_BYTES = 512 * 2**20
_BLOCK_BYTES = 256 * 2**20


class PictureFeatures:
    """Features of pictures, kept where they fit in memory, and otherwise computed again whenever they are read.

    Parameters
    ----------
    pictures : uint8 (n, H, W, 3). network : maps such to features (n, ...).
    batch_size : pictures a network sees at a time. kept_bytes : float32 features up to so many are kept.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        network: Network,
        batch_size: int = 32,
        kept_bytes: int = _KEPT_BYTES,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ):
        self.pictures, self.network, self.batch_size = pictures, network, batch_size
        self.on_event, self.stop = on_event, stop
        first = self._batch(0)
        self.width = first.shape[1]
        self._kept: list[np.ndarray] | None = None
        if 4 * self.width * len(pictures) <= kept_bytes:
            self._kept = [first, *(self._batch(start) for start in range(batch_size, len(pictures), batch_size))]

    def __len__(self) -> int:
        return len(self.pictures)

    def blocks(self, n_bytes: int = _BLOCK_BYTES) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their features, float64 (row, feature), of one batch or of as many as `n_bytes` hold."""
        size = self.batch_size
        step = max(size, n_bytes // (8 * self.width) // size * size)
        for start in range(0, len(self), step):
            rows = slice(start, min(start + step, len(self)))
            parts = [self._kept[k // size] if self._kept else self._batch(k) for k in range(start, rows.stop, size)]
            yield rows, np.concatenate(parts).astype(np.float64)

    def _batch(self, start: int) -> np.ndarray:
        report(self.on_event, self.stop, "features", start, len(self))
        pictures = np.asarray(self.pictures[start : start + self.batch_size])
        values = np.asarray(self.network(pictures), np.float32)
        if len(values) != len(pictures):
            raise ShapeError(f"a network gave {len(values)} rows of features for {len(pictures)} pictures")
        values = values.reshape(len(pictures), -1)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            raise NotFiniteError(f"a network gave NaN or infinite features for picture {start + int(bad.argmax())}")
        return values


def picture_correlations(rows: PictureFeatures, columns: PictureFeatures) -> np.ndarray:
    """Pearson r across features of each picture with each other, (row, column) float64; NaN where features are flat.

    Raises
    ------
    ShapeError : features of another width.
    """
    if rows.width != columns.width:
        raise ShapeError(f"features of {rows.width} and of {columns.width} numbers cannot be correlated")
    found = np.empty((len(rows), len(columns)))
    for here, block in rows.blocks():
        left = unit_rows(block)
        for there, other in columns.blocks(0):
            found[here, there] = left @ unit_rows(other).T
    return found


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows (n, feature) less their mean, of unit norm, float64; NaN for a row that does not vary."""
    values = np.asarray(values, np.float64)
    centred = values - values.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = norm <= 1e-7 * np.abs(values).max(1, keepdims=True, initial=0) * np.sqrt(values.shape[1])
    return centred / np.where(flat, np.nan, norm)


def mean_over_samples(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of (..., sample), NaN left out; NaN where there is nothing else."""
    count = np.isfinite(values).sum(-1)
    return np.nansum(values, -1) / np.where(count > 0, count, np.nan)
