"""Predicted responses of a server's encoder to any number of stimuli: one call for a few, a stream for many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import grpc
import numpy as np

from recordings.errors import InputError, PenfieldError
from recordings.events import Event, OnEvent

from ..errors import BusyError, ConflictError, UnavailableError
from ..generated.penfield.v1 import encoding_pb2, encoding_pb2_grpc
from ..status import error_from, error_of
from ..tensors import to_array
from .connection import Connection, Tries

# Parts of a stream that are sent and not answered: as many as a server works at.
UNDER_WAY = 8

Request: TypeAlias = encoding_pb2.EncodeRequest
Response: TypeAlias = encoding_pb2.EncodeResponse


async def encode(
    connection: Connection,
    requests: Iterator[Request],
    *,
    check_parts: Callable[[], Awaitable[None]],
    total: int = 0,
    on_event: OnEvent | None = None,
    timeout: float | None = None,
) -> np.ndarray:
    """Responses float32 (stimulus, unit), or (stimulus, time, unit), to the stimuli of all requests, in order.

    Requests are made in a thread, and not before the server has answered earlier ones.

    Parameters
    ----------
    check_parts : raises if the model does not take several requests for one.
    """
    service = connection.stub(encoding_pb2_grpc.EncodingServiceStub)
    first = await asyncio.to_thread(next, requests, None)
    if first is None:
        raise InputError("no stimulus", where="stimuli", remedy="Give at least one")
    second = await asyncio.to_thread(next, requests, None)
    if second is None:
        answers = [await connection.call(service.Encode, first, timeout=timeout)]
    else:
        await check_parts()
        tries = connection.tries(connection.stream_timeout if timeout is None else timeout)
        answers = await _Stream(_chained(first, second, requests), total, on_event).answers(
            service.EncodeStream, connection, tries
        )
    if len({answer.model.fingerprint for answer in answers}) > 1:
        where = first.model.name
        raise ConflictError(
            "the model was replaced in the middle", where=where, remedy="Encode again, or name a version"
        )
    return np.concatenate([to_array(answer.responses, name="responses", finite=False) for answer in answers])


class _Stream:
    """The parts of one long request, over as many streams as it takes: one that breaks is followed by another, which
    carries on with what has not been answered."""

    def __init__(self, requests: Iterator[Request], total: int, on_event: OnEvent | None):
        self._fresh = enumerate(requests)
        self._waiting: dict[int, Request] = {}
        self._answers: dict[int, Response] = {}
        self._total, self._on_event, self._done = total, on_event, 0
        self._failed: Exception | None = None

    async def answers(self, method: Any, connection: Connection, tries: Tries) -> list[Response]:
        """The answer to each request, in order."""
        while True:
            before = len(self._answers)
            error = await self._one_stream(method, connection, tries)
            if self._failed is not None:
                raise self._failed
            if error is None:
                return [self._answers[number] for number in sorted(self._answers)]
            if len(self._answers) > before:
                tries.progressed()
            await tries.wait(error)

    async def _one_stream(self, method: Any, connection: Connection, tries: Tries) -> PenfieldError | None:
        """Send what waits and what is fresh; why that was not the end, or None if it was."""
        order, room, over = list[int](), asyncio.Semaphore(UNDER_WAY), asyncio.Event()
        call = method(self._messages(order, room, over), timeout=tries.left(), metadata=connection.metadata)
        again: PenfieldError | None = None
        try:
            async for response in call:
                again = self._take(order[response.number], response) or again
                room.release()
        except grpc.aio.AioRpcError as failed:
            return error_from(failed)
        finally:
            over.set()
            room.release()
            call.cancel()
        if self._waiting and again is None:
            return UnavailableError("the server ended the stream early")
        return again

    async def _messages(
        self, order: list[int], room: asyncio.Semaphore, over: asyncio.Event
    ) -> AsyncIterator[encoding_pb2.EncodeStreamRequest]:
        try:
            for number in sorted(self._waiting):
                await room.acquire()
                if over.is_set():
                    return
                order.append(number)
                yield encoding_pb2.EncodeStreamRequest(request=self._waiting[number])
            while True:
                await room.acquire()
                if over.is_set() or (found := await asyncio.to_thread(next, self._fresh, None)) is None:
                    return
                number, self._waiting[found[0]] = found
                order.append(number)
                yield encoding_pb2.EncodeStreamRequest(request=self._waiting[number])
        except Exception as error:
            # grpc would only log it; it is raised when what was sent is answered.
            self._failed = error

    def _take(self, number: int, response: encoding_pb2.EncodeStreamResponse) -> PenfieldError | None:
        """Keep an answer; the error of a part that is worth another try, while any other is raised."""
        if response.HasField("failure"):
            error = error_of(response.failure)
            if isinstance(error, BusyError | UnavailableError):
                return error
            raise error
        self._answers[number] = response.response
        del self._waiting[number]
        if self._on_event is not None:
            self._done += response.response.responses.shape[0]
            self._on_event(Event("encode", self._done, self._total))
        return None


def _chained(first: Request, second: Request, rest: Iterator[Request]) -> Iterator[Request]:
    yield first
    yield second
    yield from rest
