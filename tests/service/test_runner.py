"""Models come and go within a budget, follow their files, and survive a request that memory does not suffice for."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings.storage import atomic_path
from service.errors import BudgetError, DamagedModelError
from service.items import EncodeItem
from service.models.encoder import EncoderModel
from service.repository import ModelKey, ModelRepository
from service.runner import LocalRunner

from .conftest import ENCODER, fit_encoder

FEATURES = EncodeItem(features={"": np.ones((1, 192), np.float32)})


@pytest.fixture
def three(encoder_folder: Path, tmp_path: Path) -> Path:
    """The same encoder under three names."""
    for name in "abc":
        shutil.copytree(encoder_folder / ENCODER, tmp_path / name)
    return tmp_path


def key(name: str) -> ModelKey:
    return ModelKey(name, "1")


def test_the_longest_unused_is_unloaded_when_memory_is_short(three: Path) -> None:
    async def load_all() -> None:
        repository = ModelRepository(three)
        size = EncoderModel(repository.find("a"), "cpu").memory_bytes
        runner = LocalRunner(repository, device="cpu", memory_budget_bytes=int(2.5 * size))
        for name in "aba":
            await runner.encode(key(name), [FEATURES])
        assert [runner.state(key(name)).phase for name in "abc"] == ["ready", "ready", "unloaded"]
        await runner.encode(key("c"), [FEATURES])
        assert [runner.state(key(name)).phase for name in "abc"] == ["ready", "unloaded", "ready"]
        assert runner.state(key("a")).memory_bytes == size
        await runner.unload(key("a"))
        assert runner.state(key("a")).phase == "unloaded"
        await runner.close()
        small = LocalRunner(repository, device="cpu", memory_budget_bytes=size // 2)
        with pytest.raises(BudgetError, match="memory budget"):
            await small.load(repository.find("a"))
        assert small.state(key("a")).phase == "failed"
        await small.close()

    asyncio.run(load_all())


def test_a_corrupt_model_spares_the_others_and_may_be_mended(three: Path) -> None:
    async def go_on() -> None:
        whole = (three / "b" / "model.safetensors").read_bytes()
        (three / "b" / "model.safetensors").write_bytes(whole[:1000])
        repository = ModelRepository(three)
        runner = LocalRunner(repository, device="cpu")
        with pytest.raises(DamagedModelError):
            await runner.encode(key("b"), [FEATURES])
        state = runner.state(key("b"))
        assert state.phase == "failed" and state.reason
        with pytest.raises(DamagedModelError):
            await runner.encode(key("b"), [FEATURES])
        assert isinstance((await runner.encode(key("a"), [FEATURES]))[0], np.ndarray)
        (three / "b" / "model.safetensors").write_bytes(whole)
        repository.scan()
        assert isinstance((await runner.encode(key("b"), [FEATURES]))[0], np.ndarray)
        await runner.close()

    asyncio.run(go_on())


@pytest.mark.slow
def test_a_model_is_replaced_under_load_without_a_lost_or_a_mixed_answer(three: Path, scene_features: Features) -> None:
    values = scene_features.read(slice(0, 4))
    item = EncodeItem(features={"": values})
    newer = fit_encoder(scene_features, seed=1)

    async def replace() -> None:
        repository = ModelRepository(three)
        runner = LocalRunner(repository, device="cpu")
        [old] = await runner.encode(key("a"), [item])
        answers: list[tuple[str, np.ndarray]] = []
        ended = asyncio.Event()

        async def ask() -> None:
            while not ended.is_set():
                [found] = await runner.encode(key("a"), [item])
                entry = runner.state(key("a")).entry
                assert entry is not None
                answers.append((entry.fingerprint, found))

        def swap() -> None:
            with atomic_path(three / "a", overwrite=True) as part:
                newer._write(part)
            repository.scan()

        asking = asyncio.ensure_future(ask())
        await asyncio.sleep(0.1)
        await asyncio.to_thread(swap)
        await runner.load(repository.find("a"))
        await asyncio.sleep(0.1)
        ended.set()
        await asking
        new = newer.predict(scene_features, list(scene_features.stimulus_ids[:4]))
        by_print = dict(answers)
        assert len(by_print) == 2
        first = answers[0][0]
        for fingerprint, found in answers:
            np.testing.assert_array_equal(found, old if fingerprint == first else new)
        assert answers[-1][0] == repository.find("a").fingerprint != first
        await runner.close()

    asyncio.run(replace())


class Greedy:
    """A model that has room for so many rows at once, and says so as allocators do."""

    memory_bytes = 0

    def __init__(self, room: int, error: BaseException):
        self.room, self.error = room, error
        self.sizes: list[tuple[int, int | None]] = []

    def encode(self, batch: Sequence[EncodeItem], chunk: int | None = None) -> list[Any]:
        self.sizes.append((len(batch), chunk))
        if sum(len(item) for item in batch) > (self.room if chunk is None else 2 * self.room):
            raise self.error
        return [np.zeros((len(item), 1)) for item in batch]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_an_allocator_error_is_tried_in_halves_and_spares_the_others(three: Path, error: BaseException) -> None:
    small, larger, huge = (EncodeItem(features={"": np.ones((n, 192), np.float32)}) for n in (1, 3, 5))

    async def run() -> None:
        runner = LocalRunner(ModelRepository(three), device="cpu", warm_up=False)
        await runner.encode(key("a"), [small])
        greedy = runner.residence.get(key("a")).model = Greedy(2, error)  # type: ignore[union-attr]
        found = await runner.encode(key("a"), [small, small, larger, huge])
        assert [type(result) for result in found] == [np.ndarray, np.ndarray, np.ndarray, BudgetError]
        # The larger one fits when half as much is computed at a time.
        assert greedy.sizes == [(4, None), (2, None), (2, None), (1, None), (1, 1), (1, None), (1, 1)]
        assert isinstance((await runner.encode(key("a"), [small]))[0], np.ndarray)
        await runner.close()

    asyncio.run(run())


def test_another_error_is_not_tried_again(three: Path) -> None:
    async def run() -> None:
        runner = LocalRunner(ModelRepository(three), device="cpu", warm_up=False)
        await runner.encode(key("a"), [FEATURES])
        greedy = runner.residence.get(key("a")).model = Greedy(0, RuntimeError("a bug"))  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="a bug"):
            await runner.encode(key("a"), [FEATURES])
        assert len(greedy.sizes) == 1
        await runner.close()

    asyncio.run(run())


def test_loading_holds_nobody_up_and_happens_once(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    may_go_on = threading.Event()
    init = EncoderModel.__init__

    def slowly(self: EncoderModel, entry: Any, device: str = "auto") -> None:
        loads.append(entry.key.name)
        if entry.key.name == "b":
            assert may_go_on.wait(30)
        init(self, entry, device)

    monkeypatch.setattr(EncoderModel, "__init__", slowly)

    async def run() -> None:
        runner = LocalRunner(ModelRepository(three), device="cpu")
        await runner.encode(key("a"), [FEATURES])
        waiting = [asyncio.ensure_future(runner.encode(key("b"), [FEATURES])) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        began = time.perf_counter()
        await runner.encode(key("a"), [FEATURES])
        assert time.perf_counter() - began < 5 and runner.state(key("b")).phase == "loading"
        may_go_on.set()
        assert all(isinstance(result[0], np.ndarray) for result in await asyncio.gather(*waiting))
        assert loads == ["a", "b"]
        await runner.close()

    asyncio.run(run())
