"""`JobRunner`: carries out jobs, each in a process of its own, for as long as the server lives."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from recordings.errors import DiskFullError, PenfieldError
from service.verbs import parse

from .answers import failure_values
from .child import WORKER, Child
from .lineage import lineage_of
from .queue import JobQueue, Orders
from .records import Job
from .store import JobStore

log = logging.getLogger("penfield.jobs")
IDLE = 1.0
SWEEP = 60.0


class JobRunner:
    """Takes jobs off a store and carries them out.

    Parameters
    ----------
    store : the jobs. device : auto, cpu, cuda or mps. concurrency : jobs at work at once.
    max_attempts : starts of a job whose process dies. lease : seconds after which another runner takes over from one
        that is gone. grace : seconds that a job has to stop in order. pause : seconds between looks at a full disk.
    command : of the process of a job.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        device: str = "auto",
        concurrency: int = 1,
        max_attempts: int = 3,
        lease: float = 15.0,
        grace: float = 30.0,
        pause: float = 60.0,
        command: Sequence[str] = WORKER,
    ):
        self.store, self.device, self.concurrency = store, device, concurrency
        self.grace, self.pause, self.command = grace, pause, command
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.queue = JobQueue(store, name, lease=lease, max_attempts=max_attempts)
        self._news: dict[str, asyncio.Event] = {}
        self._work = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to take jobs."""
        self._loop = asyncio.get_running_loop()
        self.store.listen(self._hear)
        parts = [self._forever(self._take, IDLE, self._work) for _ in range(self.concurrency)]
        self._tasks = [asyncio.create_task(part) for part in (*parts, self._forever(self._sweep, SWEEP, None))]

    async def stop(self) -> None:
        """Take no more, and let those at work stop at their next step; they go on when a runner starts again."""
        self._stopping = True
        self._work.set()
        for event in self._news.values():
            event.set()
        sweep = self._tasks.pop()
        sweep.cancel()
        await asyncio.gather(*self._tasks, sweep, return_exceptions=True)
        self.store.unlisten(self._hear)

    def _hear(self, id: str) -> None:
        # Called from any thread.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake, id)

    def _wake(self, id: str) -> None:
        self._work.set()
        if id in self._news:
            self._news[id].set()

    async def _forever(self, act: Any, seconds: float, wake: asyncio.Event | None) -> None:
        while not self._stopping:
            if wake is not None:
                wake.clear()
            try:
                again = await act()
            except Exception:
                # A full disk, say; what is in the queue stays there.
                log.exception("jobs")
                again = False
            if not again and not self._stopping:
                await _wait(wake, seconds)

    async def _sweep(self) -> bool:
        gone = await asyncio.to_thread(self.store.data.sweep)
        erased = await asyncio.to_thread(self.store.sweep)
        if gone or erased:
            log.info("expired: %d uploads, %d jobs", len(gone), len(erased))
        return False

    async def _take(self) -> bool:
        job = await asyncio.to_thread(self.queue.claim)
        if job is None:
            return False
        news = self._news[job.id] = asyncio.Event()
        try:
            await self._carry_out(job, news)
        finally:
            del self._news[job.id]
        return True

    async def _carry_out(self, job: Job, news: asyncio.Event) -> None:
        try:
            spec = await asyncio.to_thread(self._spec, job)
        except PenfieldError as error:
            await asyncio.to_thread(self.queue.fail, job.id, failure_values(error, job.id))
            return
        child = await Child.start(spec, self.command)
        told: dict[str, Any] = {}
        listening = asyncio.create_task(self._listen(job.id, child, told))
        orders = "none"
        try:
            orders = await self._watch(job.id, child, listening, news)
        finally:
            if not listening.done():
                child.kill()
            await asyncio.gather(listening, return_exceptions=True)
            how = await child.ended()
        await asyncio.to_thread(self._settle, job.id, orders, told, how)

    def _spec(self, job: Job) -> dict[str, Any]:
        verb = parse(job.verb, job.arguments)
        places = self.store.resolve(verb, job.owner)
        lineage = lineage_of(places, job.owner, self.store)
        folder = self.store.place(job.id)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return {
            "id": job.id,
            "verb": job.verb,
            "arguments": job.arguments,
            "folder": str(folder),
            "places": {reference: str(path) for reference, path in places.items()},
            "models": str(self.store.models),
            "terms": lineage.to_dict(),
            "device": self.device,
        }

    async def _listen(self, id: str, child: Child, told: dict[str, Any]) -> None:
        async for event in child.events():
            if "end" in event:
                told.update(event)
            elif "stage" in event:
                # How far it is may be lost where the disk is full; the job is not.
                with suppress(DiskFullError):
                    await asyncio.to_thread(self.queue.progress, id, event["stage"], event["done"], event["total"])

    async def _watch(self, id: str, child: Child, listening: asyncio.Task[None], news: asyncio.Event) -> str:
        """Renew the lease until the process is silent; what has stopped it: none, stop, drain, doomed or lost."""
        asked = "none"
        deadline = float("inf")
        clock = asyncio.get_running_loop().time
        while not listening.done():
            news.clear()
            orders = await self._beat(id)
            if orders.doomed or not orders.mine:
                child.kill()
                return "doomed" if orders.doomed else "lost"
            if asked == "none" and (orders.stop or self._stopping):
                asked, deadline = ("stop" if orders.stop else "drain"), clock() + self.grace
                child.stop()
            if clock() > deadline:
                child.kill()
                deadline = float("inf")
            await _first(listening, news, min(self.queue.lease / 3, max(deadline - clock(), 0.05)))
        return asked

    async def _beat(self, id: str) -> Orders:
        try:
            return await asyncio.to_thread(self.queue.beat, id)
        except DiskFullError:
            # The job's own writing tells whether it can go on.
            return Orders(mine=True, stop=False, doomed=False)

    def _settle(self, id: str, orders: str, told: dict[str, Any], how: str) -> None:
        end = told.get("end")
        if orders == "doomed":
            self.store.erase(id)
        elif orders == "lost":
            log.warning("job %s was taken over by another runner", id)
        elif end == "done":
            self.queue.succeed(id)
        elif end == "failed":
            code, message, reason = told["failure"]
            self.queue.fail(id, (code, message, reason))
        elif orders == "stop":
            self.queue.cancelled(id)
        elif end == "full":
            self.queue.pause(id, self.pause)
        elif orders == "drain":
            self.queue.give_back(id, counted=False)
        else:
            self.queue.lost(id, how)


async def _wait(event: asyncio.Event | None, seconds: float) -> None:
    if event is None:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def _first(task: asyncio.Task[None], event: asyncio.Event, seconds: float) -> None:
    """Until the task is done, the event is set, or the time is over."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait((task, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
