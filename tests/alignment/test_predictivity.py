"""Predictivity: the true features reach the ceiling, others none, and no stimulus is predicted from itself."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import predictivity
from encoders import Features, RidgeEncoder
from recordings import Recording
from recordings.errors import MismatchedIdsError, RepetitionError

N, NEUROIDS = 240, 40


@pytest.fixture
def world(rng: np.random.Generator) -> tuple[Features, Recording]:
    ids = [f"s{i}" for i in range(N)]
    features = rng.normal(size=(N, 12)).astype(np.float32)
    signal = features @ rng.normal(size=(12, NEUROIDS)) / np.sqrt(12)
    # A planted ceiling of .6 for the mean of three: noise variance 3 (1 - .6) / .6 = 2.
    values = np.concatenate([signal + np.sqrt(2) * rng.normal(size=signal.shape) for _ in range(3)])
    return Features.from_arrays(features, ids), Recording(values, {"stimulus_id": ids * 3})


def test_true_features_reach_the_ceiling(world: tuple[Features, Recording]) -> None:
    features, recording = world
    score = predictivity(features, recording, n_bootstrap=50)
    assert score.ceiling is not None and score.interval is not None
    assert 0.9 < score.center < 1.05
    assert score.interval[0] < score.center < score.interval[1]
    assert score.center > score.values.mean()


def test_other_features_predict_nothing(world: tuple[Features, Recording], rng: np.random.Generator) -> None:
    features, recording = world
    noise = Features.from_arrays(rng.normal(size=(N, 12)), list(features.stimulus_ids))
    assert abs(predictivity(noise, recording, n_bootstrap=0).center) < 0.1


def test_shuffled_stimuli_predict_nothing(world: tuple[Features, Recording], rng: np.random.Generator) -> None:
    features, recording = world
    shuffled = Features.from_arrays(features.read(), list(rng.permutation(features.stimulus_ids)))
    assert abs(predictivity(shuffled, recording, n_bootstrap=0).center) < 0.1


def test_a_stimulus_is_not_predicted_from_itself(rng: np.random.Generator) -> None:
    # One feature a stimulus lets a fit remember every response; held-out ones are then out of reach.
    ids = [f"s{i}" for i in range(60)]
    recording = Recording(np.tile(rng.normal(size=(60, 20)), (2, 1)), {"stimulus_id": ids * 2})
    score = predictivity(Features.from_arrays(np.eye(60), ids), recording, n_bootstrap=0)
    assert np.nanmean(score.values) < 0.1


def test_encoder_can_be_given(world: tuple[Features, Recording]) -> None:
    features, recording = world
    encoder = RidgeEncoder(alphas=[1e7], cv=2)
    heavy = predictivity(features, recording, encoder, n_bootstrap=0, metric="r2")
    assert heavy.center < predictivity(features, recording, n_bootstrap=0, metric="r2").center - 0.3


def test_bad_input(world: tuple[Features, Recording]) -> None:
    features, recording = world
    with pytest.raises(MismatchedIdsError, match="'s0'"):
        predictivity(features.select([f"s{i}" for i in range(1, N)]), recording)
    with pytest.raises(RepetitionError):
        predictivity(features, recording.take(slice(0, 3)))
