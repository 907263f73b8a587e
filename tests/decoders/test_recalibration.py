"""Recalibration: drift is measured and undone by a few stimuli, and where there is none nothing is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from decoders.drift import ResponseMoments, drifted, measure_shift
from decoders.latent import LatentDecoder
from decoders.recalibration import compare, move_weights
from decoders.similarity import correlations
from encoders import Features
from recordings import Recording
from recordings.errors import ArtifactError, RepetitionError
from recordings.miniature import Scenes, render, simulate_subject
from recordings.miniature.render import Rendered

from .conftest import World

ALPHAS = np.logspace(0, 4, 5)


@pytest.fixture(scope="module")
def decoder(world: World) -> LatentDecoder:
    return LatentDecoder(ALPHAS, 3, reliability=None, calibration_folds=0).fit(world.train, world.features)


def next_day(world: World, offset: float, gain: float, seed: int = 5) -> Recording:
    """Test stimuli with each neuroid's responses scaled and moved; offset in units of noise."""
    rng = np.random.default_rng(seed)
    gains = np.exp(gain * rng.normal(size=world.test.n_neuroids))
    moved = (world.test.values - 100) * gains + 100 + offset * rng.normal(size=len(gains))
    return Recording(moved, world.test.presentations, world.test.neuroids)


def score(decoder: LatentDecoder, recording: Recording, features: Features) -> float:
    truth = features.read(features.rows(recording.stimulus_ids))
    how = {"mean": decoder.feature_mean_, "scale": decoder.feature_scale_}
    return float(correlations(decoder.predict(recording), truth, **how).diagonal().mean())


@pytest.mark.parametrize("n", [15, 40])
def test_recovers_most_of_what_drift_has_cost(decoder: LatentDecoder, world: World, n: int) -> None:
    day, few, rest = next_day(world, 2.0, 0.5), slice(0, n), slice(50, 100)
    without_drift = score(decoder, world.test.take(rest), world.features)
    before = score(decoder, day.take(rest), world.features)
    moved = copy.deepcopy(decoder).partial_fit(day.take(few), world.features)
    after = score(moved, day.take(rest), world.features)
    assert before < without_drift - 0.15
    assert after - before > 0.6 * (without_drift - before)
    # A second calibration starts from the training's responses and does not count the shift twice.
    again = copy.deepcopy(moved).partial_fit(day.take(few), world.features)
    assert score(again, day.take(rest), world.features) > after - 0.03


@pytest.mark.parametrize("n", [10, 40])
def test_does_no_harm_without_drift(decoder: LatentDecoder, world: World, n: int) -> None:
    rest = world.test.take(slice(50, 100))
    moved = copy.deepcopy(decoder).partial_fit(world.test.take(slice(0, n)), world.features)
    assert score(moved, rest, world.features) > score(decoder, rest, world.features) - 0.01


def test_measures_offset_and_gain(world: World) -> None:
    rng = np.random.default_rng(1)
    gains, offsets = np.exp(0.5 * rng.normal(size=120)), rng.normal(size=120)
    moved = (world.test.values - 100) * gains + 100 + offsets
    day = Recording(moved, world.test.presentations, world.test.neuroids)
    old = ResponseMoments.of(world.train)
    shift = measure_shift(old, ResponseMoments.of(day))
    assert np.corrcoef(shift.log_gain, np.log(gains))[0, 1] > 0.95
    assert np.corrcoef(shift.offset * np.sqrt(old.variance), offsets)[0, 1] > 0.95
    spread = (shift.log_gain - np.log(gains)) / np.sqrt(shift.log_gain_variance)
    assert 0.7 < spread.std() < 1.3
    assert drifted(shift).mean() > 0.8
    same = measure_shift(old, ResponseMoments.of(world.test))
    assert drifted(same).mean() < 0.05


def test_fewer_repetitions_are_no_drift(world: World) -> None:
    once = world.train.take(np.flatnonzero(world.train.presentation("repetition") == 0))
    shift = measure_shift(ResponseMoments.of(world.train), ResponseMoments.of(once))
    assert once.values.std(0).mean() > 1.2 * world.test.values.std(0).mean()
    assert abs(shift.log_gain.mean()) < 0.02 and drifted(shift).mean() < 0.05


