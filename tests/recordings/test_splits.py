"""Splits never put one stimulus on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from recordings import (
    Recording,
    Split,
    Stimuli,
    check_split,
    leave_one_group_out,
    split_by_stimulus,
    split_by_value,
    stimulus_folds,
)
from recordings.errors import LeakageError, MismatchedIdsError, RepetitionError
from recordings.standardise import SessionScaler


@pytest.fixture
def recording(rng) -> Recording:
    table = {"stimulus_id": [f"s{i % 10}" for i in range(30)], "session": np.arange(30) // 10, "split": ["a", "b"] * 15}
    return Recording(rng.normal(size=(30, 3)), table)


def test_hold_out_by_stimulus_takes_all_repetitions(recording):
    split = split_by_stimulus(recording, test=0.3, seed=4)
    train, test = split.apply(recording)
    assert not set(train.stimulus_ids) & set(test.stimulus_ids)
    assert len(test) == 9 and len(train) == 21
    again = split_by_stimulus(recording, test=3, seed=4)
    np.testing.assert_array_equal(split.test, again.test)
    assert list(split_by_stimulus(recording, test=3, seed=5).test) != list(again.test)


def test_folds_hold_each_stimulus_out_once(recording):
    folds = stimulus_folds(recording, 5)
    held_out = np.concatenate([recording.stimulus_ids[f.test] for f in folds])
    assert sorted(held_out) == sorted(recording.stimulus_ids)
    for fold in folds:
        check_split(recording, fold)
    with pytest.raises(RepetitionError, match="10 stimuli are too few for 11 folds"):
        stimulus_folds(recording, 11)


def test_a_split_by_presentation_is_refused_and_the_stimulus_named(recording):
    leaky = Split(np.arange(20), np.arange(20, 30), "last session")
    with pytest.raises(
        LeakageError, match=r"split 'last session': stimulus 's0' is in the training and in the test part"
    ):
        leaky.apply(recording)
    with pytest.raises(LeakageError, match="10 in all"):
        check_split(recording, leave_one_group_out(recording, "session")[0])


def test_one_picture_under_two_ids_is_refused(rng):
    images = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    images[3] = images[1]
    stimuli = Stimuli.from_arrays(images, list("abcd"))
    recording = Recording(rng.normal(size=(4, 2)), {"stimulus_id": list("abcd")})
    split = Split(np.array([0, 1]), np.array([2, 3]))
    check_split(recording, split)
    with pytest.raises(LeakageError, match="'b' and 'd' are the same picture"):
        check_split(recording, split, stimuli)


def test_groups_and_values(rng):
    table = {"stimulus_id": list("abcdef"), "run": [1, 1, 2, 2, 3, 3]}
    recording = Recording(rng.normal(size=(6, 2)), table)
    splits = leave_one_group_out(recording, "run")
    assert [list(s.test) for s in splits] == [[0, 1], [2, 3], [4, 5]]
    assert list(split_by_value(recording, "run", [1, 3]).train) == [2, 3]
    with pytest.raises(RepetitionError, match="'session' has a single value"):
        leave_one_group_out(recording, "session")


def test_sides_must_not_be_empty(recording, rng):
    with pytest.raises(RepetitionError, match="leaves no presentation on one side"):
        check_split(recording, Split(np.arange(30), np.array([], int)))
    single = Recording(rng.normal(size=(1, 2)), {"stimulus_id": ["a"]})
    with pytest.raises(RepetitionError, match="at least two stimuli"):
        split_by_stimulus(single)


def test_standardisation_is_learnt_on_the_training_part(rng, tmp_path):
    sessions = np.repeat([1, 2], 50)
    values = rng.normal(size=(100, 3)) * np.where(sessions == 1, 2, 5)[:, None] + 10 * sessions[:, None]
    values[:, 2] = 4.0
    recording = Recording(values, {"stimulus_id": [f"s{i}" for i in range(100)], "session": sessions})
    train, test = recording.take(np.arange(0, 100, 2)), recording.take(np.arange(1, 100, 2))
    scaler = SessionScaler().fit(train)
    scaled = scaler.transform(train).values
    for session in (1, 2):
        np.testing.assert_allclose(scaled[train.presentation("session") == session, :2].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(scaled[train.presentation("session") == session, :2].std(0), 1, atol=1e-4)
    assert (scaled[:, 2] == 0).all()
    unseen = scaler.transform(test, tmp_path / "t.zarr").values
    mean, std = train.values[:25].mean(0), train.values[:25].std(0)
    np.testing.assert_allclose(unseen[:25, :2], ((test.values[:25] - mean) / np.maximum(std, 1e-9))[:, :2], rtol=1e-4)
    assert abs(unseen[:25, 0].mean()) > 1e-4  # Not its own mean.
    with pytest.raises(MismatchedIdsError, match="session 2 has no training data"):
        SessionScaler().fit(recording.where(session=1)).transform(recording)
