"""`Engine`: what the servicers ask, whatever runs the models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from recordings.events import Event

from .batching import Batcher, Observer
from .errors import BudgetError, ModelNotFoundError
from .items import DecodedRow, DecodeItem, EncodeItem
from .repository import DECODE, ENCODE, ModelEntry, ModelKey, ModelRepository
from .runner import ModelState, Runner

if TYPE_CHECKING:
    from .models import Description

# A changed folder is seen after so many seconds at the latest.
SCAN_SECONDS = 1.0
# Progress that a slow reader has not taken is dropped beyond so many events; results never are.
MAX_EVENTS = 64
MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Encoded:
    """Responses float32 (stimulus, unit), and the model that they are of."""

    responses: np.ndarray
    entry: ModelEntry


@dataclass(frozen=True)
class Accepted:
    """The request was checked, and so many stand before it."""

    queue_position: int
    entry: ModelEntry


@dataclass(frozen=True)
class Stepped:
    """How far a stage is."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Previewed:
    """What a picture will look like, uint8 (height, width, 3)."""

    stimulus_id: str
    sample: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Summary:
    """The end of decoding: rows that came out and that failed, settings of drawing, seconds."""

    succeeded: int
    failed: int
    settings: Mapping[str, Any]
    queued_seconds: float
    computed_seconds: float


DecodeEvent = Accepted | Stepped | Previewed | DecodedRow | Summary


@dataclass(eq=False)
class _Watched:
    """A request to a decoder on its way: whether it is still wanted, and what its caller has not taken yet."""

    item: DecodeItem
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[DecodeEvent | None] = field(default_factory=asyncio.Queue)
    left: threading.Event = field(default_factory=threading.Event)
    position: int = 0
    started: float = 0.0

    def tell(self, event: Event) -> None:
        """Called from the thread of the model."""
        if not self.left.is_set():
            self.loop.call_soon_threadsafe(self._put, event)

    def give(self, row: DecodedRow) -> None:
        """Called from the thread of the model, perhaps twice for one row."""
        if not self.left.is_set():
            self.loop.call_soon_threadsafe(self.events.put_nowait, row)

    def _put(self, event: Event) -> None:
        payload = event.payload
        found: list[DecodeEvent] = [Stepped(event.stage, event.done, event.total)]
        shown = (payload.get(name, ()) for name in ("stimulus_ids", "samples", "preview"))
        found += [Previewed(str(name), int(sample), pixels) for name, sample, pixels in zip(*shown, strict=False)]
        for each in found:
            if self.events.qsize() < MAX_EVENTS:
                self.events.put_nowait(each)


