"""`Client`: `AsyncClient` for programs without an event loop; it brings its own, in a thread."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from recordings.errors import Cancelled, InputError
from recordings.events import Stop

from .asynchronous import AsyncClient
from .jobs import AsyncRemoteJob

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 5.0

P = ParamSpec("P")
R = TypeVar("R")


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """The same method for a class that holds the asynchronous one as ``_own`` and a ``_loop`` to run it in."""

    @functools.wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._own, *args, **kwargs))

    return call


class RemoteJob:
    """A job of the server; see `AsyncRemoteJob`.

    Attributes
    ----------
    id : with it, `Client.job` finds the job again. reference : how other jobs name its result.
    """

    def __init__(self, loop: Loop, own: AsyncRemoteJob):
        self._loop, self._own = loop, own
        self.id, self.reference = own.id, own.reference

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    status = blocking(AsyncRemoteJob.status)
    cancel = blocking(AsyncRemoteJob.cancel)
    watch = blocking(AsyncRemoteJob.watch)
    result = blocking(AsyncRemoteJob.result)
    fetch = blocking(AsyncRemoteJob.fetch)


class Client:
    """A server's encoders, decoders, data and jobs; parameters and methods as of `AsyncClient`.

    ``on_event`` is called in the client's own thread, so it must not call the client. Methods may be called from any
    thread. Ctrl-C ends the call, also on the server.

    Parameters
    ----------
    stop : asked ten times a second during every call; when it answers True, the call ends with `Cancelled`.
    """

    def __init__(self, target: str = "localhost:50051", *, stop: Stop | None = None, **options: Any):
        self._own = AsyncClient(target, **options)
        self._loop = Loop(stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and the thread."""
        if not self._loop.closed:
            self._loop.run(self._own.close())
            self._loop.close()

    health = blocking(AsyncClient.health)
    models = blocking(AsyncClient.models)
    describe = blocking(AsyncClient.describe)
    load = blocking(AsyncClient.load)
    unload = blocking(AsyncClient.unload)
    encode = blocking(AsyncClient.encode)
    decode = blocking(AsyncClient.decode)
    caption = blocking(AsyncClient.caption)
    image = blocking(AsyncClient.image)
    depth = blocking(AsyncClient.depth)
    score = blocking(AsyncClient.score)
    upload = blocking(AsyncClient.upload)
    data = blocking(AsyncClient.data)
    delete = blocking(AsyncClient.delete)
    jobs = blocking(AsyncClient.jobs)

    def submit(self, verb: str, /, key: str | None = None, **arguments: Any) -> RemoteJob:
        """Queue a long verb; see `AsyncClient.submit`."""
        return RemoteJob(self._loop, self._loop.run(self._own.submit(verb, key, **arguments)))

    def job(self, id: str) -> RemoteJob:
        """A job that was submitted before; see `AsyncClient.job`."""
        return RemoteJob(self._loop, self._loop.run(self._own.job(id)))


class Loop:
    """An event loop in a thread, which ends with the object or the program."""

    def __init__(self, stop: Stop | None = None):
        self._stop = stop
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="penfield-client", daemon=True)
        self._thread.start()
        self.close = weakref.finalize(self, _end, self._loop, self._thread)

    @property
    def closed(self) -> bool:
        """Whether it can run nothing more."""
        return not self.close.alive

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """What the coroutine returns or raises; it is cancelled if the wait for it is cut short."""
        if self.closed or threading.current_thread() is self._thread:
            coroutine.close()
            raise InputError("the client is closed" if self.closed else "on_event must not call the client")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                try:
                    return future.result(None if self._stop is None else SECONDS_BETWEEN_LOOKS)
                except TimeoutError:
                    if future.done():
                        raise
                    if self._stop is not None and self._stop():
                        raise Cancelled("stopped") from None
        finally:
            _cancel(future)


def _cancel(future: Future[Any]) -> None:
    if not future.done():
        future.cancel()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if loop.is_running():
        loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(SECONDS_TO_END)
