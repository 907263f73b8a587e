"""LatentDecoder: recovers planted features, chance without signal, honest confidence, and refuses what does not fit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from decoders import LatentDecoder, calibration_error
from decoders.selection import ConstantNeuroidWarning
from encoders import Features
from recordings import Recording
from recordings.errors import ArtifactError, Cancelled, InputError, LeakageError, NotFiniteError, RepetitionError
from recordings.statistics import correlate

from .conftest import N_TEST, World, plant

ALPHAS = np.logspace(0, 5, 6)


@pytest.fixture(scope="module")
def decoder(world: World) -> LatentDecoder:
    return LatentDecoder(ALPHAS).fit(world.train, world.features)


def test_recovers_planted_features(decoder: LatentDecoder, world: World) -> None:
    decoded = decoder.predict(world.test)
    assert decoded.dtype == np.float32 and decoded.shape == world.test_features.shape
    assert correlate(decoded, world.test_features.read()).min() > 0.85


def test_keeps_the_mean(decoder: LatentDecoder, world: World) -> None:
    decoded, truth = decoder.predict(world.test), world.features.read()[:-N_TEST]
    error = np.abs(decoded.mean(0) - truth.mean(0)) / (decoded.std(0) / np.sqrt(N_TEST))
    assert (error < 4).all()
    assert np.allclose(decoder.feature_mean_, truth.mean(0), atol=1e-4)


def test_reads_reliable_neuroids(decoder: LatentDecoder, world: World) -> None:
    read = np.isin(np.arange(len(world.carries)), decoder.neuroids_)
    assert read[world.carries].mean() > 0.95
    assert read[~world.carries].mean() < 0.5
    few = LatentDecoder(ALPHAS, max_neuroids=10, calibration_folds=0).fit(world.train, world.features)
    assert len(few.neuroids_) == 10 and world.carries[few.neuroids_].all()


def test_identifies(decoder: LatentDecoder, world: World) -> None:
    found = decoder.identify(world.test, world.test_features, n_permutations=200)
    assert found.accuracy > 0.9 and found.chance == 1 / N_TEST and found.n_candidates == N_TEST
    assert found.null.p_value < 0.01 and abs(found.null.mean - 0.01) < 4 * found.null.standard_error
    assert found.interval[0] <= found.accuracy <= found.interval[1]


def test_retrieves_with_confidence(decoder: LatentDecoder, world: World) -> None:
    found = decoder.retrieve(world.test, world.features, k=5)
    shown = list(world.test.stimulus_ids)
    assert found.stimulus_ids.shape == (N_TEST, 5) and found.n_gallery == len(world.features)
    assert found.hits(shown).mean() > 0.9 and found.chance == 5 / len(world.features)
    assert (np.diff(found.similarity, axis=1) <= 0).all() and (np.diff(found.confidence, axis=1) <= 0).all()
    assert (found.confidence.sum(1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("snr", [0.25, 0.5])
def test_confidence_is_calibrated(snr: float) -> None:
    # Weak signal, where an overconfident decoder would show; three brains, so that bins hold enough answers.
    confidence, correct = [], []
    for seed in range(3):
        world = plant(seed + 10, snr)
        decoder = LatentDecoder(ALPHAS).fit(world.train, world.features)
        found = decoder.retrieve(world.test, world.test_features, k=1)
        confidence.append(found.confidence[:, 0])
        correct.append(found.hits(list(world.test.stimulus_ids)))
    confidence, correct = np.concatenate(confidence), np.concatenate(correct)
    assert 0.05 < correct.mean() < 0.95
    assert abs(confidence.mean() - correct.mean()) < 0.08
    assert calibration_error(confidence, correct, n_bins=5) < 0.1


def test_no_signal(world: World) -> None:
    rng = np.random.default_rng(3)
    ids = np.unique(world.features.stimulus_ids.astype(str))
    renamed = dict(zip(ids, rng.permutation(ids), strict=True))
    shuffled = Features.from_arrays(
        world.features.read(), [renamed[i] for i in world.features.stimulus_ids], uri="planted", layer="latents"
    )
    with pytest.warns(UserWarning, match="largest"):
        decoder = LatentDecoder(ALPHAS).fit(world.train, shuffled)
    found = decoder.identify(world.test, shuffled.select(list(world.test.stimulus_ids)), n_permutations=200)
    assert found.accuracy < 0.06 and found.null.p_value > 0.01
    assert abs(found.two_way_candidates - 0.5) < 0.09 and abs(found.two_way_rows - 0.5) < 0.09
    assert found.confidence.mean() < 0.1
    assert decoder.cv_accuracy_ is not None and decoder.cv_accuracy_ < 0.06


def test_no_reliable_neuroid_is_an_error(world: World) -> None:
    noise = world.train.take(neuroid=np.flatnonzero(~world.carries))
    with pytest.raises(RepetitionError, match="reliab"):
        LatentDecoder(ALPHAS, reliability=0.5).fit(noise, world.features)


def test_round_trip(decoder: LatentDecoder, world: World, tmp_path: Path) -> None:
    decoder.save_pretrained(tmp_path / "decoder")
    again = LatentDecoder.from_pretrained(str(tmp_path / "decoder"))
    assert np.array_equal(again.predict(world.test), decoder.predict(world.test))
    a, b = (d.retrieve(world.test, world.features) for d in (again, decoder))
    assert np.array_equal(a.stimulus_ids, b.stimulus_ids) and np.array_equal(a.confidence, b.confidence)
    names = sorted(p.name for p in (tmp_path / "decoder").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert f"{decoder.cv_accuracy_:.3f}" in (tmp_path / "decoder" / "README.md").read_text()


def test_more_neuroids_than_stimuli_agree_with_the_equation(world: World) -> None:
    few = world.train.take(np.flatnonzero(np.isin(world.train.stimulus_ids, world.features.stimulus_ids[:50])))
    wide = LatentDecoder([10.0], reliability=None, calibration_folds=0).fit(few, world.features)
    average = few.average_repetitions()
    X = average.values.astype(np.float64)
    X = (X - X.mean(0)) / X.std(0)
    Y = world.features.read(world.features.rows(average.stimulus_ids)).astype(np.float64)
    W = np.linalg.solve(X.T @ X + 10 * np.eye(X.shape[1]), X.T @ (Y - Y.mean(0)))
    assert X.shape[1] > X.shape[0]
    assert np.allclose(wide.predict(average), X @ W + Y.mean(0), atol=2e-3)


def test_order_of_presentations_does_not_matter(decoder: LatentDecoder, world: World) -> None:
    order = np.random.default_rng(0).permutation(len(world.train))
    other = LatentDecoder(ALPHAS, calibration_folds=0).fit(world.train.take(order), world.features)
    assert np.allclose(other.predict(world.test), decoder.predict(world.test), atol=0.05)


def test_refuses_what_does_not_fit(decoder: LatentDecoder, world: World) -> None:
    with pytest.raises(ArtifactError, match="neuroids"):
        decoder.predict(world.test.take(neuroid=slice(0, 50)))
    with pytest.raises(ArtifactError, match="order"):
        decoder.predict(world.test.take(neuroid=np.arange(120)[::-1]))
    other = Features.from_arrays(world.features.read(), list(world.features.stimulus_ids), uri="planted", layer="b")
    with pytest.raises(ArtifactError, match="layer b"):
        decoder.retrieve(world.test, other)
    with pytest.raises(LeakageError, match="'stim000'"):
        decoder.identify(world.train, world.features)
    with pytest.raises(InputError, match="not fitted"):
        LatentDecoder().predict(world.test)


def test_refuses_bad_recordings(decoder: LatentDecoder, world: World) -> None:
    values = world.test.values.copy()
    values[3, decoder.neuroids_[2]] = np.nan
    broken = Recording(values, world.test.presentations, world.test.neuroids)
    with pytest.raises(NotFiniteError, match=f"'n{decoder.neuroids_[2]}'"):
        decoder.predict(broken)
    once = world.train.take(np.flatnonzero(world.train.presentation("repetition") == 0))
    with pytest.raises(RepetitionError, match="reliability=None"):
        LatentDecoder(ALPHAS).fit(once, world.features)
    everything = LatentDecoder(ALPHAS, reliability=None).fit(once, world.features)
    assert len(everything.neuroids_) == world.train.n_neuroids


def test_without_calibration_there_is_no_confidence(world: World) -> None:
    plain = LatentDecoder(ALPHAS, calibration_folds=0).fit(world.train, world.features)
    with pytest.raises(ArtifactError, match="calibration_folds"):
        plain.retrieve(world.test, world.features)


def test_can_be_stopped(world: World, decoder: LatentDecoder) -> None:
    with pytest.raises(Cancelled):
        LatentDecoder(ALPHAS).fit(world.train, world.features, stop=lambda: True)
    with pytest.raises(Cancelled):
        decoder.predict(world.test, stop=lambda: True)


def test_neuroids_that_are_constant_but_not_zero_are_left_out(world: World) -> None:
    values = world.train.values.copy()
    values[:, [0, 3, 7]] = [0.1, 1.7, 100.3]
    train = Recording(values, world.train.presentations, world.train.neuroids)
    decoder = LatentDecoder(reliability=None, calibration_folds=2)
    with pytest.warns(ConstantNeuroidWarning) as warned:
        decoder.fit(train, world.features)
    # Once a fit, neither in its folds nor by other constants.
    (message,) = [str(w.message) for w in warned if w.category is ConstantNeuroidWarning]
    assert message.startswith("3 of 120 neuroids do not vary") and message.endswith("left out: n0, n3, n7")
    with pytest.warns(ConstantNeuroidWarning, match="3 of 120"):
        decoder.cross_predict(train, world.features, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantNeuroidWarning)
        decoder.predict(world.test)
        LatentDecoder(reliability=None, calibration_folds=0).fit(world.train, world.features)
    assert not {0, 3, 7} & set(decoder.neuroids_.tolist())
    assert len(decoder.neuroids_) == values.shape[1] - 3


def test_a_fit_that_was_stopped_is_none(world: World) -> None:
    decoder = LatentDecoder(calibration_folds=2)
    asked = iter([False] * 12)
    with pytest.raises(Cancelled):
        decoder.fit(world.train, world.features, stop=lambda: next(asked, True))
    with pytest.raises(InputError, match="not fitted"):
        decoder.predict(world.test)
