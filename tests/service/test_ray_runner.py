"""Models in worker processes: the runner's promises hold across the border, and through the death of a worker."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings.errors import ShapeError
from recordings.events import Event, OnEvent, Stop
from service.errors import ModelNotFoundError, UnavailableError
from service.items import DecodedRow, OnRow
from service.repository import ModelEntry, ModelKey, ModelRepository
from service.scale.ray_runner import RayRunner, app_name, worker_errors

KEY = ModelKey("waits", "1")
WAIT, WORK = 0.5, 0.1


class ScriptedRunner:
    """A runner whose batches say what it is to do; it stands for any model, and needs none."""

    def __init__(self, folder: Path):
        self.folder = folder
        # As a device does: one batch after the other.
        self.worker = ThreadPoolExecutor(1)

    async def load(self, entry: ModelEntry) -> None:
        if entry.key.name == "damaged":
            raise ShapeError("weights of another shape", where="model.safetensors")

    async def describe(self, key: ModelKey) -> dict[str, Any]:
        return {"name": key.name, "pid": os.getpid()}

    async def encode(self, key: ModelKey, batch: Sequence[Any]) -> list[Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.worker, lambda: [self._answer(item) for item in batch])

    def _answer(self, item: Any) -> Any:
        kind, value = item
        if kind == "wait":
            time.sleep(value)
        elif kind == "work":
            end, total = time.process_time() + value, 0.0
            while time.process_time() < end:
                total += float(np.linalg.norm(np.ones((50, 50))))
        elif kind == "die":
            os._exit(1)
        elif kind == "refuse":
            return ShapeError(value, where="responses", remedy="Give another")
        elif kind == "break":
            raise KeyError(value)
        return np.float32([os.getpid()])

    async def decode(
        self,
        key: ModelKey,
        batch: Sequence[Any],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
    ) -> list[Any]:
        if batch[0] == "rows":
            return [await asyncio.to_thread(self._rows, on_rows[0])]
        return await asyncio.to_thread(self._steps, batch, on_events, stops)

    def _rows(self, on_row: OnRow | None) -> list[DecodedRow]:
        rows = [DecodedRow(str(k), images=np.full((1, 2, 2, 3), k, np.uint8)) for k in range(3)]
        for row in rows if on_row else ():
            time.sleep(0.3)
            on_row(row)  # type: ignore[misc]
        return rows

    def _steps(self, batch: Sequence[Any], on_events: Sequence[OnEvent | None], stops: Sequence[Stop | None]) -> list:
        """Each item draws `steps` steps; a file tells how far it came."""
        made: list[list[str]] = [[] for _ in batch]
        for step in range(max(steps for _, steps in batch)):
            time.sleep(0.05)
            for item, (name, steps) in enumerate(batch):
                stop, ear = stops[item], on_events[item]
                if step >= steps or (stop is not None and stop()):
                    continue
                made[item].append(f"{name}{step}")
                (self.folder / name).write_text(str(step + 1))
                if ear is not None:
                    ear(Event("draw", step + 1, steps, {"preview": np.full((2, 2), step, np.uint8)}))
        return made


def scripted(folder: Path, device: str) -> ScriptedRunner:
    return ScriptedRunner(folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder = tmp_path_factory.mktemp("models")
    for name in ("waits", "waits-twice", "damaged"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"kind": "RidgeEncoder"}))
    return ModelRepository(folder, device="cpu")


@pytest.fixture(scope="module")
def run(repository: ModelRepository) -> Iterator[Callable[[Callable[[RayRunner], Any]], Any]]:
    """Call with a coroutine function of a runner; all share one loop, and one Ray."""
    import ray

    # Workers do not have the tests on their path.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    runner = RayRunner(repository, device="cpu", workers=4, make_runner=scripted)  # type: ignore[arg-type]
    yield lambda work: asyncio.run_coroutine_threadsafe(work(runner), loop).result(timeout=180)
    asyncio.run_coroutine_threadsafe(runner.close(), loop).result(timeout=60)
    loop.call_soon_threadsafe(loop.stop)


# Without Ray's processes ------------------------------------------------------------------------------------------


def test_applications_of_two_models_never_share_a_name() -> None:
    names = {app_name(ModelKey(name, version)) for name in ("a/b", "a-b", "a.b") for version in ("1", "11")}
    assert len(names) == 6 and all(name.replace("-", "").isalnum() for name in names)


def test_a_lost_worker_is_unavailable_and_its_own_errors_come_back() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError

    with pytest.raises(UnavailableError, match="lost"), worker_errors(KEY):
        raise ActorDiedError()
    failed = RayTaskError("encode", "Traceback (pid=77, ip=10.0.0.1)", ShapeError("too few", where="responses"))
    with pytest.raises(ShapeError, match="responses: too few"), worker_errors(KEY):
        raise failed
    unforeseen = RayTaskError("encode", "Traceback (pid=77, ip=10.0.0.1)", KeyError("x"))
    with pytest.raises(RuntimeError, match="KeyError") as caught, worker_errors(KEY):
        raise unforeseen
    assert "pid" not in str(caught.value) and "10.0.0.1" not in str(caught.value)


# With them --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_errors_and_states_are_those_of_a_runner(run: Any) -> None:
    async def work(runner: RayRunner) -> None:
        assert runner.state(KEY).phase == "unloaded"
        answers = await runner.encode(KEY, [("wait", 0.0), ("refuse", "7 units"), ("wait", 0.0)])
        assert runner.state(KEY).phase == "ready"
        assert isinstance(answers[1], ShapeError) and answers[1].remedy == "Give another"
        assert answers[0] == answers[2] != os.getpid()
        assert (await runner.describe(KEY))["name"] == "waits"
        with pytest.raises(RuntimeError, match="KeyError"):
            await runner.encode(KEY, [("break", "here")])
        with pytest.raises(ModelNotFoundError):
            await runner.encode(ModelKey("nobody", "1"), [("wait", 0.0)])
        with pytest.raises(ShapeError, match="another shape"):
            await runner.load(runner.repository.find("damaged"))
        damaged = runner.state(ModelKey("damaged", "1"))
        assert damaged.phase == "failed" and "another shape" in damaged.reason

    run(work)


@pytest.mark.slow
def test_rays_own_doors_stay_shut(run: Any) -> None:
    async def work(runner: RayRunner) -> None:
        from ray import serve

        await runner.encode(KEY, [("wait", 0.0)])
        assert not (await asyncio.to_thread(serve.status)).proxies

    run(work)


@pytest.mark.slow
def test_events_arrive_one_by_one_and_a_stop_spares_the_others(run: Any, repository: ModelRepository) -> None:
    async def work(runner: RayRunner) -> None:
        seen: list[tuple[float, int]] = []

        def hear(event: Event) -> None:
            assert event.payload["preview"].shape == (2, 2)
            seen.append((time.monotonic(), event.done))

        stops = [None, lambda: len(seen) >= 3]
        rows = await runner.decode(KEY, [("whole", 20), ("stopped", 20)], [hear, None], stops, [None, None])
        assert len(rows[0]) == 20 and 3 <= len(rows[1]) < 20
        assert [done for _, done in seen] == list(range(1, 21))
        # As they were made, and not all at the end.
        assert seen[-1][0] - seen[0][0] > 0.5

    run(work)


@pytest.mark.slow
def test_rows_arrive_as_they_are_done(run: Any) -> None:
    async def work(runner: RayRunner) -> None:
        seen: list[tuple[float, str]] = []
        hear = lambda row: seen.append((time.monotonic(), row.stimulus_id))  # noqa: E731
        for on_row in (None, hear):
            [rows] = await runner.decode(KEY, ["rows"], [None], [None], [on_row])
            assert [int(row.images.max()) for row in rows] == [0, 1, 2]
        assert [name for _, name in seen] == ["0", "1", "2"] and seen[-1][0] - seen[0][0] > 0.3

    run(work)


@pytest.mark.slow
def test_leaving_a_call_stops_the_worker(run: Any, repository: ModelRepository) -> None:
    async def work(runner: RayRunner) -> None:
        heard = asyncio.Event()
        call = asyncio.ensure_future(runner.decode(KEY, [("left", 200)], [lambda _: heard.set()], [None], [None]))
        await heard.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(1.0)
        first = (repository.folder / "left").read_text()
        await asyncio.sleep(0.5)
        assert (repository.folder / "left").read_text() == first and int(first) < 100

    run(work)


@pytest.mark.slow
def test_a_dead_worker_is_unavailable_and_replaced(run: Any) -> None:
    async def work(runner: RayRunner) -> float:
        before = (await runner.describe(KEY))["pid"]
        with pytest.raises(UnavailableError):
            await runner.encode(KEY, [("die", 0)])
        start = time.monotonic()
        while time.monotonic() - start < 60:
            try:
                assert (await runner.describe(KEY))["pid"] != before
                return time.monotonic() - start
            except UnavailableError:
                await asyncio.sleep(0.2)
        raise AssertionError("nobody took its place")

    print(f"back after {run(work):.1f} s")  # noqa: T201


@pytest.mark.slow
def test_two_workers_wait_for_two_things_at_once(run: Any, repository: ModelRepository) -> None:
    async def work(runner: RayRunner) -> tuple[float, float, float]:
        twice = ModelKey("waits-twice", "1")
        runner.replicas = 2
        assert runner.parallel == 2
        await runner.load(repository.find("waits-twice"))
        runner.replicas = 1

        async def rate(key: ModelKey, item: tuple[str, float], n: int) -> float:
            at_once = asyncio.Semaphore(4)

            async def one() -> None:
                async with at_once:
                    await runner.encode(key, [item])

            await asyncio.gather(*(one() for _ in range(4)))
            start = time.monotonic()
            await asyncio.gather(*(one() for _ in range(n)))
            return n / (time.monotonic() - start)

        waiting = [await rate(key, ("wait", WAIT), 12) for key in (KEY, twice)]
        working = [await rate(key, ("work", WORK), 8) for key in (KEY, twice)]
        return waiting[0], waiting[1] / waiting[0], working[1] / working[0]

    one, gain, busy = run(work)
    print(f"one worker {one:.1f} batches/s, two {gain:.2f} times that; bound by the processor {busy:.2f}")  # noqa: T201
    assert gain >= 1.6
