"""Models that are in memory: who is there, since when unused, and who goes where room is short."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .batching import Observer
from .errors import BudgetError, BusyError
from .repository import ModelEntry, ModelKey

log = logging.getLogger("penfield.models")

# Of this machine's memory, for models.
SHARE_OF_MEMORY = 0.6
# For a model in use to be done, so that another one can take its place.
ROOM_SECONDS = 60.0


@dataclass
class Resident:
    """A model in memory: when it was last used, and how many batches are at work on it."""

    model: Any
    entry: ModelEntry
    used: float
    users: int = 0

    @property
    def memory_bytes(self) -> int:
        """What it takes now; networks are loaded when they are first needed."""
        return int(self.model.memory_bytes)


class Residence:
    """Models within a budget of memory, of which the longest unused make room. Belongs to one event loop.

    Parameters
    ----------
    budget : bytes for all together; by default 60 % of the machine's memory.
    observer : told which models are in memory.
    """

    def __init__(self, budget: int | None = None, observer: Observer | None = None):
        self.budget = budget or int(SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        self.observer = observer
        self._models: dict[ModelKey, Resident] = {}
        self._released = asyncio.Event()

    def get(self, key: ModelKey) -> Resident | None:
        """The model of a key, if it is in memory."""
        return self._models.get(key)

    def put(self, model: Any, entry: ModelEntry) -> Resident:
        """Take a model in, in the place of an older state of it."""
        found = self._models[entry.key] = Resident(model, entry, time.monotonic())
        if self.observer:
            self.observer.set_loaded(str(entry.key), True)
        log.info("loaded", extra={"fields": {"model": str(entry.key), "bytes": found.memory_bytes}})
        return found

    @contextmanager
    def using(self, resident: Resident) -> Iterator[Any]:
        """The model, which stays as long as it is used."""
        resident.users += 1
        try:
            yield resident.model
        finally:
            resident.users -= 1
            resident.used = time.monotonic()
            self._released.set()
            self._make_room(0, keep=resident.entry.key)

    async def leave(self, key: ModelKey) -> None:
        """Let a model go when nobody uses it any more."""
        while (resident := self._models.get(key)) is not None and resident.users:
            self._released.clear()
            await self._released.wait()
        self._drop(key)

    async def find_room(self, wanted: int, key: ModelKey) -> None:
        """Wait until so many bytes are there for a model.

        Raises
        ------
        BudgetError : there are not so many in all. BusyError : others in use leave no room.
        """
        if wanted > self.budget:
            raise BudgetError(
                f"takes {wanted / 1e9:.2g} GB, all models together have {self.budget / 1e9:.2g}",
                where=key.name,
                remedy="Raise the memory budget of the server",
            )
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                while not self._make_room(wanted, keep=key):
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError as error:
            raise BusyError("models in use leave no room", retry_seconds=ROOM_SECONDS, where=key.name) from error

    def clear(self) -> None:
        """Let all go."""
        for key in list(self._models):
            self._drop(key)

    def _make_room(self, wanted: int, keep: ModelKey) -> bool:
        """Let models go, the longest unused first, until `wanted` bytes fit; whether they do."""
        by_use = sorted((key for key in self._models if key != keep), key=lambda key: self._models[key].used)
        for key in by_use:
            if self._taken(keep if wanted else None) + wanted <= self.budget:
                break
            if not self._models[key].users:
                self._drop(key)
        return self._taken(keep if wanted else None) + wanted <= self.budget

    def _taken(self, without: ModelKey | None) -> int:
        """Bytes of all models; an older state of one that is being loaded goes when the new one comes."""
        return sum(resident.memory_bytes for key, resident in self._models.items() if key != without)

    def _drop(self, key: ModelKey) -> None:
        if self._models.pop(key, None) is None:
            return
        if self.observer:
            self.observer.set_loaded(str(key), False)
        log.info("unloaded", extra={"fields": {"model": str(key)}})
