"""A stream of requests, several at work at once, answered in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def answered_in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], at_once: int
) -> AsyncGenerator[Answer, None]:
    """The answers to requests, in the order of the requests.

    No request is read while `at_once` of them are at work or wait for their answers to be taken, so that a client that
    sends faster than it reads, or than models compute, has to wait. What is at work is cancelled when the iterator is
    closed.
    """
    coming: asyncio.Future[Any] | None = None
    working: deque[asyncio.Future[Answer]] = deque()
    ended = False
    try:
        while working or not ended:
            if coming is None and not ended and len(working) < at_once:
                coming = asyncio.ensure_future(_next(requests))
            waiting = [future for future in (coming, *list(working)[:1]) if future is not None]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming.done():
                request = coming.result()
                coming = None
                if request is None:
                    ended = True
                else:
                    working.append(asyncio.ensure_future(answer(request)))
            while working and working[0].done():
                yield working.popleft().result()
    finally:
        left = [future for future in (coming, *working) if future is not None]
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _next(requests: AsyncIterator[Request]) -> Request | None:
    return await anext(requests, None)
