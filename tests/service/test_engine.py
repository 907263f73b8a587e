"""Requests of many callers through queues to models, events of decoding, and callers who leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings import Recording
from recordings.errors import Cancelled, ShapeError, UnknownNameError
from recordings.events import Event, OnEvent, Stop, report
from service.engine import Accepted, Engine, Previewed, Stepped, Summary
from service.errors import BusyError, DeadlineError, ModelNotFoundError, WrongUnitsError
from service.items import DecodedRow, DecodeItem, EncodeItem, OnRow
from service.models import Description, Units
from service.repository import ModelEntry, ModelKey, ModelRepository
from service.runner import ModelState

from .conftest import DECODER, ENCODER, Serving
from .test_repository import write

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tokens and is cut"),
    pytest.mark.filterwarnings("ignore:decoded z has an s.d."),
]

N_UNITS = 4
STEP = 0.02


class SlowRunner:
    """Decodes in steps of 20 ms, in a thread, and remembers what it was given and how far it went."""

    parallel = 1

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.steps: list[int] = []
        self.free = threading.Event()
        self.free.set()

    async def load(self, entry: ModelEntry) -> None: ...

    async def unload(self, key: ModelKey) -> None: ...

    async def close(self) -> None: ...

    def state(self, key: ModelKey) -> ModelState:
        return ModelState("ready")

    async def describe(self, key: ModelKey) -> Description:
        units = Units(tuple(f"v{i}" for i in range(N_UNITS)), "{}", "these units")
        return Description(ModelEntry(key, Path(), "BrainDecoder", "f", 0, 0, ("decode",)), units, 0)

    async def encode(self, key: ModelKey, batch: Sequence[EncodeItem]) -> list[Any]:
        self.batches.append(len(batch))
        await asyncio.to_thread(self.free.wait, 30)
        return [np.zeros((len(item), N_UNITS), np.float32) for item in batch]

    async def decode(
        self,
        key: ModelKey,
        batch: Sequence[DecodeItem],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
    ) -> list[Any]:
        self.batches.append(len(batch))
        watched = zip(batch, on_events, stops, on_rows, strict=True)
        return [await asyncio.to_thread(self._decode, *each) for each in watched]

    def _decode(self, item: DecodeItem, on_event: OnEvent | None, stop: Stop | None, on_row: OnRow | None) -> Any:
        self.steps.append(0)
        rows = [DecodedRow(name, settings={"steps": item.steps}) for name in item.stimulus_ids]
        try:
            for step in range(item.steps or 1):
                time.sleep(STEP)
                self.steps[-1] += 1
                payload = {"stimulus_ids": ["0"], "samples": [0], "preview": np.zeros((1, 2, 2, 3), np.uint8)}
                report(on_event, stop, "reconstruct", step + 1, item.steps or 1, **payload)
                # All but the last are done with the first step, and told again, as where memory is short.
                for row in rows[:-1] if on_row is not None else ():
                    on_row(row)
        except Cancelled as error:
            return error
        return rows


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    write(tmp_path / "decoder", "BrainDecoder")
    write(tmp_path / "encoder")
    return ModelRepository(tmp_path)


def item(steps: int = 3, rows: int = 1, **options: Any) -> DecodeItem:
    return DecodeItem(np.zeros((rows, N_UNITS), np.float32), frozenset({"image"}), steps=steps, **options)


FEATURES = EncodeItem(features={"": np.zeros((1, 3), np.float32)})


async def events_of(engine: Engine, name: str, asked: DecodeItem, **how: Any) -> list[Any]:
    async with aclosing(engine.decode(name, "", asked, **how)) as events:  # type: ignore[type-var]
        return [event async for event in events]


def test_events_come_in_order(repository: ModelRepository) -> None:
    async def run() -> None:
        engine = Engine(repository, SlowRunner())
        events = await events_of(engine, "decoder", item(rows=2))
        kinds = [type(event) for event in events]
        assert kinds == [Accepted, Stepped, Previewed, DecodedRow, *[Stepped, Previewed] * 2, DecodedRow, Summary]
        assert [event.stimulus_id for event in events if isinstance(event, DecodedRow)] == ["0", "1"]
        assert [event.done for event in events if isinstance(event, Stepped)] == [1, 2, 3]
        summary = events[-1]
        assert (summary.succeeded, summary.failed, summary.settings) == (2, 0, {"steps": 3})
        assert 3 * STEP <= summary.computed_seconds < 5 and summary.queued_seconds < 1
        await engine.close()

    asyncio.run(run())


def test_who_leaves_stops_the_work_within_a_step_and_spares_the_others(repository: ModelRepository) -> None:
    async def run() -> None:
        runner = SlowRunner()
        engine = Engine(repository, runner)
        mate = asyncio.ensure_future(events_of(engine, "decoder", item(3)))
        async with aclosing(engine.decode("decoder", "", item(500))) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Stepped) and event.done == 2:
                    break
        left_at = runner.steps[-1]
        last = asyncio.ensure_future(events_of(engine, "decoder", item(3)))
        found = await asyncio.gather(mate, last)
        assert all(isinstance(events[-1], Summary) and events[-1].succeeded == 1 for events in found)
        assert runner.steps[0] == runner.steps[2] == 3 and runner.steps[1] <= left_at + 1
        await engine.close()

    asyncio.run(run())


def test_a_deadline_ends_the_work_and_one_that_passes_in_the_queue_keeps_it_from_the_model(
    repository: ModelRepository,
) -> None:
    async def run() -> None:
        runner = SlowRunner()
        engine = Engine(repository, runner)
        loop = asyncio.get_running_loop()
        await engine.describe("decoder")
        first = asyncio.ensure_future(events_of(engine, "decoder", item(500), deadline=loop.time() + 10 * STEP))
        await asyncio.sleep(STEP)
        with pytest.raises(DeadlineError):
            await events_of(engine, "decoder", item(1), deadline=loop.time() + 2 * STEP)
        with pytest.raises(DeadlineError):
            await first
        await engine.close()
        assert runner.batches == [1] and runner.steps[0] < 100

    asyncio.run(run())


def test_wrong_requests_are_refused_before_they_queue(repository: ModelRepository) -> None:
    async def run() -> None:
        runner = SlowRunner()
        engine = Engine(repository, runner)
        wide = DecodeItem(np.zeros((1, N_UNITS + 1), np.float32), frozenset({"targets"}))
        for name, asked, error in (
            ("decoder", wide, ShapeError),
            ("decoder", item(units_fingerprint="of others"), WrongUnitsError),
            ("encoder", item(), ModelNotFoundError),
            ("../decoder", item(), ModelNotFoundError),
        ):
            with pytest.raises(error):
                await events_of(engine, name, asked)
        with pytest.raises(ModelNotFoundError):
            await engine.encode("decoder", "", FEATURES)
        assert runner.batches == []
        await engine.close()

    asyncio.run(run())


def test_requests_with_other_settings_run_apart_and_a_full_queue_refuses(repository: ModelRepository) -> None:
    async def run() -> None:
        runner = SlowRunner()
        engine = Engine(repository, runner, queue_size=3)
        await engine.describe("decoder")
        asked = [asyncio.ensure_future(events_of(engine, "decoder", item(steps))) for steps in (1, 2, 2, 1)]
        await asyncio.sleep(STEP / 2)
        with pytest.raises(BusyError):
            await events_of(engine, "decoder", item())
        positions = [events[0].queue_position for events in await asyncio.gather(*asked)]
        assert positions == [0, 0, 1, 2] and runner.batches == [1, 2, 1]
        await engine.close()

    asyncio.run(run())


def test_a_reader_who_is_slow_holds_a_bounded_number_of_events_and_misses_no_result() -> None:
    async def run() -> None:
        from service.engine import MAX_EVENTS, _Watched

        watched = _Watched(item(), asyncio.get_running_loop())
        await asyncio.to_thread(lambda: [watched.tell(Event("draw", k, 1000)) for k in range(1000)])
        await asyncio.sleep(0)
        assert watched.events.qsize() == MAX_EVENTS

    asyncio.run(run())


def test_a_new_model_is_found_at_once(repository: ModelRepository) -> None:
    async def run() -> None:
        engine = Engine(repository, SlowRunner())
        with pytest.raises(ModelNotFoundError):
            engine.find("late")
        write(repository.folder / "late")
        assert isinstance((await engine.encode("late", "", FEATURES)).responses, np.ndarray)
        await engine.close()

    asyncio.run(run())


@pytest.mark.slow
def test_real_models_answer_many_callers(
    engine: Serving, pictures: list[np.ndarray], scene_features: Features, responses: Recording
) -> None:
    async def run() -> None:
        async with engine() as e:
            alone = await e.encode(ENCODER, "", EncodeItem(images=pictures[:1]))
            many = await asyncio.gather(
                *(e.encode(ENCODER, "", EncodeItem(images=pictures[k : k + 1])) for k in range(12)),
                e.encode(ENCODER, "", EncodeItem(images=pictures[:1], rois=("none",))),
                return_exceptions=True,
            )
            assert isinstance(many.pop(), UnknownNameError)
            np.testing.assert_allclose(many[0].responses, alone.responses, rtol=0, atol=1e-4)
            assert alone.entry.fingerprint == e.find(ENCODER).fingerprint
            asked = [
                DecodeItem(
                    responses.values[k : k + 1], frozenset({"image", "caption"}), steps=4, preview_every=2, seed=k
                )
                for k in range(3)
            ]
            found = await asyncio.gather(*(events_of(e, DECODER, one) for one in asked))
            [again] = await asyncio.gather(events_of(e, DECODER, asked[1]))
            rows = [next(event for event in events if isinstance(event, DecodedRow)) for events in (*found, again)]
            assert all(row.images is not None and row.caption for row in rows)
            # Regressions that were computed together may round otherwise, which is a level of a pixel or two.
            assert np.abs(rows[1].images.astype(int) - rows[3].images).max() <= 1
            assert any(isinstance(event, Previewed) for event in found[2])

    asyncio.run(run())
