"""Guards against spurious reconstruction."""

from __future__ import annotations

import numpy as np
import pytest

from decoders.evaluation import (
    PictureFeatures,
    effective_dimension,
    hold_out_categories,
    nearest_training_pictures,
    nearest_training_rows,
    picture_correlations,
)
from recordings import Recording, Stimuli
from recordings.errors import Cancelled, InputError, MismatchedIdsError, NotFiniteError, ShapeError, UnknownNameError


def pixels(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1).astype(np.float32)


def spread(directions: int, rng: np.random.Generator) -> np.ndarray:
    return np.corrcoef(rng.normal(size=(200, directions)) @ rng.normal(size=(directions, 4000)) + 0)


def test_effective_dimension_counts_planted_directions(rng: np.random.Generator) -> None:
    assert effective_dimension(spread(1, rng)) == pytest.approx(1, abs=0.05)
    narrow, wide = effective_dimension(spread(5, rng)), effective_dimension(spread(20, rng))
    assert 3.5 < narrow < 5.5 and 15 < wide < 20.5
    assert effective_dimension(np.eye(30)) == pytest.approx(29)


def test_effective_dimension_of_copies_and_flat_pictures() -> None:
    assert np.isnan(effective_dimension(np.ones((5, 5))))
    matrix = np.eye(6)
    matrix[2], matrix[:, 2] = np.nan, np.nan
    assert effective_dimension(matrix) == pytest.approx(4)
    assert np.isnan(effective_dimension(np.full((3, 3), np.nan)))


def test_nearest_training_picture(rng: np.random.Generator) -> None:
    training = rng.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
    made = np.clip(training[[7, 0, 29]].astype(int) + 3, 0, 255).astype(np.uint8)
    made = np.concatenate([made, np.full_like(made[:1], 9)])
    sides = [PictureFeatures(side, pixels, batch_size=4) for side in (made, training)]
    assert nearest_training_pictures(*sides).tolist() == [7, 0, 29, 0]
    assert nearest_training_rows(pixels(made[:3]), pixels(training)).tolist() == [7, 0, 29]


def test_features_in_bounded_memory_are_the_same(rng: np.random.Generator) -> None:
    a, b = (rng.integers(0, 256, (11, 4, 4, 3)).astype(np.uint8) for _ in range(2))
    seen: list[int] = []

    def counted(pictures: np.ndarray) -> np.ndarray:
        seen.append(len(pictures))
        return pixels(pictures)

    kept = [PictureFeatures(side, counted, batch_size=4) for side in (a, b)]
    expected = np.corrcoef(pixels(a), pixels(b))[:11, 11:]
    assert picture_correlations(*kept) == pytest.approx(expected)
    assert seen == [4, 4, 3, 4, 4, 3]
    again = [PictureFeatures(side, counted, batch_size=4, kept_bytes=0) for side in (a, b)]
    assert np.array_equal(picture_correlations(*again), picture_correlations(*kept)) and max(seen) == 4
    rows = [(here.start, here.stop) for here, _ in again[0].blocks(0)]
    assert rows == [(0, 4), (4, 8), (8, 11)]


def test_networks_that_misbehave_are_named(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    with pytest.raises(NotFiniteError, match="picture 3"):
        PictureFeatures(pictures, lambda p: np.where(p[:, 0, 0] == pictures[3, 0, 0], np.nan, 1.0), batch_size=2)
    with pytest.raises(ShapeError, match="1 rows of features for 5"):
        PictureFeatures(pictures, lambda p: np.ones((1, 3)))
    with pytest.raises(ShapeError, match="of 48 and of 2"):
        picture_correlations(
            PictureFeatures(pictures, pixels), PictureFeatures(pictures, lambda p: np.ones((len(p), 2)))
        )
    with pytest.raises(Cancelled):
        PictureFeatures(pictures, pixels, stop=lambda: True)


def test_held_out_categories_are_never_trained_on(rng: np.random.Generator) -> None:
    names = np.array(["mug", "car", "ball", "mug", "car", "ball"])
    stimuli = Stimuli.from_captions({f"s{i}": name for i, name in enumerate(names)})
    stimuli.table["category"] = names
    recording = Recording(rng.normal(size=(12, 3)), {"stimulus_id": [f"s{i}" for i in range(6)] * 2})
    split = hold_out_categories(recording, stimuli, ["car"])
    train, test = split.apply(recording)
    assert set(test.stimulus_ids) == {"s1", "s4"} and len(train) == 8 and "car" in split.name
    drawn = hold_out_categories(recording, stimuli, 2, seed=3)
    assert len(drawn.test) == 8 and len(set(names[drawn.test % 6])) == 2
    assert np.array_equal(drawn.test, hold_out_categories(recording, stimuli, 2, seed=3).test)


def test_bad_splits(rng: np.random.Generator) -> None:
    stimuli = Stimuli.from_captions({"a": "mug", "b": "car"})
    recording = Recording(rng.normal(size=(2, 3)), {"stimulus_id": ["a", "b"]})
    with pytest.raises(UnknownNameError, match="'category'"):
        hold_out_categories(recording, stimuli, ["mug"])
    with pytest.raises(UnknownNameError, match="'plane'"):
        hold_out_categories(recording, stimuli, ["plane"], column="caption")
    with pytest.raises(InputError, match="2 of 2"):
        hold_out_categories(recording, stimuli, 2, column="caption")
    with pytest.raises(InputError, match="leaves no presentation"):
        hold_out_categories(recording, stimuli, [], column="caption")
    with pytest.raises(MismatchedIdsError, match="'b'"):
        hold_out_categories(recording, stimuli.take([0]), 1, column="caption")
