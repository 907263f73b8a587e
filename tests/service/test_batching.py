"""Requests together cost little more than one, a lone one waits for nobody, and what is not wanted is never run."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from service.batching import Batcher
from service.errors import BusyError, DeadlineError, UnavailableError


class Model:
    """Sleeps for as long as a batch costs, and remembers the batches."""

    def __init__(self, seconds: float = 0.02, each: float = 0.0):
        self.seconds, self.each = seconds, each
        self.batches: list[list[Any]] = []

    async def __call__(self, batch: list[Any]) -> list[Any]:
        self.batches.append(batch)
        await asyncio.sleep(self.seconds + self.each * (len(batch) - 1))
        return [ValueError(item) if item == "bad" else ("answer", item) for item in batch]


def batcher(model: Model, **options: Any) -> Batcher:
    how: dict[str, Any] = {"max_size": 16, "max_wait": 0.005, "max_queue": 64} | options
    return Batcher(model, **how)


def test_a_lone_request_does_not_wait_for_company() -> None:
    async def alone() -> None:
        model = Model(seconds=0)
        queue = batcher(model, max_wait=10)
        began = time.perf_counter()
        for number in range(20):
            assert await queue.submit(number) == ("answer", number)
        assert time.perf_counter() - began < 5
        assert [len(batch) for batch in model.batches] == [1] * 20

    asyncio.run(alone())


def test_those_that_come_meanwhile_are_computed_together_and_one_failure_is_its_own() -> None:
    async def together() -> None:
        model = Model()
        queue = batcher(model)
        found = await asyncio.gather(*(queue.submit(i) for i in (0, 1, "bad", 3)), return_exceptions=True)
        assert [found[0], found[1], found[3]] == [("answer", 0), ("answer", 1), ("answer", 3)]
        assert isinstance(found[2], ValueError)
        assert model.batches == [[0], [1, "bad", 3]]

    asyncio.run(together())


def test_a_batch_waits_for_those_that_were_just_answered_but_not_for_ever() -> None:
    async def waits() -> None:
        model = Model(seconds=0.01)
        queue = batcher(model, max_wait=0.2)

        async def twice(name: str) -> None:
            await queue.submit(name)
            await asyncio.sleep(0.02)
            await queue.submit(name)

        await asyncio.gather(twice("a"), queue.submit("b"))
        # b waited for a to come back, and they ran together.
        assert model.batches == [["a"], ["b", "a"]]
        await asyncio.sleep(0.25)
        began = time.perf_counter()
        await asyncio.gather(queue.submit("c"), queue.submit("d"))
        # c never comes back: d waits for it, and then goes alone.
        assert model.batches[2:] == [["c"], ["d"]]
        assert 0.2 <= time.perf_counter() - began < 2
        # Long after two were in flight, one is alone again.
        await asyncio.sleep(0.25)
        began = time.perf_counter()
        await queue.submit("e")
        assert time.perf_counter() - began < 0.15

    asyncio.run(waits())


def test_weights_and_groups_bound_a_batch() -> None:
    async def bounded() -> None:
        model = Model()
        queue = batcher(model, max_size=4, group=lambda item: item[0])
        await queue.submit("a0")
        first = asyncio.ensure_future(queue.submit("a1"))
        await asyncio.sleep(0)
        await asyncio.gather(
            queue.submit("a2", weight=3), queue.submit("b3"), queue.submit("a4"), queue.submit("a5", weight=9), first
        )
        assert model.batches == [["a0"], ["a1"], ["a2", "a4"], ["b3"], ["a5"]]

    asyncio.run(bounded())


def test_a_full_queue_says_when_to_come_again() -> None:
    async def full() -> None:
        queue = batcher(Model(seconds=0.05), max_queue=2, max_size=1)
        await queue.submit(0)
        waiting = [asyncio.ensure_future(queue.submit(i)) for i in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as refused:
            await queue.submit(4)
        assert 0.05 <= refused.value.retry_seconds < 1
        await asyncio.gather(*waiting)

    asyncio.run(full())


def test_what_is_late_or_left_never_reaches_the_model() -> None:
    async def dropped() -> None:
        model = Model(seconds=0.1)
        queue = batcher(model)
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(queue.submit("first"))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(queue.submit("late", deadline=loop.time() + 0.02))
        left = asyncio.ensure_future(queue.submit("left"))
        kept = asyncio.ensure_future(queue.submit("kept", deadline=loop.time() + 60))
        await asyncio.sleep(0)
        left.cancel()
        began = loop.time()
        with pytest.raises(DeadlineError):
            await late
        assert loop.time() - began < 0.09, "the caller is told at its deadline, not when the model is free"
        await asyncio.gather(first, kept)
        assert model.batches == [["first"], ["kept"]]
        with pytest.raises(DeadlineError):
            await queue.submit("past", deadline=loop.time() - 1)
        assert len(model.batches) == 2 and queue.idle

    asyncio.run(dropped())


def test_closing_refuses_what_waits_and_ends_what_runs() -> None:
    async def closing() -> None:
        queue = batcher(Model())
        running, waiting = (asyncio.ensure_future(queue.submit(i)) for i in range(2))
        await asyncio.sleep(0)
        await queue.close()
        assert await running == ("answer", 0)
        for refused in (waiting, queue.submit(2)):
            with pytest.raises(UnavailableError):
                await refused

    asyncio.run(closing())


@pytest.mark.slow
def test_batching_gives_eight_times_the_throughput_of_none_at_32_clients() -> None:
    async def throughput(size: int, wait: float) -> float:
        # As a GPU: 20 ms a call, half a millisecond an item more.
        queue = batcher(Model(0.02, 0.0005), max_size=size, max_wait=wait)
        answered, end = 0, time.perf_counter() + 2

        async def client() -> None:
            nonlocal answered
            while time.perf_counter() < end:
                await queue.submit(None)
                answered += 1

        await asyncio.gather(*(client() for _ in range(32)))
        return answered / 2

    none, some = asyncio.run(throughput(1, 0)), asyncio.run(throughput(16, 0.005))
    assert some >= 8 * none, f"{some:.0f} against {none:.0f} a second"
