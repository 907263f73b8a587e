"""`Batcher`: requests that arrive together are computed together, and none waits for company that will not come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import BusyError, DeadlineError, UnavailableError

# Of the newest batch in the measured rate.
SMOOTHING = 0.3
FIRST_RETRY_SECONDS = 1.0

Run = Callable[[list[Any]], Awaitable[Sequence[Any]]]


class Observer(Protocol):
    """Told how batching goes; `service.observability.metrics.Metrics` is one."""

    def observe_batch(self, model: str, size: int, seconds: float, stage: str) -> None: ...

    def observe_wait(self, model: str, seconds: float) -> None: ...

    def set_depth(self, model: str, n: int) -> None: ...

    def set_loaded(self, model: str, loaded: bool) -> None: ...


@dataclass(eq=False)
class _Waiting:
    item: Any
    answer: asyncio.Future[Any]
    arrived: float
    deadline: float | None
    weight: int
    group: Hashable


class Batcher:
    """Collects items into batches for one function. Belongs to the event loop that it is first used in.

    An item that comes while nothing is at work is run at once. After a batch, the next one waits until as many are
    there as were in flight before, for `max_wait` at most: clients that were just answered tend to ask again.

    Parameters
    ----------
    run : takes a list of items and gives as many results; a result that is an exception is raised to its caller.
    max_size : most weight of a batch; a heavier item runs alone.
    max_wait : seconds. max_queue : most items that wait. group : only items of one group are run together.
    parallel : batches at work at a time.
    name, stage, observer : told of waits, depth and batches, as of this model and stage.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_size: int,
        max_wait: float,
        max_queue: int,
        group: Callable[[Any], Hashable] = lambda item: None,
        parallel: int = 1,
        name: str = "",
        stage: str = "",
        observer: Observer | None = None,
    ):
        self._run = run
        self.max_size, self.max_wait, self.max_queue, self.parallel = max_size, max_wait, max_queue, parallel
        self._group = group
        self.name, self.stage, self.observer = name, stage, observer
        self._queue: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._expected, self._free_since = 0, 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._seconds_each = 0.0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is at work."""
        return not self._queue and not self._running

    async def submit(self, item: Any, *, deadline: float | None = None, weight: int = 1) -> Any:
        """The result of an item.

        An item whose caller has left, or whose deadline passes, while it waits is never run.

        Parameters
        ----------
        deadline : on the clock of the event loop, seconds. weight : share of a batch.

        Raises
        ------
        BusyError : the queue is full; says when to ask again. DeadlineError : no result by the deadline.
        UnavailableError : the batcher is closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise UnavailableError("the server is stopping", remedy="Ask again in a moment")
        if deadline is not None and deadline <= loop.time():
            raise DeadlineError("the deadline had passed before the request came", where=self.name)
        if len(self._queue) >= self.max_queue:
            raise BusyError(f"{len(self._queue)} requests wait", retry_seconds=self._retry_seconds(), where=self.name)
        entry = _Waiting(item, loop.create_future(), loop.time(), deadline, weight, self._group(item))
        self._queue.append(entry)
        self._in_flight += 1
        self._tell_depth()
        self._look()
        try:
            async with asyncio.timeout_at(deadline):
                return await entry.answer
        except TimeoutError as error:
            if not entry.answer.cancelled():
                raise
            raise DeadlineError("no answer by the deadline", where=self.name, remedy="Allow for more time") from error
        finally:
            self._in_flight -= 1
            if entry in self._queue:
                self._queue.remove(entry)
                self._tell_depth()

    async def close(self) -> None:
        """Refuse what waits and what comes, and let what is at work end."""
        self._closed = True
        self._forget_timer()
        while self._queue:
            entry = self._queue.popleft()
            if not entry.answer.done():
                entry.answer.set_exception(UnavailableError("the server is stopping", remedy="Ask again in a moment"))
        await asyncio.gather(*self._running, return_exceptions=True)

    # Batches -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Start batches that need not, or may no longer, wait for company."""
        while self._queue and len(self._running) < self.parallel and not self._closed:
            now = asyncio.get_running_loop().time()
            latest = self._free_since + self.max_wait
            full = sum(entry.weight for entry in self._queue) >= self.max_size
            if len(self._queue) < self._expected and not full and now < latest:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_at(latest, self._time_is_up)
                return
            self._start()

    def _time_is_up(self) -> None:
        self._timer, self._expected = None, 0
        self._look()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._forget_timer()
        self._expected = 0
        batch = self._take()
        if not batch:
            return
        task = asyncio.ensure_future(self._work(batch))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _take(self) -> list[_Waiting]:
        """The first item that can still be answered, and others of its group that fit beside it."""
        loop_time = asyncio.get_running_loop().time()
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        weight = 0
        for entry in self._queue:
            if entry.answer.done() or (entry.deadline is not None and entry.deadline <= loop_time):
                continue
            if not taken or (entry.group == taken[0].group and weight + entry.weight <= self.max_size):
                taken.append(entry)
                weight += entry.weight
            else:
                left.append(entry)
        self._queue = left
        self._tell_depth()
        for entry in taken if self.observer else ():
            self.observer.observe_wait(self.name, loop_time - entry.arrived)  # type: ignore[union-attr]
        return taken

    async def _work(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        results: Sequence[Any]
        try:
            results = await self._run([entry.item for entry in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results of {len(batch)} items")
        except asyncio.CancelledError:
            results = [UnavailableError("the work was broken off", where=self.name, remedy="Ask again")] * len(batch)
        except Exception as error:
            results = [error] * len(batch)
        seconds = loop.time() - began
        each = seconds / len(batch)
        self._seconds_each = (
            each if not self._seconds_each else ((1 - SMOOTHING) * self._seconds_each + SMOOTHING * each)
        )
        if self.observer:
            self.observer.observe_batch(self.name, len(batch), seconds, self.stage)
        # Of those that were in flight, the answered ones may be back in a moment.
        self._expected = min(self._in_flight, self.max_size) if self._in_flight > 1 else 0
        self._free_since = loop.time()
        for entry, result in zip(batch, results, strict=True):
            if entry.answer.done():
                continue
            if isinstance(result, BaseException):
                entry.answer.set_exception(result)
            else:
                entry.answer.set_result(result)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._look()

    def _retry_seconds(self) -> float:
        if not self._seconds_each:
            return FIRST_RETRY_SECONDS
        return max(0.01, len(self._queue) * self._seconds_each / self.parallel)

    def _tell_depth(self) -> None:
        if self.observer:
            self.observer.set_depth(self.name, len(self._queue))
