from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from service.servicers.ordered import answered_in_order


class Source:
    """Numbers, and how many of them were taken."""

    def __init__(self, n: int):
        self.n, self.taken = n, 0

    async def __aiter__(self):
        for number in range(self.n):
            self.taken += 1
            yield number


def iterate(source: Source):
    return aiter(source)


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_answers_come_in_the_order_of_requests_whichever_is_ready_first():
    async def answer(number):
        await asyncio.sleep(0.02 if number % 2 == 0 else 0)
        return number

    async def main():
        return [found async for found in answered_in_order(iterate(Source(9)), answer, 4)]

    assert asyncio.run(main()) == list(range(9))


def test_several_are_at_work_and_never_more_than_told():
    async def main():
        working, most = 0, 0

        async def answer(number):
            nonlocal working, most
            working += 1
            most = max(most, working)
            await asyncio.sleep(0.005)
            working -= 1

        async for _ in answered_in_order(iterate(Source(12)), answer, 3):
            pass
        return most

    assert asyncio.run(main()) == 3


def test_a_reader_that_waits_makes_the_sender_wait():
    async def main():
        source = Source(100)

        async def answer(number):
            return number

        async with aclosing(answered_in_order(iterate(source), answer, 3)) as answers:
            await anext(answers)
            await settle()
            return source.taken

    assert asyncio.run(main()) <= 4


def test_answers_are_given_while_the_next_request_is_awaited():
    async def main():
        async def requests():
            yield 0
            await asyncio.Event().wait()

        async def answer(number):
            return number

        async with aclosing(answered_in_order(requests(), answer, 4)) as answers:
            return await asyncio.wait_for(anext(answers), 5)

    assert asyncio.run(main()) == 0


def test_what_is_at_work_ends_with_the_reader():
    async def main():
        stopped = []

        async def answer(number):
            try:
                await asyncio.Event().wait() if number else None
            except asyncio.CancelledError:
                stopped.append(number)
                raise

        async with aclosing(answered_in_order(iterate(Source(4)), answer, 3)) as answers:
            await anext(answers)
            await settle()
            # The third place is filled when the reader comes back.
            task = asyncio.ensure_future(anext(answers))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return stopped

    assert asyncio.run(main()) == [1, 2, 3]


def test_an_error_of_the_sender_or_of_an_answer_ends_the_stream():
    async def broken():
        yield 0
        raise ValueError("sender")

    async def answer(number):
        return number

    async def fails(number):
        raise KeyError(number)

    async def main(requests, how):
        return [found async for found in answered_in_order(requests, how, 2)]

    with pytest.raises(ValueError, match="sender"):
        asyncio.run(main(broken(), answer))
    with pytest.raises(KeyError):
        asyncio.run(main(iterate(Source(2)), fails))
