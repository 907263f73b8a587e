"""Retrieval among pools: which direction is which, chance, ties."""

from __future__ import annotations

import numpy as np
import pytest

from decoders.evaluation import Resampling, cosine_similarities, retrieval
from recordings.errors import InputError, NotFiniteError, ShapeError

QUICK = Resampling(n_permutations=0, n_bootstrap=50)


def test_directions_by_an_asymmetric_matrix() -> None:
    # Brain 0 prefers image 2 to its own; every image prefers its own brain.
    similarity = np.array([[0.5, 0.1, 0.6], [0.0, 0.9, 0.1], [0.2, 0.3, 0.8]])
    found = retrieval(similarity, pool=3, draws=5, resampling=QUICK)
    assert found["image"].values.tolist() == [0, 1, 1] and found["image"].value == pytest.approx(2 / 3)
    assert found["brain"].values.tolist() == [1, 1, 1] and found["brain"].value == 1
    assert found["image"].chance == pytest.approx(1 / 3)


def test_pools_average_to_the_expected_share(rng: np.random.Generator) -> None:
    # The right image is beaten by one of the 39 others, which is in a pool of 10 in 9 of 39 draws.
    similarity = 2 * np.eye(40) + 3 * np.roll(np.eye(40), 1, axis=1)
    found = retrieval(similarity, pool=10, draws=400, resampling=QUICK)["image"]
    assert found.value == pytest.approx(1 - 9 / 39, abs=0.02)
    low, high = found.interval
    assert low < found.value < high


def test_noise_is_at_chance() -> None:
    values = [
        retrieval(cosine_similarities(*np.random.default_rng(k).normal(size=(2, 60, 20))), pool=20, resampling=QUICK)
        for k in range(10)
    ]
    assert np.mean([v[side].value for v in values for side in v]) == pytest.approx(0.05, abs=0.02)


def test_ties_fail_and_are_counted() -> None:
    found = retrieval(np.ones((4, 4)), pool=4, draws=2, resampling=QUICK)["image"]
    assert found.value == 0 and found.n_tied == 8


def test_cosine_in_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rng.normal(size=(5, 3, 7)), rng.normal(size=(4, 3, 7))
    flat = [
        side.reshape(len(side), -1) / np.linalg.norm(side.reshape(len(side), -1), axis=1)[:, None] for side in (a, b)
    ]
    expected = flat[0] @ flat[1].T
    monkeypatch.setattr("decoders.evaluation.pool_retrieval._FEATURES", 4)
    assert cosine_similarities(a, b) == pytest.approx(expected)


def test_a_picture_that_is_never_drawn_is_counted() -> None:
    found = retrieval(np.eye(30), pool=2, draws=3, resampling=QUICK)["image"]
    assert found.value == 1 and found.n_undefined == int(np.isnan(found.values).sum()) >= 24


def test_bad_input(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="300 among 4"):
        retrieval(np.eye(4))
    with pytest.raises(ShapeError):
        retrieval(np.ones((3, 4)), pool=2)
    with pytest.raises(ShapeError, match="of 5 and of 6"):
        cosine_similarities(rng.normal(size=(2, 5)), rng.normal(size=(2, 6)))
    with pytest.raises(NotFiniteError, match="image"):
        cosine_similarities(np.ones((2, 3)), np.array([[1, 1, 1], [0, 0, 0]]))
