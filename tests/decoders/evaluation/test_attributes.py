"""Attributes that an independent classifier reads in pictures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from decoders.evaluation import Attributes, Resampling, agreement, read_attributes
from recordings.errors import ShapeError

QUICK = Resampling(n_permutations=100, n_bootstrap=50)


@pytest.fixture
def truth(rng: np.random.Generator) -> Attributes:
    return Attributes(
        category=np.array(["mug", "car", "mug", "ball"] * 5),
        colour=np.array(["red", "blue"] * 10),
        position=rng.normal(size=(20, 2)),
        nearness=rng.random((20, 8, 8)),
    )


def test_truth_agrees_with_itself(truth: Attributes) -> None:
    found = agreement(truth, truth, resampling=QUICK)
    assert {name: measure.value for name, measure in found.items()} == pytest.approx(
        {"category": 1, "colour": 1, "position": 1, "nearness": 1}
    )
    # 10 mugs, 5 cars and 5 balls: permuted, they agree with chance .25 + .0625 + .0625.
    assert found["category"].null.mean == pytest.approx(0.375, abs=0.03)


def test_fixed_case_with_samples(truth: Attributes) -> None:
    category = np.repeat(truth.category, 2)
    category[1::2] = "tree"
    position = np.repeat(truth.position, 2, axis=0)
    position[1::2] *= -1
    position[:, 1] *= 0.5
    found = agreement(Attributes(category, position=position), truth, 2, resampling=QUICK)
    assert set(found) == {"category", "position"}
    assert found["category"].values.tolist() == [0.5] * 20
    assert found["position"].value == pytest.approx(0, abs=1e-12)


def test_depth_within_a_picture(truth: Attributes) -> None:
    read = truth.nearness * np.linspace(0.1, 3, 20)[:, None, None] + 2
    read[3] = 1.0
    read[5] = -read[5]
    found = agreement(Attributes(nearness=read), truth, resampling=QUICK)["nearness"]
    assert found.n_undefined == 1 and np.isnan(found.values[3]) and found.values[5] == pytest.approx(-1)
    assert found.value == pytest.approx(17 / 19)


def test_true_maps_are_averaged_to_the_size_that_is_read(truth: Attributes) -> None:
    coarse = truth.nearness.reshape(20, 4, 2, 4, 2).mean((2, 4))
    assert agreement(Attributes(nearness=coarse), truth, resampling=QUICK)["nearness"].value == pytest.approx(1)
    with pytest.raises(ShapeError, match="nearness"):
        agreement(Attributes(nearness=truth.nearness[:, :3]), truth)


def test_a_reader_that_guesses_is_at_chance(truth: Attributes, rng: np.random.Generator) -> None:
    values = []
    for _ in range(30):
        guess = Attributes(rng.permutation(truth.category), position=rng.normal(size=(20, 2)))
        values.append(agreement(guess, truth, resampling=Resampling(0, 0)))
    assert np.mean([v["category"].value for v in values]) == pytest.approx(0.375, abs=0.05)
    assert abs(np.mean([v["position"].value for v in values])) < 0.1


def test_any_object_with_the_fields_can_be_read(truth: Attributes) -> None:
    pictures = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    read = read_attributes(lambda p: SimpleNamespace(category=truth.category[p[:, 0, 0, 0]]), pictures, batch_size=7)
    assert read.category.tolist() == truth.category.tolist() and read.position is None


def test_flat_positions_have_no_value(truth: Attributes) -> None:
    found = agreement(Attributes(position=np.ones((20, 2))), truth, resampling=QUICK)["position"]
    assert np.isnan(found.value) and found.n_undefined == 20 and "value" not in found.to_dict()


def test_bad_input(truth: Attributes) -> None:
    with pytest.raises(ShapeError, match="category"):
        agreement(Attributes(truth.category[:9]), truth)