class Engine:
    """Models of a repository behind queues, one a model and verb.

    Parameters
    ----------
    repository : of the models. runner : where they run.
    batch_size : most stimuli or rows that are computed together. batch_wait : seconds that a batch waits for company.
    queue_size : most requests that wait for one model.
    max_answer_bytes : most that the responses of one request to an encoder may take.
    metrics : told of batches, waits and depths; see `service.batching.Observer`.
    """

    def __init__(
        self,
        repository: ModelRepository,
        runner: Runner,
        *,
        batch_size: int = 16,
        batch_wait: float = 0.005,
        queue_size: int = 64,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        metrics: Observer | None = None,
    ):
        self.repository, self.runner, self.metrics = repository, runner, metrics
        self.batch_size, self.batch_wait, self.queue_size = batch_size, batch_wait, queue_size
        self.max_answer_bytes = max_answer_bytes
        self._batchers: dict[tuple[ModelKey, str], Batcher] = {}
        self._described: dict[ModelKey, tuple[str, Description]] = {}
        self._scan: asyncio.Task[Any] | None = None
        self._scanned = -SCAN_SECONDS

    # Models ------------------------------------------------------------------------------------------------------

    def models(self) -> list[ModelEntry]:
        """All versions of all models."""
        self._look_at_disk()
        return self.repository.list()

    def find(self, name: str, version: str = "") -> ModelEntry:
        """A model, in its newest version if none is named; `ModelNotFoundError` if there is none."""
        self._look_at_disk()
        return self.repository.find(name, version)

    def state(self, entry: ModelEntry) -> ModelState:
        """Where a model stands."""
        return ModelState("failed", entry.reason) if entry.reason else self.runner.state(entry.key)

    async def describe(self, name: str, version: str = "") -> Description:
        """What a model takes and gives; it is loaded for that.

        Raises
        ------
        ModelNotFoundError : no such model. Others : see `LocalRunner.load`.
        """
        return await self._describe(await self._entry(name, version))

    async def load(self, name: str, version: str = "") -> ModelEntry:
        """Bring a model into memory and run it once; see `LocalRunner.load` for what can go wrong."""
        entry = await self._entry(name, version)
        await self.runner.load(entry)
        return entry

    async def unload(self, name: str, version: str = "") -> ModelEntry:
        """Take a model out of memory when its running requests are done."""
        entry = await self._entry(name, version)
        await self.runner.unload(entry.key)
        return entry

    async def close(self) -> None:
        """Refuse what waits, let what runs end, and forget all models."""
        if self._scan is not None:
            await asyncio.gather(self._scan, return_exceptions=True)
        await asyncio.gather(*(batcher.close() for batcher in self._batchers.values()))
        await self.runner.close()

    # Verbs -------------------------------------------------------------------------------------------------------

    async def encode(self, name: str, version: str, item: EncodeItem, *, deadline: float | None = None) -> Encoded:
        """Predicted responses to the stimuli of an item.

        Parameters
        ----------
        deadline : on the clock of the event loop, seconds.

        Raises
        ------
        ModelNotFoundError : no such encoder. BusyError, DeadlineError, UnavailableError : see `Batcher.submit`.
        BudgetError : the responses would take more than `max_answer_bytes`.
        Others : see `LocalRunner.load` and `EncoderModel.encode`.
        """
        entry = await self._entry(name, version, ENCODE)
        self._check_answer(len(item), len((await self._describe(entry)).units.unit_ids))
        batcher = self._batcher(entry.key, ENCODE)
        return await batcher.submit(item, deadline=deadline, weight=len(item))

    async def decode(
        self, name: str, version: str, item: DecodeItem, *, deadline: float | None = None
    ) -> AsyncGenerator[DecodeEvent, None]:
        """Events of decoding: `Accepted`, `Stepped` and `Previewed`, a `DecodedRow` a row when it is done, `Summary`.

        Whoever leaves the iterator (``aclose``) stops the work at its next step, and nobody else's.

        Parameters
        ----------
        deadline : on the clock of the event loop, seconds.

        Raises
        ------
        As `encode`; WrongUnitsError, ShapeError : responses of other units than the model's.
        """
        entry = await self._entry(name, version, DECODE)
        loop = asyncio.get_running_loop()
        from .models.description import check_units

        check_units((await self._describe(entry)).units, item)
        batcher = self._batcher(entry.key, DECODE)
        watched, began = _Watched(item, loop), loop.time()
        work = asyncio.ensure_future(_ask(batcher, watched, deadline))
        work.add_done_callback(lambda done: watched.events.put_nowait(None))
        try:
            # A full queue is told before anything is accepted.
            await asyncio.sleep(0)
            if work.done():
                work.result()
            yield Accepted(watched.position, entry)
            told: set[str] = set()
            failed, settings = 0, {}  # type: int, Mapping[str, Any]
            # What is drawn with it may take longer.
            while len(told) < len(item):
                event = await watched.events.get()
                for each in work.result() if event is None else [event]:
                    if isinstance(each, DecodedRow):
                        if each.stimulus_id in told:
                            continue
                        told.add(each.stimulus_id)
                        failed += each.failure is not None
                        settings = settings or each.settings
                    yield each
            ended = loop.time()
            started = watched.started or ended
            yield Summary(len(told) - failed, failed, settings, started - began, ended - started)
        finally:
            watched.left.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    # Inside ------------------------------------------------------------------------------------------------------

    async def _entry(self, name: str, version: str, verb: str = "") -> ModelEntry:
        try:
            entry = self.find(name, version)
        except ModelNotFoundError:
            # It may have come this moment.
            self._look_at_disk(now=True)
            assert self._scan is not None
            await asyncio.shield(self._scan)
            entry = self.repository.find(name, version)
        if verb and entry.verbs and verb not in entry.verbs:
            raise ModelNotFoundError(
                f"answers {', '.join(entry.verbs)}, not {verb}", where=name, remedy="ListModels tells which there are"
            )
        return entry

    def _check_answer(self, rows: int, units: int) -> None:
        # Features of a few bytes a row can ask for more responses than there is memory.
        if (size := 4 * rows * units) > self.max_answer_bytes:
            raise BudgetError(
                f"{rows:,} rows of {units:,} units take {size:,} bytes, and one answer has {self.max_answer_bytes:,}",
                where="stimuli",
                remedy="Send fewer at once",
            )

    def _look_at_disk(self, now: bool = False) -> None:
        """Have the disk looked at, in a thread, if that was not done a moment ago."""
        clock = asyncio.get_running_loop().time()
        if self._scan is not None and not self._scan.done():
            return
        if now or clock >= self._scanned + SCAN_SECONDS:
            self._scanned = clock
            self._scan = asyncio.ensure_future(asyncio.to_thread(self.repository.scan))

    async def _describe(self, entry: ModelEntry) -> Description:
        known = self._described.get(entry.key)
        if known is None or known[0] != entry.fingerprint:
            known = self._described[entry.key] = (entry.fingerprint, await self.runner.describe(entry.key))
        return known[1]

    def _batcher(self, key: ModelKey, verb: str) -> Batcher:
        if (key, verb) not in self._batchers:
            run: Callable[[list[Any]], Any] = self._encode_batch(key) if verb == ENCODE else self._decode_batch(key)
            self._batchers[key, verb] = Batcher(
                run,
                max_size=self.batch_size,
                max_wait=self.batch_wait,
                max_queue=self.queue_size,
                group=(lambda watched: watched.item.settings) if verb == DECODE else (lambda item: None),
                parallel=self.runner.parallel,
                name=str(key),
                stage=verb,
                observer=self.metrics,
            )
        return self._batchers[key, verb]

    def _encode_batch(self, key: ModelKey) -> Callable[[list[EncodeItem]], Any]:
        async def run(items: list[EncodeItem]) -> list[Any]:
            results = await self.runner.encode(key, items)
            entry = self._entry_of(key)
            return [r if isinstance(r, BaseException) else Encoded(r, entry) for r in results]

        return run

    def _decode_batch(self, key: ModelKey) -> Callable[[list[_Watched]], Any]:
        async def run(batch: list[_Watched]) -> Sequence[Any]:
            for watched in batch:
                watched.started = watched.loop.time()
            return await self.runner.decode(
                key,
                [w.item for w in batch],
                [w.tell for w in batch],
                [w.left.is_set for w in batch],
                [w.give for w in batch],
            )

        return run

    def _entry_of(self, key: ModelKey) -> ModelEntry:
        """Of what has just run, which may be older than what is on disk by now."""
        return self.runner.state(key).entry or self.repository.find(key.name, key.version)


async def _ask(batcher: Batcher, watched: _Watched, deadline: float | None) -> list[DecodedRow]:
    watched.position = batcher.waiting
    return await batcher.submit(watched, deadline=deadline, weight=len(watched.item))