def test_through_components(world: World) -> None:
    reduced = LatentDecoder(ALPHAS, 3, reliability=None, calibration_folds=0, components=19)
    reduced.fit(world.train, world.features)
    day = next_day(world, 2.0, 0.5)
    before = score(reduced, day.take(slice(50, 100)), world.features)
    reduced.partial_fit(day.take(slice(0, 40)), world.features)
    assert score(reduced, day.take(slice(50, 100)), world.features) > before + 0.1


def test_weights_move_as_ridge_towards_the_old_ones(decoder: LatentDecoder, world: World) -> None:
    rows = slice(0, 30)
    values = next_day(world, 1.0, 0.3).values[rows][:, decoder.neuroids_]
    targets = world.test_features.read(rows)
    moved = move_weights(decoder.map_, values, targets)
    X = np.column_stack([decoder.map_.standardise(values), np.ones(30)]).astype(np.float64)
    old = np.vstack([decoder.map_.weights, decoder.map_.intercept]).astype(np.float64)
    new = np.vstack([moved.weights, moved.intercept]).astype(np.float64)
    # At the minimum of |Y - X W|^2 + penalty |W - old|^2, X'(Y - X W) = penalty (W - old).
    gradient, change = X.T @ (targets - X @ new), new - old
    penalty = (gradient * change).sum() / (change**2).sum()
    assert penalty > 0 and np.allclose(gradient, penalty * change, atol=1e-2 * np.abs(gradient).max())


def test_compares_decoding_before_and_after(decoder: LatentDecoder, world: World) -> None:
    how = {"mean": decoder.feature_mean_, "scale": decoder.feature_scale_}
    day = next_day(world, 2.0, 0.5).take(neuroid=decoder.neuroids_)
    before, after = compare(decoder.map_, decoder.response_moments_, day, world.features, **how)
    assert after > before + 0.1
    same = world.test.take(neuroid=decoder.neuroids_)
    before, after = compare(decoder.map_, decoder.response_moments_, same, world.features, **how)
    assert abs(after - before) < 0.02


def test_refuses_too_little(decoder: LatentDecoder, world: World) -> None:
    with pytest.raises(RepetitionError, match="4 stimuli"):
        copy.deepcopy(decoder).partial_fit(world.test.take(slice(0, 4)), world.features)
    with pytest.raises(ArtifactError, match="neuroids"):
        copy.deepcopy(decoder).partial_fit(world.test.take(neuroid=slice(0, 9)), world.features)
    other = Features.from_arrays(world.features.read(), list(world.features.stimulus_ids), layer="other")
    with pytest.raises(ArtifactError, match="another space"):
        copy.deepcopy(decoder).partial_fit(world.test, other)


@pytest.mark.slow
def test_follows_a_simulated_subject() -> None:
    scenes = Scenes.sample(360, seed=3)
    rendered = render(scenes)
    pixels = rendered.image.reshape(360, 8, 8, 8, 8, 3).mean((2, 4)).reshape(360, -1) / 64
    features = Features.from_arrays(pixels, list(scenes.stimulus_id), layer="pixels")

    def session(part: slice, **drift: float) -> Recording:
        shown = Rendered(rendered.image[part], rendered.depth[part], rendered.silhouette[part])
        recording = simulate_subject(scenes[part], shown, repetitions=2, noise_ceiling=0.5, **drift).recording
        return recording.take(neuroid=slice(0, None, 7))

    decoder = LatentDecoder(np.logspace(1, 5, 5), 3, reliability=None, calibration_folds=0)
    decoder.fit(session(slice(0, 240)), features)
    rest = slice(300, 360)
    without_drift = score(decoder, session(rest).average_repetitions(), features)
    day = session(slice(240, 360), session_offset=3.0, session_gain=0.3)
    few = day.where(stimulus_id=list(scenes.stimulus_id[240:280]))
    test = day.where(stimulus_id=list(scenes.stimulus_id[rest])).average_repetitions()
    before = score(decoder, test, features)
    after = score(copy.deepcopy(decoder).partial_fit(few, features), test, features)
    assert before < without_drift - 0.05
    assert after - before > 0.6 * (without_drift - before)
