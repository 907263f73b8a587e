from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from recordings.errors import InputError
from recordings.miniature import Clip, Scenes, clip
from recordings.miniature.clips import FLOOR, WALL

N_FRAMES = 48


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    scenes = Scenes.sample(12, seed=7)
    return [clip(scenes, i, n_frames=N_FRAMES, size=32) for i in range(12)]


def test_shapes_and_types() -> None:
    made = clip(Scenes.sample(2), 1)
    assert made.frames.shape == (24, 64, 64, 3)
    assert made.frames.dtype == np.uint8
    assert made.position.shape == made.velocity.shape == (24, 2)
    assert made.occluded.shape == (24,)
    assert {made.position.dtype, made.velocity.dtype, made.occluded.dtype} == {np.dtype(np.float32)}


def test_motion_depends_on_the_scene_alone() -> None:
    scenes = Scenes.sample(3, seed=7)
    long, short = clip(scenes, 2, n_frames=20), clip(scenes[2], 0, n_frames=8)
    np.testing.assert_array_equal(long.frames[:8], short.frames)
    np.testing.assert_array_equal(long.position[:8], short.position)
    assert not np.array_equal(long.position, clip(scenes, 1, n_frames=20).position)


def test_objects_fall_bounce_and_turn_at_the_walls(clips: list[Clip]) -> None:
    for made in clips:
        across, fall = made.velocity.T
        assert np.ptp(np.abs(across)) < 1e-6, "nothing slows it sideways"
        assert (np.diff(np.sign(across)) != 0).any(), "it comes back from a wall"
        pulls = np.diff(fall)
        gravity = -np.median(pulls)
        assert gravity > 0
        bounces = pulls > 0.02
        assert bounces.any()
        np.testing.assert_allclose(pulls[~bounces], -gravity, atol=1e-6)
        assert made.position[:, 1].min() > FLOOR - 0.05
        assert np.abs(made.position[:, 0]).max() < WALL + 0.1


def test_objects_vanish_behind_the_occluder_and_come_back(clips: list[Clip]) -> None:
    for made in clips:
        assert (made.occluded == 1).any()
        assert made.occluded[0] < 0.5
        first = int(np.argmax(made.occluded == 1))
        assert (made.occluded[first:] < 0.05).any()
        left, right = made.occluder
        centre_behind = (left < made.position[:, 0]) & (made.position[:, 0] < right)
        assert (made.occluded[centre_behind] > 0.4).all()
        assert (made.occluded[~centre_behind] < 0.7).all()


def test_position_is_where_the_colour_is(clips: list[Clip]) -> None:
    centres = (2 * np.arange(32) + 1) / 32 - 1
    for made in clips:
        colourful = np.ptp(made.frames.astype(int), axis=-1) > 40
        for t in np.flatnonzero(made.occluded == 0):
            rows, columns = np.nonzero(colourful[t])
            seen = np.array([centres[columns].mean(), -centres[rows].mean()])
            assert np.abs(seen - made.position[t]).max() < 0.15
        assert not colourful[made.occluded == 1].any()


def test_hidden_frames_are_alike_but_positions_are_not(clips: list[Clip]) -> None:
    compared = 0
    for made in clips:
        hidden = np.flatnonzero(made.occluded == 1)
        for first, second in pairwise(hidden):
            np.testing.assert_array_equal(made.frames[first], made.frames[second])
            assert np.abs(made.position[first] - made.position[second]).max() > 0.01
            compared += 1
    assert compared > 20


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(InputError):
        clip(Scenes.sample(1), 0, n_frames=0)
    with pytest.raises(InputError):
        clip(Scenes.sample(1), 0, size=0)
    with pytest.raises(IndexError):
        clip(Scenes.sample(1), 1)
