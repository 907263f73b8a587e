"""LatentDecoder on targets of generators: recovery at known signal, mean, spread, principal components."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from decoders import LatentDecoder
from encoders import Features
from recordings import Recording
from recordings.errors import InputError, LeakageError
from recordings.statistics import correlate

from .conftest import World

N_TRAIN, N_TEST, N_NEUROIDS, N_DIMS, N_SOURCES = 400, 100, 80, 48, 16
ALPHAS = np.logspace(0, 5, 6)


class Projected(NamedTuple):
    train: Recording
    test: Recording
    targets: Features


def project(
    snr: float, seed: int = 0, dims: int = N_DIMS, n_train: int = N_TRAIN, n_neuroids: int = N_NEUROIDS
) -> Projected:
    """Neuroids are random projections of a code whose dims share a few sources; s.d. of signal over noise is `snr`.

    Training stimuli are shown once, test stimuli three times, averaged.
    """
    rng = np.random.default_rng(seed)
    n = n_train + N_TEST
    code = rng.normal(size=(n, N_SOURCES)) @ rng.normal(size=(N_SOURCES, dims)) / np.sqrt(N_SOURCES)
    code = code + rng.normal(0, 3, dims)
    signal = (code - code.mean(0)) @ rng.normal(size=(dims, n_neuroids))
    noise = rng.normal(size=signal.shape)
    noise[n_train:] /= np.sqrt(3)
    values = snr * signal / signal.std() + noise
    ids = [f"stim{i:04d}" for i in range(n)]
    recording = Recording(values, {"stimulus_id": ids})
    targets = Features.from_arrays(code, ids, uri="planted", layer="code")
    return Projected(recording.take(slice(0, n_train)), recording.take(slice(n_train, n)), targets)


def pooled_r(decoded: np.ndarray, data: Projected) -> float:
    """Correlation over all test stimuli and dims, the training mean taken off."""
    mean = data.targets.read(data.targets.rows(data.train.stimulus_ids)).mean(0)
    truth = data.targets.read(data.targets.rows(data.test.stimulus_ids))
    return float(np.corrcoef((decoded - mean).ravel(), (truth - mean).ravel())[0, 1])


def share_with_kept_mean(decoded: np.ndarray, train_mean: np.ndarray, spread: np.ndarray) -> float:
    """Share of dims whose mean over test stimuli is within 3 standard errors of the training mean."""
    return float((np.abs(decoded.mean(0) - train_mean) <= 3 * spread / np.sqrt(len(decoded))).mean())


@pytest.mark.parametrize(("snr", "least"), [(3.0, 0.95), (1.0, 0.9)])
def test_recovers_random_projections(snr: float, least: float) -> None:
    data = project(snr)
    decoder = LatentDecoder(ALPHAS, reliability=None, calibration_folds=0).fit(data.train, data.targets)
    assert pooled_r(decoder.predict(data.test), data) >= least


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*alpha")
@pytest.mark.parametrize(("snr", "low", "high"), [(3.0, 0.95, 1), (1.0, 0.9, 1), (0.3, 0.75, 1), (0.0, -0.05, 0.05)])
def test_recovers_latents_of_a_generator(snr: float, low: float, high: float) -> None:
    # 4 x 8 x 8 latents from 300 voxels.
    data = project(snr, dims=256, n_train=2000, n_neuroids=300)
    decoder = LatentDecoder(ALPHAS, reliability=None, calibration_folds=0).fit(data.train, data.targets)
    assert low <= pooled_r(decoder.predict(data.test), data) <= high


@pytest.mark.filterwarnings("ignore:.*alpha")
def test_finds_nothing_in_noise() -> None:
    data = project(0.0)
    # Nothing that is noise is made louder.
    decoder = LatentDecoder(ALPHAS, 3, reliability=None, calibration_folds=3, rescale=True)
    decoder.fit(data.train, data.targets)
    assert abs(pooled_r(decoder.predict(data.test), data)) <= 0.1
    assert decoder.cv_r_ is not None and abs(decoder.cv_r_.mean()) < 0.1
    assert decoder.gain_ is not None and (decoder.gain_ == 1).mean() > 0.9


def test_mean_is_kept_where_a_fit_without_intercept_loses_it() -> None:
    from himalaya.ridge import RidgeCV

    data = project(1.0)
    targets = data.targets.read(slice(0, N_TRAIN))
    decoded = (
        LatentDecoder(ALPHAS, reliability=None, calibration_folds=0).fit(data.train, data.targets).predict(data.test)
    )
    assert share_with_kept_mean(decoded, targets.mean(0), targets.std(0)) >= 0.99
    X, mean = data.train.values, data.train.values.mean(0)
    original = RidgeCV(alphas=ALPHAS, fit_intercept=False).fit(X - mean, targets)
    lost = original.predict(data.test.values - mean)
    assert share_with_kept_mean(lost, targets.mean(0), targets.std(0)) < 0.5


def test_spread_is_restored_without_the_test_set() -> None:
    data = project(0.5)
    options = {"alphas": ALPHAS, "reliability": None, "cv": 3, "calibration_folds": 3}
    shrunk = LatentDecoder(**options).fit(data.train, data.targets)
    spread = LatentDecoder(**options, rescale=True).fit(data.train, data.targets)
    truth = data.targets.read(slice(0, N_TRAIN)).std(0)
    # Held-out training stimuli, which are single presentations as in the fit.
    before, after = (d.cross_predict(data.train, data.targets, 3).std(0) / truth for d in (shrunk, spread))
    assert before.mean() < 0.9 and abs(after.mean() - 1) < 0.02 and np.abs(after - 1).max() < 0.1
    # One volume is decoded as among others.
    alone = spread.predict(data.test.take(slice(3, 4)))
    assert np.allclose(alone, spread.predict(data.test)[3:4], atol=1e-4)
    assert np.allclose(correlate(spread.predict(data.test), shrunk.predict(data.test)), 1, atol=1e-5)
    with pytest.raises(InputError, match="calibration_folds"):
        LatentDecoder(ALPHAS, reliability=None, rescale=True, calibration_folds=0).fit(data.train, data.targets)


def test_out_of_fold_predictions_are_of_stimuli_not_seen(world: World) -> None:
    decoder = LatentDecoder([10.0, 100.0], reliability=None)
    decoded = decoder.cross_predict(world.train, world.features, 3)
    average = world.train.average_repetitions()
    truth = world.features.read(world.features.rows(average.stimulus_ids))
    assert decoded.shape == truth.shape and correlate(decoded, truth).mean() > 0.8
    # Noise that the features fit by chance does not pass for signal.
    noise = np.random.default_rng(99).normal(size=truth.shape).astype(np.float32)
    nothing = decoder.cross_predict(world.train, Features.from_arrays(noise, list(average.stimulus_ids)), 3)
    assert abs(correlate(nothing, noise).mean()) < 0.1
    with pytest.raises(InputError, match="not fitted"):
        decoder.predict(world.test)


def test_components(tmp_path: Path) -> None:
    data = project(1.0, dims=200, n_train=150)
    whole = LatentDecoder(ALPHAS, reliability=None, calibration_folds=0).fit(data.train, data.targets)
    reduced = LatentDecoder(ALPHAS, reliability=None, components=N_SOURCES, calibration_folds=3).fit(
        data.train, data.targets
    )
    assert reduced.explained_variance_ > 0.999 and reduced.alphas_.shape == (N_SOURCES,)
    truth = data.targets.read(data.targets.rows(data.test.stimulus_ids))
    r = {d: correlate(d.predict(data.test), truth).mean() for d in (whole, reduced)}
    assert r[reduced] > r[whole] - 0.02
    few = LatentDecoder(ALPHAS, reliability=None, components=3, calibration_folds=0).fit(data.train, data.targets)
    assert 0.1 < few.explained_variance_ < 0.6
    reduced.save_pretrained(tmp_path / "reduced")
    again = LatentDecoder.from_pretrained(str(tmp_path / "reduced"))
    assert np.array_equal(again.predict(data.test), reduced.predict(data.test))
    assert again.explained_variance_ == reduced.explained_variance_
    card = (tmp_path / "reduced" / "README.md").read_text()
    assert f"{N_SOURCES}, which keep {reduced.explained_variance_:.1%}" in card
    # As many components as features are the features.
    same = LatentDecoder(ALPHAS, reliability=None, components=200, calibration_folds=0).fit(data.train, data.targets)
    assert same.map_.components is None and np.array_equal(same.predict(data.test), whole.predict(data.test))


def test_recalibration_stimuli_count_as_seen() -> None:
    data = project(1.0, n_train=200)
    decoder = LatentDecoder(ALPHAS, reliability=None, calibration_folds=0).fit(data.train, data.targets)
    decoder.partial_fit(data.test.take(slice(0, 20)), data.targets)
    with pytest.raises(LeakageError, match="20 in all"):
        decoder.identify(data.test, data.targets)
