"""Cached tokens in batches: shuffled, read ahead, and never more of them in memory than was agreed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recordings.errors import ShapeError

from ..features import Features

Item = TypeVar("Item")
Made = TypeVar("Made")
Part = tuple[int, int]
_ALONE: Part = (0, 1)


@dataclass(frozen=True)
class Batch:
    """Tokens of some rows of the training table.

    Attributes
    ----------
    rows : int (B,), positions in the table.
    tokens : (B, T, C) a source, or with delays (B, delay, T, C); dtype as stored.
    shown : bool (B, delay), False where a delay reaches beyond its run (tokens are 0 there); None without delays.
    """

    rows: np.ndarray
    tokens: list[Tensor]
    shown: Tensor | None


class TokenStream:
    """Batches of tokens of one or several sources, in an order that depends on the seed and the epoch alone.

    Tokens that fit into `in_memory` are read once. Of larger ones `buffer` bytes are held at most: the order goes
    chunk by chunk of the first store, chunks in random order, and is shuffled again within each half of the
    buffer, while a thread reads the other half.

    Parameters
    ----------
    spaces : features (stimulus, token, channel), one or several sources.
    rows : a source, the feature row of each row of the table, int (n,); or, of a time series, at each delay,
        (n, delay), -1 where the delay reaches beyond the run.
    batch_size : rows; an epoch's batches are equally large, to one row. seed : of the order.
    in_memory, buffer : bytes.

    Raises
    ------
    ShapeError : rows of the sources differ in number or delays.
    """

    def __init__(
        self,
        spaces: Sequence[Features],
        rows: Sequence[np.ndarray],
        *,
        batch_size: int,
        seed: int = 0,
        in_memory: int = 2 * 10**9,
        buffer: int = 10**9,
    ) -> None:
        if len({np.shape(r) for r in rows}) != 1 or len(rows) != len(spaces):
            raise ShapeError(f"rows of shapes {[np.shape(r) for r in rows]} for {len(spaces)} sources", where="rows")
        self.spaces, self.rows = list(spaces), [np.asarray(r, np.int64) for r in rows]
        self.batch_size, self.seed = batch_size, seed
        self._size = self._batches_a_load(in_memory, buffer) if len(self) else None
        self._held: _Loaded | None = None

    def __len__(self) -> int:
        """Rows of the table."""
        return len(self.rows[0])

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self) // self.batch_size)

    @property
    def layout(self) -> str:
        """What the order of rows depends on besides the epoch."""
        read = "in memory" if self._size is None else f"read {self._size} batches at a time"
        return f"{len(self)} rows, batches of {self.batch_size}, seed {self.seed}, {read}"

    def epoch(self, epoch: int, start: int = 0, part: Part = _ALONE) -> Iterator[Batch]:
        """Shuffled batches of an epoch, from batch `start` on.

        Parameters
        ----------
        part : (i, n), to get the i-th of n shares of each batch.
        """
        return self._read(self._order(epoch), start, part)

    def in_order(self, part: Part = _ALONE) -> Iterator[Batch]:
        """All rows in their order, once."""
        return self._read(self._batched(np.arange(len(self))), 0, part)

    def moments(self, sample: int = 512) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each channel over tokens, (C,) float32 each, for every source.

        They are those of `sample` stimuli, or of all if there are fewer; a channel that is constant gets 1.
        """
        return [self._moments(space, rows, sample) for space, rows in zip(self.spaces, self.rows, strict=True)]

    def _moments(self, space: Features, rows: np.ndarray, sample: int) -> tuple[Tensor, Tensor]:
        stimuli = np.unique(rows[rows >= 0])
        if len(stimuli) > sample:
            stimuli = np.sort(np.random.default_rng((self.seed, 1)).choice(stimuli, sample, replace=False))
        count, mean, square = 0, np.zeros(space.shape[-1]), np.zeros(space.shape[-1])
        step = max(1, 16_000_000 // (4 * int(np.prod(space.shape[1:]))))
        for start in range(0, len(stimuli), step):
            values = space.read(stimuli[start : start + step]).reshape(-1, space.shape[-1])
            here = values.mean(0, dtype=np.float64)
            off = ((values - here.astype(np.float32)) ** 2).sum(0, dtype=np.float64)
            both = count + len(values)
            square += off + (here - mean) ** 2 * count * len(values) / both
            mean += (here - mean) * len(values) / both
            count = both
        std = np.sqrt(square / max(count, 1))
        std[std <= 1e-6 * np.abs(mean)] = 1
        return torch.as_tensor(mean, dtype=torch.float32), torch.as_tensor(std, dtype=torch.float32)

    # Order -------------------------------------------------------------------------------------------------------

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Rows of each batch."""
        rng = np.random.default_rng((self.seed, 0, epoch))
        if self._size is None:
            return self._batched(rng.permutation(len(self)))
        names, chunk = np.unique(self._chunks, return_inverse=True)
        order = np.lexsort((rng.random(len(self)), rng.permutation(len(names))[chunk]))
        batches = self._batched(order)
        loads = [np.concatenate(batches[a : a + self._size]) for a in range(0, len(batches), self._size)]
        return self._batched(np.concatenate([rng.permutation(load) for load in loads]))

    def _batched(self, order: np.ndarray) -> list[np.ndarray]:
        return np.array_split(order, self.steps) if len(order) else []

    @property
    def _chunks(self) -> np.ndarray:
        """(n,) int, the chunk of the first source on disk where the stimuli of each row are, or end."""
        for space, rows in zip(self.spaces, self.rows, strict=True):
            if space.chunks is not None:
                return space.chunks[rows.reshape(len(self), -1).max(1)]
        return np.zeros(len(self), int)

    # Memory ------------------------------------------------------------------------------------------------------

    def _batches_a_load(self, in_memory: int, buffer: int) -> int | None:
        """How many batches make half the buffer, less three batches and a chunk on their way; None if all are held."""
        stored = [(space, rows) for space, rows in zip(self.spaces, self.rows, strict=True) if space.chunks is not None]
        needed = sum(len(np.unique(rows[rows >= 0])) * _row_bytes(space) for space, rows in stored)
        if needed <= in_memory:
            return None
        table = self.rows[0].reshape(len(self), -1)
        pairs = np.stack([self._chunks.repeat(table.shape[1]), table.ravel()], 1)
        distinct = len(np.unique(pairs, axis=0)) / len(self)
        rows = min(self.batch_size, len(self))
        ready = 3 * rows * table.shape[1] * sum(map(_row_bytes, self.spaces)) + 2 * max(map(_chunk_bytes, self.spaces))
        load = rows * distinct * sum(_row_bytes(space) for space, _ in stored)
        return max(1, int((buffer - ready) / 2 // load))

    def _read(self, batches: Sequence[np.ndarray], start: int, part: Part) -> Iterator[Batch]:
        shares = [rows[part[0] :: part[1]] for rows in batches]
        if self._size is not None:
            return self._read_by_loads(shares, start)
        if self._held is None and shares:
            self._held = _load(self.spaces, self.rows, Event())
        return ahead(self._held.batch, shares[start:]) if self._held is not None else iter(())

    def _read_by_loads(self, shares: list[np.ndarray], start: int) -> Generator[Batch, None, None]:
        abandoned, size = Event(), self._size or 1
        loads = [shares[max(a, start) : a + size] for a in range(0, len(shares), size) if a + size > start]

        def load(shares: list[np.ndarray]) -> tuple[_Loaded, list[np.ndarray]]:
            rows = np.concatenate(shares)
            return _load(self.spaces, [table[rows] for table in self.rows], abandoned, self.rows), shares

        with closing(ahead(load, loads)) as loaded:
            try:
                for tokens, wanted in loaded:
                    yield from ahead(tokens.batch, wanted)
                    # The thread may begin to read the load after the next only when this one is gone.
                    del tokens
            finally:
                abandoned.set()


@dataclass(frozen=True)
class _Loaded:
    """Tokens of some stimuli in memory: how to take those of given feature rows, a source, and the table of rows."""

    take: list[Callable[[np.ndarray], np.ndarray]]
    rows: list[np.ndarray]

    def batch(self, rows: np.ndarray) -> Batch:
        tokens = [take(table[rows]) for take, table in zip(self.take, self.rows, strict=True)]
        shown = self.rows[0][rows] >= 0
        if shown.ndim == 1:
            return Batch(rows, [torch.from_numpy(x) for x in tokens], None)
        for x in tokens:
            x[~shown] = 0
        return Batch(rows, [torch.from_numpy(x) for x in tokens], torch.from_numpy(shown))


def _load(
    spaces: Sequence[Features],
    wanted: Sequence[np.ndarray],
    abandoned: Event,
    table: Sequence[np.ndarray] | None = None,
) -> _Loaded:
    """Read the stimuli of the rows that are wanted, chunk by chunk, each once."""
    take = [_reader(space, rows, abandoned) for space, rows in zip(spaces, wanted, strict=True)]
    return _Loaded(take, list(wanted if table is None else table))


def _reader(space: Features, wanted: np.ndarray, abandoned: Event) -> Callable[[np.ndarray], np.ndarray]:
    if space.chunks is None:
        return lambda rows: space.read(rows.clip(0).ravel(), None).reshape(*rows.shape, *space.shape[1:])
    stimuli = np.unique(wanted[wanted >= 0])
    stimuli = stimuli if len(stimuli) else np.zeros(1, int)
    values = np.empty((len(stimuli), *space.shape[1:]), space.dtype)
    chunks = space.chunks[stimuli]
    for chunk in np.unique(chunks):
        if abandoned.is_set():
            break
        members = np.flatnonzero(chunks == chunk)
        values[members] = space.read(stimuli[members], None)
    return lambda rows: values.take(np.searchsorted(stimuli, rows).clip(0, len(stimuli) - 1), 0)


def ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Generator[Made, None, None]:
    """`make` of each item; a thread makes the next one while the caller has the current one.

    An error reaches the caller in its turn. The thread ends with the iterator, also if that is closed before its end.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="penfield-ahead")
    try:
        pending: Future[Made] | None = None
        for item in items:
            following = pool.submit(make, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _row_bytes(space: Features) -> int:
    return math.prod(space.shape[1:]) * space.dtype.itemsize


def _chunk_bytes(space: Features) -> int:
    return 0 if space.chunks is None else int(np.bincount(space.chunks).max()) * _row_bytes(space)
