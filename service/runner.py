"""Where models run: `LocalRunner` holds them in this process, within a budget of memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from recordings.errors import PenfieldError
from recordings.events import OnEvent, Stop

from .batching import Observer
from .errors import BudgetError, DamagedModelError
from .repository import ModelEntry, ModelKey, ModelRepository, signature_of
from .residence import Residence, Resident

if TYPE_CHECKING:
    from .items import DecodeItem, EncodeItem, OnRow
    from .models import Description

log = logging.getLogger("penfield.models")

# How often a folder may be replaced while it is read.
ATTEMPTS = 3

Phase = Literal["unloaded", "loading", "ready", "failed"]


@dataclass(frozen=True)
class ModelState:
    """Where a model stands.

    Attributes
    ----------
    phase : "unloaded", "loading", "ready" or "failed". reason : why it failed.
    memory_bytes : in use; 0 while it is not in memory.
    entry : of what answered last, else of what is in memory; its files may be others by now.
    """

    phase: Phase = "unloaded"
    reason: str = ""
    memory_bytes: int = 0
    entry: ModelEntry | None = None


class Runner(Protocol):
    """What an engine needs of the place where models run. All but `state` may load the model first.

    Attributes
    ----------
    parallel : batches of one model that can be at work together.
    """

    parallel: int

    async def load(self, entry: ModelEntry) -> None:
        """Bring a model into memory and run it once."""

    async def unload(self, key: ModelKey) -> None:
        """Take it out of memory; what runs ends first."""

    async def encode(self, key: ModelKey, batch: Sequence[EncodeItem]) -> list[Any]:
        """Responses or an exception for each item."""

    async def decode(
        self,
        key: ModelKey,
        batch: Sequence[DecodeItem],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
    ) -> list[Any]:
        """Rows or an exception for each item; events, and rows as they are done, may come from any thread.

        A row may be told again where memory was short.
        """

    async def describe(self, key: ModelKey) -> Description:
        """What it takes and gives."""

    def state(self, key: ModelKey) -> ModelState:
        """Where it stands."""

    async def close(self) -> None:
        """Leave nothing running."""


class LocalRunner:
    """Models in this process: one thread computes, another one loads, so that loading holds nobody up.

    A model whose files have changed is loaded anew while the old one answers, until the new one is there. If it cannot
    be loaded, the old one stays.
    Where memory is short, the models that were used longest ago are unloaded. A batch for which memory cannot be had is
    tried again in halves; only an item that fails alone as well, and with half as much computed at a time, is refused.

    Parameters
    ----------
    repository : of the models. device : where they run.
    memory_budget_bytes : for all models together; by default 60 % of the machine's memory.
    warm_up : run a model once when it is loaded.
    observer : told which models are in memory.
    options : of `DecoderModel`.
    """

    parallel = 1

    def __init__(
        self,
        repository: ModelRepository,
        *,
        device: str = "auto",
        memory_budget_bytes: int | None = None,
        warm_up: bool = True,
        observer: Observer | None = None,
        **options: Any,
    ):
        self.repository, self.device, self.warm_up = repository, device, warm_up
        self.residence = Residence(memory_budget_bytes, observer)
        self.options = options
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="penfield-model")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="penfield-load")
        self._states: dict[ModelKey, ModelState] = {}
        self._loading: dict[ModelKey, asyncio.Task[Resident]] = {}
        self._answered: dict[ModelKey, ModelEntry] = {}
        self._damaged: dict[ModelKey, tuple[str, DamagedModelError]] = {}

    async def load(self, entry: ModelEntry) -> None:
        """Bring a model into memory and run it once.

        Raises
        ------
        DamagedModelError : it cannot be loaded. BudgetError : it is larger than the budget.
        BusyError : others in use leave no room. MissingWeightsError : networks that it needs are not here.
        """
        await self._newest(self.repository.find(entry.key.name, entry.key.version))

    async def unload(self, key: ModelKey) -> None:
        """Take a model out of memory; a batch that is at work ends first."""
        await self.residence.leave(key)
        self._states.pop(key, None)

    async def encode(self, key: ModelKey, batch: Sequence[EncodeItem]) -> list[Any]:
        """Responses (stimulus, unit) or an exception for each item."""
        return await self._run(key, lambda model: _in_halves(lambda part, **how: model.encode(part, **how), batch))

    async def decode(
        self,
        key: ModelKey,
        batch: Sequence[DecodeItem],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
    ) -> list[Any]:
        """Rows or an exception for each item; events, and rows as they are done, come from the model's thread."""
        watched = list(zip(batch, on_events, stops, on_rows, strict=True))
        return await self._run(
            key, lambda model: _in_halves(lambda part, **how: model.decode(*zip(*part, strict=True), **how), watched)
        )

    async def describe(self, key: ModelKey) -> Description:
        """What a model takes and gives."""
        loaded = await self._newest(self.repository.find(key.name, key.version))
        return await asyncio.get_running_loop().run_in_executor(self._loader, loaded.model.describe)

    def state(self, key: ModelKey) -> ModelState:
        """Where a model stands."""
        if (loaded := self.residence.get(key)) is not None:
            return ModelState("ready", "", loaded.memory_bytes, self._answered.get(key, loaded.entry))
        if key in self._loading:
            return ModelState("loading")
        return self._states.get(key, ModelState())

    async def close(self) -> None:
        """Forget all models; what runs ends first."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        await asyncio.gather(
            *(asyncio.to_thread(pool.shutdown, cancel_futures=True) for pool in (self._worker, self._loader))
        )
        self.residence.clear()

    # Work --------------------------------------------------------------------------------------------------------

    async def _run(self, key: ModelKey, work: Callable[[Any], list[Any]]) -> list[Any]:
        loaded = await self._ready(key)
        try:
            with self.residence.using(loaded) as model:
                return await asyncio.get_running_loop().run_in_executor(self._worker, work, model)
        finally:
            self._answered[key] = loaded.entry

    async def _ready(self, key: ModelKey) -> Resident:
        """What answers now: an older state as long as the newest is on its way."""
        entry, loaded = self.repository.find(key.name, key.version), self.residence.get(key)
        if loaded is None:
            return await self._newest(entry)
        if entry.fingerprint not in (loaded.entry.fingerprint, self._damaged.get(key, ("", None))[0]):
            self._begin(entry)
        return loaded

    async def _newest(self, entry: ModelEntry) -> Resident:
        """The state that is on disk, once it is in memory."""
        loaded = self.residence.get(entry.key)
        if loaded is not None and loaded.entry.fingerprint == entry.fingerprint:
            return loaded
        # Of several that wait for one model, one may leave.
        return await asyncio.shield(self._begin(entry))

    def _begin(self, entry: ModelEntry) -> asyncio.Task[Resident]:
        key = entry.key
        if key not in self._loading:
            self._loading[key] = asyncio.ensure_future(self._load(entry))
            self._loading[key].add_done_callback(partial(self._ended, key))
        return self._loading[key]

    def _ended(self, key: ModelKey, task: asyncio.Task[Resident]) -> None:
        self._loading.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("not loaded: %s", error, extra={"fields": {"model": str(key)}})

    async def _load(self, entry: ModelEntry) -> Resident:
        key, loop = entry.key, asyncio.get_running_loop()
        fingerprint, damage = self._damaged.get(key, ("", None))
        if damage is not None and fingerprint == entry.fingerprint:
            raise DamagedModelError(damage.what, where=damage.where, remedy=damage.remedy)
        try:
            await self.residence.find_room(entry.bytes_on_disk, key)
            entry, model = await loop.run_in_executor(self._loader, self._read, entry)
            await self.residence.find_room(model.memory_bytes, key)
            if self.warm_up:
                await loop.run_in_executor(self._worker, _warm_up, model, key)
        except Exception as error:
            self._states[key] = ModelState("failed", str(error))
            if isinstance(error, DamagedModelError):
                # The same files need not be read again to say so.
                self._damaged[key] = (entry.fingerprint, error)
            raise
        self._states.pop(key, None)
        return self.residence.put(model, entry)

    def _read(self, entry: ModelEntry) -> tuple[ModelEntry, Any]:
        """A model and the entry that it really is of, should its folder be replaced while it is read."""
        from .models import load_model

        for attempt in range(ATTEMPTS):
            failure: PenfieldError | None = None
            try:
                model = load_model(entry, self.device, **self._options(entry))
            except DamagedModelError as error:
                failure = error
            if signature_of(entry.folder) == entry.signature or attempt == ATTEMPTS - 1:
                if failure is not None:
                    raise failure
                return entry, model
            self.repository.scan()
            entry = self.repository.find(entry.key.name, entry.key.version)
        raise AssertionError

    def _options(self, entry: ModelEntry) -> dict[str, Any]:
        return self.options if "decode" in entry.verbs else {}


def _warm_up(model: Any, key: ModelKey) -> None:
    from .models.memory import is_out_of_memory

    try:
        model.warm_up()
    except Exception as error:
        if is_out_of_memory(error):
            raise BudgetError("its first run needs more memory than there is", where=key.name) from error
        if isinstance(error, PenfieldError):
            raise
        raise DamagedModelError(
            f"its first run failed ({type(error).__name__})", where=key.name, remedy="Write the model again"
        ) from error


def _in_halves(run: Callable[..., list[Any]], batch: Sequence[Any], halved: bool = False) -> list[Any]:
    """Results of a batch; where memory cannot be had for it, of its halves."""
    from .models.memory import is_out_of_memory, release

    try:
        return run(batch, chunk=1) if halved else run(batch)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failure = type(error).__name__
    # Outside of the handler, which keeps the frames and with them the tensors of what failed.
    release()
    log.warning("out of memory", extra={"fields": {"batch": len(batch), "error": failure}})
    if len(batch) > 1:
        middle = len(batch) // 2
        return _in_halves(run, batch[:middle]) + _in_halves(run, batch[middle:])
    if not halved:
        return _in_halves(run, batch, halved=True)
    return [BudgetError("needs more memory than there is", where="request", remedy="Ask for less at once")]
