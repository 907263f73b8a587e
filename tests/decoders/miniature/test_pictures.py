"""What the generator learns from: the held-out pairs, nearness, and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from decoders.miniature.pictures import HELD_OUT, batches, draw_pictures, is_borderline, is_held_out, nearness
from recordings.miniature import CATEGORIES, Scenes
from recordings.miniature.captions import COLOURS, colour_names


def test_each_category_and_each_colour_misses_a_pair() -> None:
    assert len(HELD_OUT) == len(CATEGORIES)
    assert {category for category, _ in HELD_OUT} == set(CATEGORIES)
    assert {colour for _, colour in HELD_OUT} == set(COLOURS)


def test_pictures_of_one_side_of_the_hold_out() -> None:
    seen, unseen, every = (draw_pictures(120, 5, held_out=side) for side in (False, True, None))
    assert len(seen) + len(unseen) == len(every) == 120
    assert not is_held_out(seen.scenes).any()
    assert is_held_out(unseen.scenes).all()
    pairs = set(zip(seen.scenes.category_names, colour_names(seen.scenes.hue), strict=True))
    assert not pairs & HELD_OUT


def test_nearness_is_larger_nearer_and_zero_behind() -> None:
    depth = np.array([[[0.0, 4.5, 6.5]]], np.float32)
    near = nearness(depth)
    assert near[0, 0, 0] == 0
    assert near[0, 0, 1] > near[0, 0, 2] > 0
    assert near.max() < 1


def test_every_epoch_takes_all_rows_in_another_order() -> None:
    rows = np.concatenate(list(batches(12, 6, 4, seed=0)))
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12))
    assert list(rows[:12]) != list(rows[12:])
    assert np.array_equal(rows, np.concatenate(list(batches(12, 6, 4, seed=0))))


def test_colours_between_two_names_are_borderline() -> None:
    degrees = np.array([15.0, 9.0, 22.0, 29.0, 349.0, 0.0, 358.0, 225.0])
    scenes = replace(Scenes.sample(len(degrees), seed=0), hue=degrees / 360)
    # Red ends at 15 and begins at 345, orange ends at 43, blue spans 195 to 255.
    assert is_borderline(scenes).tolist() == [True, True, True, False, True, False, False, False]
