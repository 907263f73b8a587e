"""Batch by batch: which rows of a store are missing, and how they are computed and written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recordings import Stimuli
from recordings.errors import CorruptImageError, ImageTooLargeError, InputError
from recordings.events import OnEvent, Stop, report

from .extractor import FeatureExtractor
from .features import Features, check_finite
from .reduction import Reduction
from .store import LayerStore

Prepared = list[dict[str, Tensor]]
Unreadable = CorruptImageError | ImageTooLargeError


class Rows:
    """Stimuli as an extractor reads them: content hash and input tensors by id."""

    def __init__(self, extractor: FeatureExtractor, stimuli: Stimuli, n_frames: int | None):
        if extractor.modality == "text":
            stimuli = Stimuli.from_captions(dict(zip(stimuli.ids, stimuli.captions, strict=True)))
        elif not stimuli.has_pixels:
            raise InputError(f"{extractor.uri} reads {extractor.modality}s and the stimuli are captions")
        self.extractor, self.n_frames = extractor, n_frames
        # A copy has not remembered any hash: files may have changed since.
        self.stimuli = stimuli.take(slice(None))
        self.position = {stimulus_id: i for i, stimulus_id in enumerate(self.stimuli.ids)}

    def __contains__(self, stimulus_id: str) -> bool:
        return stimulus_id in self.position

    def content_hash(self, stimulus_id: str) -> str:
        return self.stimuli.content_hash(self.position[stimulus_id])

    def prepare(self, stimulus_id: str) -> tuple[str, Prepared]:
        """Content hash and input tensors of a stimulus."""
        position = self.position[stimulus_id]
        captions = self.extractor.modality == "text"
        content: Any = self.stimuli.captions[position] if captions else self.stimuli.load(position)
        return self.content_hash(stimulus_id), self.extractor.prepare(content, self.n_frames)


class Job:
    """One extraction into a store: what all its batches have in common."""

    def __init__(
        self,
        rows: Rows,
        path: Path,
        readout: str,
        batch_size: int,
        dtype: str,
        on_event: OnEvent | None,
        stop: Stop | None,
    ):
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} stimuli", remedy="Take one or more")
        self.rows, self.path, self.readout, self.batch_size, self.dtype = rows, path, readout, batch_size, dtype
        self.on_event, self.stop = on_event, stop
        self.asked_reduction: str | None = None
        self.reductions: dict[str, Reduction] = {}
        self.unreduced: dict[str, Features] = {}

    def run(self, layers: Sequence[str]) -> Unreadable | None:
        """Compute all rows that the layers lack; return the first stimulus that cannot be read, as an error."""
        first = None
        # Layers made at different times may hold stimuli in different order.
        groups: dict[tuple[int, tuple[str, ...]], list[LayerStore]] = {}
        for layer in layers:
            store = LayerStore(self.path, layer)
            size = store.batch_size if store.exists else self.batch_size
            groups.setdefault((size, tuple(store.stimulus_ids)), []).append(store)
        for (size, stored), stores in groups.items():
            new = [i for i in self.rows.position if i not in set(stored)]
            first = _Filling(self, stores, [*stored, *new], size).run() or first
        return first


class _Filling:
    """Layers whose rows stand in the same order, filled batch by batch."""

    def __init__(self, job: Job, stores: list[LayerStore], ids: list[str], batch_size: int):
        self.job, self.stores, self.ids, self.batch_size = job, stores, ids, batch_size
        for store in stores:
            if store.exists:
                store.clean()
        self.journals = {store.layer: store.journal() for store in stores}
        self.missing = {k: lacking for k in range(-(-len(ids) // batch_size)) if (lacking := self._lacking(k))}

    def run(self) -> Unreadable | None:
        errors: dict[str, Unreadable] = {}
        unreadable_chunks: list[int] = []
        done = len(self.ids) - sum(len(self._members(k)) for k in self.missing)
        report(self.job.on_event, self.job.stop, "extract", done, len(self.ids), computed=0)
        for chunk, futures in self._prefetched():
            ready = self._collect(futures, errors)
            if ready or all(store.exists for store in self.missing[chunk]):
                self._fill(chunk, ready)
            else:
                unreadable_chunks.append(chunk)
            done += len(self._members(chunk))
            report(
                self.job.on_event, self.job.stop, "extract", done, len(self.ids),
                computed=len(ready), unreadable=[str(e.where) for e in errors.values()],
            )  # fmt: skip
        if not all(store.exists for store in self.stores):
            raise _summary(errors, len(self.ids)) or InputError("no stimuli")
        for chunk in unreadable_chunks:
            self._fill(chunk, {})
        for store in self.stores:
            store.finish(self.ids, self._holes(store))
        return _summary(errors, len(self.ids))

    def _members(self, chunk: int) -> list[str]:
        return self.ids[chunk * self.batch_size : (chunk + 1) * self.batch_size]

    def _lacking(self, chunk: int) -> list[LayerStore]:
        written = [s for s in self.stores if chunk in self.journals[s.layer] and s.has_chunk(chunk)]
        # Hashing reads every file: only where there is something to compare with.
        rows, members = self.job.rows, self._members(chunk) if written else []
        hashes = [rows.content_hash(i) if i in rows else None for i in members]
        return [s for s in self.stores if s not in written or not _whole(self.journals[s.layer][chunk], hashes)]

    def _prefetched(self) -> Iterator[tuple[int, dict[str, Future[tuple[str, Prepared]]]]]:
        """The missing chunks with their stimuli; the next batch is read while one is computed."""
        rows = self.job.rows
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            ahead: list[tuple[int, dict[str, Future[tuple[str, Prepared]]]]] = []
            try:
                for chunk in self.missing:
                    members = [i for i in self._members(chunk) if i in rows]
                    ahead.append((chunk, {i: pool.submit(rows.prepare, i) for i in members}))
                    if len(ahead) == 2:
                        yield ahead.pop(0)
                yield from ahead
            finally:
                pool.shutdown(cancel_futures=True)

    def _collect(
        self, futures: dict[str, Future[tuple[str, Prepared]]], errors: dict[str, Unreadable]
    ) -> dict[str, tuple[str, Prepared]]:
        ready = {}
        for stimulus_id, future in futures.items():
            try:
                ready[stimulus_id] = future.result()
            except (CorruptImageError, ImageTooLargeError) as error:
                errors[stimulus_id] = error
        return ready

    def _fill(self, chunk: int, ready: dict[str, tuple[str, Prepared]]) -> None:
        lacking = self.missing[chunk]
        values: dict[str, Any] = self._values(lacking, ready) if ready else {store.layer: () for store in lacking}
        for store in lacking:
            self._write(store, chunk, dict(zip(ready, values[store.layer], strict=True)), ready)

    def _values(self, lacking: list[LayerStore], ready: dict[str, tuple[str, Prepared]]) -> dict[str, np.ndarray]:
        job = self.job
        layers = [store.layer for store in lacking]
        direct = [layer for layer in layers if layer not in job.unreduced]
        values = {layer: job.unreduced[layer].read(job.unreduced[layer].rows(list(ready))) for layer in layers
                  if layer in job.unreduced}  # fmt: skip
        if direct:
            prepared = [item for _, item in ready.values()]
            values |= job.rows.extractor.compute(prepared, direct, job.readout, self.batch_size)
        for layer, reduction in job.reductions.items():
            if layer in values:
                values[layer] = reduction.transform(values[layer])
        return values

    def _write(
        self, store: LayerStore, chunk: int, computed: dict[str, np.ndarray], ready: dict[str, tuple[str, Prepared]]
    ) -> None:
        """Write computed rows, rows kept because their stimuli were not given, and zeros for what is unreadable."""
        job = self.job
        if not store.exists:
            self._create(store, np.stack(list(computed.values())))
        store.grow(len(self.ids))
        members, journal = self._members(chunk), self.journals[store.layer]
        block = np.zeros((len(members), *store.array.shape[1:]), np.float32)
        recorded = journal.get(chunk, [])
        hashes = []
        for row, stimulus_id in enumerate(members):
            if stimulus_id in computed:
                block[row] = computed[stimulus_id]
                hashes.append(ready[stimulus_id][0])
            elif stimulus_id not in job.rows and row < len(recorded) and recorded[row]:
                block[row] = store.read(np.asarray([chunk * self.batch_size + row]))[0]
                hashes.append(recorded[row])
            else:
                hashes.append("")
        with np.errstate(over="ignore"):
            block = block.astype(job.dtype)
        check_finite(block, members, f"layer {store.layer}")
        store.write(chunk, block, hashes)
        journal[chunk] = hashes

    def _create(self, store: LayerStore, example: np.ndarray) -> None:
        job = self.job
        attrs = {
            "readout": job.readout,
            "asked_reduction": job.asked_reduction,
            "reduction": job.reductions[store.layer].fingerprint() if store.layer in job.reductions else None,
            "grid": self._grid(store.layer, example.shape[1]) if job.readout == "tokens" else None,
        }
        store.create(example, len(self.ids), self.batch_size, job.dtype, attrs)

    def _grid(self, layer: str, n_tokens: int) -> list[int]:
        """Rows and columns of a layer's tokens; frames first if an image model has read several."""
        grid = list(self.job.rows.extractor.grid(layer) or [])
        n_frames = n_tokens // math.prod(grid)
        return [n_frames, *grid] if grid and n_frames > 1 else grid

    def _holes(self, store: LayerStore) -> list[int]:
        journal = self.journals[store.layer]
        return [chunk * self.batch_size + row for chunk in sorted(journal)
                for row, content in enumerate(journal[chunk]) if not content]  # fmt: skip


def _whole(recorded: list[str], hashes: Sequence[str | None]) -> bool:
    """Whether a journal's line stands for these stimuli; None where a stimulus is not at hand to compare."""
    return len(recorded) == len(hashes) and all(
        now is None or now == then for now, then in zip(hashes, recorded, strict=True)
    )


def _summary(errors: dict[str, Unreadable], n: int) -> Unreadable | None:
    if not errors:
        return None
    first = next(iter(errors.values()))
    more = f" ({len(errors)} of {n} stimuli cannot be read)" if len(errors) > 1 else ""
    remedy = "All others are stored. Replace it and run the same command again, or leave it out"
    return type(first)(first.what + more, where=first.where, remedy=remedy if len(errors) < n else first.remedy)
