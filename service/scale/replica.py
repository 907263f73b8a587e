"""What runs in a worker process of Ray Serve: the local runner, and how its events and stops cross the border."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recordings.errors import PenfieldError
from recordings.events import Event, OnEvent, Stop

if TYPE_CHECKING:
    from ..items import DecodedRow, OnRow
    from ..repository import ModelEntry
    from ..runner import Runner

MakeRunner = Callable[[Path, str], "Runner"]
EVENT, ROW, RESULTS = "event", "row", "results"


def local_runner(folder: Path, device: str, **options: Any) -> Runner:
    """The runner that a server without Ray would have, for the models of a folder; options as of `LocalRunner`."""
    from ..repository import ModelRepository
    from ..runner import LocalRunner

    return LocalRunner(ModelRepository(folder, device=device), device=device, **options)


class Replica:
    """One copy of a model in a process of its own.

    Parameters
    ----------
    entry : the model. folder : of all models. device : where it runs.
    make_runner : gives the runner that does the work.
    """

    def __init__(self, entry: ModelEntry, folder: Path, device: str, make_runner: MakeRunner = local_runner):
        self._entry = entry
        self._runner = make_runner(folder, device)
        self._stopped: dict[str, set[int]] = {}
        self._stopping: set[asyncio.Task[Any]] = set()

    async def load(self) -> None:
        """Load the model, if it is not loaded."""
        await self._runner.load(self._entry)

    async def describe(self) -> Any:
        """As `Runner.describe`."""
        return await self._runner.describe(self._entry.key)

    async def encode(self, batch: Sequence[Any]) -> list[Any]:
        """As `Runner.encode`."""
        return [_portable(found) for found in await self._runner.encode(self._entry.key, batch)]

    async def decode(
        self, call: str, batch: Sequence[Any], heard: Sequence[bool], rows_heard: Sequence[bool]
    ) -> AsyncIterator[tuple[str, Any]]:
        """As `Runner.decode`: (EVENT, (item, event)) and (ROW, (item, row)) as they come, (RESULTS, pairs) last.

        The pairs are the number of an item and its rows or exception, or None where all rows have been told.

        Parameters
        ----------
        call : name of this call, for `stop`. heard, rows_heard : whose events, and whose rows, are wanted as they come.
        """
        stopped = self._stopped[call] = set()
        told: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        sent: list[set[str]] = [set() for _ in batch]

        def listener(item: int) -> OnEvent:
            def on_event(event: Event) -> None:
                loop.call_soon_threadsafe(told.put_nowait, (EVENT, (item, event)))

            return on_event

        def receiver(item: int) -> OnRow:
            def on_row(row: DecodedRow) -> None:
                sent[item].add(row.stimulus_id)
                loop.call_soon_threadsafe(told.put_nowait, (ROW, (item, row)))

            return on_row

        def stopper(item: int) -> Stop:
            return lambda: item in stopped

        items = range(len(batch))
        work = asyncio.ensure_future(
            self._runner.decode(
                self._entry.key,
                batch,
                [listener(item) if heard[item] else None for item in items],
                [stopper(item) for item in items],
                [receiver(item) if rows_heard[item] else None for item in items],
            )
        )
        work.add_done_callback(lambda _: told.put_nowait((RESULTS, None)))
        try:
            while (message := await told.get())[0] != RESULTS:
                yield message
            found = enumerate(await work)
            yield RESULTS, [(item, None if _all_sent(rows, sent[item]) else _portable(rows)) for item, rows in found]
        finally:
            # Whoever asked may have gone: the thread then ends at its next step.
            stopped.update(range(len(batch)))
            del self._stopped[call]
            if not work.done():
                self._stopping.add(work)
                work.add_done_callback(self._ended)

    async def stop(self, call: str, item: int) -> None:
        """Stop one item of a call, if it runs here."""
        if call in self._stopped:
            self._stopped[call].add(item)

    def _ended(self, work: asyncio.Task[Any]) -> None:
        self._stopping.discard(work)
        if not work.cancelled():
            work.exception()


def _all_sent(found: Any, sent: set[str]) -> bool:
    return isinstance(found, list) and len(found) == len(sent)


def _portable(found: Any) -> Any:
    """Errors of libraries may not survive the way between processes; ours do."""
    if isinstance(found, Exception) and not isinstance(found, PenfieldError):
        return RuntimeError(f"{type(found).__name__}: {found}")
    return found
