"""The stream of cached tokens: every row once an epoch, in an order of its own, with bounded memory and clean ends."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Features
from encoders.attention.sources import delayed_rows
from encoders.attention.stream import TokenStream, ahead
from encoders.features.store import LayerStore, open_store
from recordings.errors import ShapeError, TruncatedFileError

N, TOKENS, CHANNELS, CHUNK = 60, 6, 5, 8


def stored(folder: Path, values: np.ndarray, chunk: int = CHUNK) -> Features:
    """A float16 store, whose chunks hold few stimuli."""
    open_store(folder, {"uri": "made"})
    store = LayerStore(folder, "tokens")
    store.create(values, len(values), chunk, "float16", {"grid": [2, 3]})
    for number, start in enumerate(range(0, len(values), chunk)):
        store.write(number, values[start : start + chunk], ["hash"] * len(values[start : start + chunk]))
    store.finish([f"s{i}" for i in range(len(values))])
    return Features.load(folder)


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((N, TOKENS, CHANNELS)).astype(np.float16)


@pytest.fixture
def features(tmp_path: Path, values: np.ndarray) -> Features:
    return stored(tmp_path / "tokens.zarr", values)


# For batches of 5: two that are used, two that are read, three and a chunk on their way; all are 60 rows of 60 bytes.
ON_DISK: dict[str, Any] = {"in_memory": 0, "buffer": (2 + 2 + 3) * 5 * 60 + 2 * CHUNK * 60}


@pytest.mark.parametrize("where", [ON_DISK, {}], ids=["on disk", "in memory"])
def test_an_epoch_gives_every_row_once_with_its_tokens_as_stored(
    features: Features, values: np.ndarray, where: dict[str, Any], rng: np.random.Generator
) -> None:
    table = rng.permutation(np.repeat(np.arange(10, 40), 2))
    stream = TokenStream([features], [table], batch_size=7, **where)
    batches = list(stream.epoch(0))
    assert len(batches) == stream.steps == 9
    assert {len(batch.rows) for batch in batches} == {6, 7}
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(60))
    for batch in [*batches, *stream.in_order()]:
        assert batch.shown is None and batch.tokens[0].numpy().dtype == np.float16
        np.testing.assert_array_equal(batch.tokens[0].numpy(), values[table[batch.rows]])
    assert np.array_equal(np.concatenate([batch.rows for batch in stream.in_order()]), np.arange(60))


@pytest.mark.parametrize("where", [ON_DISK, {}], ids=["on disk", "in memory"])
def test_the_order_follows_from_seed_and_epoch_and_can_begin_anywhere(
    features: Features, where: dict[str, Any]
) -> None:
    def order(epoch: int, start: int = 0, seed: int = 3) -> list[list[int]]:
        stream = TokenStream([features], [np.arange(N)], batch_size=5, seed=seed, **where)
        return [batch.rows.tolist() for batch in stream.epoch(epoch, start)]

    whole = order(2)
    assert whole == order(2) and whole != order(1) and whole != order(2, seed=4)
    for start in range(len(whole) + 1):
        assert order(2, start) == whole[start:]


def test_chunks_come_in_random_order_and_are_mixed_within_the_buffer(features: Features) -> None:
    stream = TokenStream([features], [np.arange(N)], batch_size=5, **ON_DISK)
    assert "2 batches" in stream.layout
    for epoch in range(3):
        loads = np.concatenate([batch.rows for batch in stream.epoch(epoch)]).reshape(-1, 10)
        assert all(len(np.unique(load // CHUNK)) <= 3 for load in loads)
        assert any(np.any(np.diff(load // CHUNK) < 0) and np.any(np.diff(load // CHUNK) > 0) for load in loads)
        assert loads.ravel().tolist() != sorted(loads.ravel().tolist())


def test_several_sources_come_side_by_side(tmp_path: Path, features: Features, values: np.ndarray) -> None:
    other = Features.from_arrays(values[::-1, :4].astype(np.float32) * 2, [f"s{i}" for i in range(N)])
    rows = [np.arange(N), np.arange(N)[::-1]]
    for batch in TokenStream([features, other], rows, batch_size=7, **ON_DISK).epoch(0):
        near, far = (tokens.numpy() for tokens in batch.tokens)
        assert near.dtype == np.float16 and far.dtype == np.float32
        np.testing.assert_array_equal(near[:, :4] * np.float32(2), far)


@pytest.mark.parametrize("where", [ON_DISK, {}], ids=["on disk", "in memory"])
def test_delays_stay_within_their_run(features: Features, values: np.ndarray, where: dict[str, Any]) -> None:
    table = delayed_rows(np.arange(N), [0, 1, 3], np.repeat([0, 1], N // 2))
    seen = np.zeros(N, int)
    for batch in TokenStream([features], [table], batch_size=7, **where).epoch(1):
        assert batch.shown is not None and batch.tokens[0].shape == (len(batch.rows), 3, TOKENS, CHANNELS)
        seen[batch.rows] += 1
        for row, tokens, shown in zip(batch.rows, batch.tokens[0].numpy(), batch.shown.numpy(), strict=True):
            assert shown.tolist() == [row % 30 >= d for d in (0, 1, 3)]
            for d, delayed, there in zip((0, 1, 3), tokens, shown, strict=True):
                np.testing.assert_array_equal(delayed, values[row - d] if there else 0 * delayed)
    assert (seen == 1).all()


def test_a_moment_before_which_nothing_was_shown_has_no_tokens(features: Features) -> None:
    batch = next(TokenStream([features], [np.full((1, 2), -1)], batch_size=1, in_memory=0).in_order())
    assert batch.shown is not None and not batch.shown.any() and not batch.tokens[0].any()


def test_shares_of_a_batch_make_the_batch(features: Features) -> None:
    stream = TokenStream([features], [np.arange(N)], batch_size=8, **ON_DISK)
    parts = [(0, 1), (0, 3), (1, 3), (2, 3)]
    shares = zip(*(stream.epoch(0, part=part) for part in parts), strict=True)
    for whole, *parts in shares:
        assert sorted(whole.rows) == sorted(np.concatenate([part.rows for part in parts]))
        assert all(len(part.rows) in (2, 3) for part in parts)


def test_moments_are_those_of_the_training_rows(features: Features, values: np.ndarray) -> None:
    values = values[5:25].astype(float)
    ((mean, std),) = TokenStream([features], [np.arange(5, 25)], batch_size=4).moments()
    np.testing.assert_allclose(mean, values.mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 1)), rtol=1e-5)
    ((few, _),) = TokenStream([features], [np.arange(5, 25)], batch_size=4).moments(sample=6)
    assert 0 < float((few - mean).abs().max()) < 1
    flat = Features.from_arrays(np.full((4, 2, 3), 7.0, np.float32), list("abcd"))
    ((mean, std),) = TokenStream([flat], [np.arange(4)], batch_size=4).moments()
    assert mean.tolist() == [7, 7, 7] and std.tolist() == [1, 1, 1]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("penfield-ahead")]


def test_no_thread_outlives_its_iterator(features: Features) -> None:
    stream = TokenStream([features], [np.arange(N)], batch_size=5, **ON_DISK)
    abandoned = stream.epoch(0)
    list(islice(abandoned, 3))
    assert threads()
    del abandoned
    assert not threads()
    with pytest.raises(KeyboardInterrupt):
        for _ in stream.epoch(0):
            raise KeyboardInterrupt
    assert not threads()
    list(stream.epoch(0))
    assert not threads()


def test_a_damaged_chunk_is_told_when_its_turn_comes(tmp_path: Path, features: Features) -> None:
    stream = TokenStream([features], [np.arange(N)], batch_size=5, **ON_DISK)
    for number in (2, 3, 4, 5, 6):
        (tmp_path / "tokens.zarr" / "layers" / "tokens" / "c" / str(number) / "0" / "0").unlink()
    got = []
    with pytest.raises(TruncatedFileError, match="is missing"):
        for batch in stream.in_order():
            got.append(batch.rows)
    assert np.array_equal(np.concatenate(got), np.arange(10))
    assert not threads()


def test_one_item_is_made_ahead_and_no_more() -> None:
    made: list[int] = []
    items = ahead(lambda i: made.append(i) or i, range(100))
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert len(made) in (2, 3)


def test_memory_stays_within_the_buffer(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.standard_normal((512, 32, 128)).astype(np.float16)
    features, rows = stored(tmp_path / "large.zarr", values), np.flatnonzero(rng.random(512) < 0.9)
    stream = TokenStream([features], [rows], batch_size=8, in_memory=0, buffer=values.nbytes // 4)
    features.read([0], None)
    tracemalloc.start()
    try:
        for _ in stream.epoch(0):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.nbytes // 8 < peak < 1.15 * values.nbytes // 4


def test_rows_of_different_tables_are_refused(features: Features) -> None:
    with pytest.raises(ShapeError, match="2 sources"):
        TokenStream([features, features], [np.arange(4), np.arange(5)], batch_size=2)
