"""Noise ceilings recover what is planted, find nothing in noise, and refuse single presentations."""

from __future__ import annotations

import numpy as np
import pytest

from recordings import Recording, inter_subject_ceiling, noise_ceiling
from recordings.ceilings import ncsnr, spearman_brown
from recordings.errors import MismatchedIdsError, RepetitionError, UnknownNameError


def planted(ceiling: float, n_stimuli: int = 500, n_repetitions: int = 3, m: int = 80, seed: int = 0) -> Recording:
    """Signal of variance 1; noise such that the mean over repetitions has the planted explainable variance."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt(n_repetitions * (1 - ceiling) / ceiling) if ceiling else 1.0
    signal = rng.normal(size=(n_stimuli, m)) if ceiling else np.zeros((n_stimuli, m))
    values = signal + noise * rng.normal(size=(n_repetitions, n_stimuli, m))
    ids = np.tile([f"s{i}" for i in range(n_stimuli)], n_repetitions)
    return Recording(values.reshape(-1, m), {"stimulus_id": ids})


@pytest.mark.parametrize("method", ["ncsnr", "split_half"])
@pytest.mark.parametrize("repetitions", [2, 3, 5])
def test_planted_ceiling_is_recovered(method, repetitions):
    estimate = noise_ceiling(planted(0.7, n_repetitions=repetitions), method, n_splits=20)
    assert abs(estimate.mean() - 0.7) < 0.03
    assert np.abs(estimate - 0.7).max() < 0.15


@pytest.mark.parametrize("method", ["ncsnr", "split_half"])
def test_noise_alone_has_no_ceiling(method):
    estimate = noise_ceiling(planted(0.0), method, n_splits=20)
    assert estimate.mean() < 0.05 and (estimate >= 0).all()


def test_ceiling_of_another_number_of_repetitions():
    recording = planted(0.7, n_repetitions=3)
    single = 0.7 / 3 / (0.7 / 3 + 0.3)  # Signal 1, noise of one presentation 3 * .3 / .7.
    for method in ("ncsnr", "split_half"):
        assert noise_ceiling(recording, method, n_average=1, n_splits=20).mean() == pytest.approx(single, abs=0.03)


def test_formula_of_the_natural_scenes_dataset(rng):
    # ncsnr .5, 1, 2 give .428571, .75, .923077 for three repetitions.
    for ratio, expected in ((0.5, 0.428571), (1.0, 0.75), (2.0, 0.923077)):
        assert ratio**2 / (ratio**2 + 1 / 3) == pytest.approx(expected, abs=1e-6)
        signal = rng.normal(size=(4000, 30)) * ratio
        values = np.concatenate([signal + rng.normal(size=signal.shape) for _ in range(3)])
        assert ncsnr(values, np.tile(np.arange(4000), 3)).mean() == pytest.approx(ratio, abs=0.02)


def test_unequal_repetitions_count_by_the_mean_of_their_inverse():
    recording = planted(0.7, n_repetitions=3)
    ids = recording.stimulus_ids
    once = np.isin(ids, [f"s{i}" for i in range(250)]) & (recording.presentation("repetition") > 0)
    part = recording.take(np.flatnonzero(~once))
    noise = 3 * 0.3 / 0.7
    expected = 1 / (1 + noise * np.mean([1.0] * 250 + [1 / 3] * 250))
    assert noise_ceiling(part).mean() == pytest.approx(expected, abs=0.03)


def test_a_constant_neuroid_has_no_ceiling_and_harms_no_other():
    recording = planted(0.7)
    values = recording.values.copy()
    values[:, 3] = 5.0
    flat = Recording(values, recording.presentations)
    for method in ("ncsnr", "split_half"):
        estimate = noise_ceiling(flat, method, n_splits=5)
        assert np.isnan(estimate[3]) and np.isfinite(np.delete(estimate, 3)).all()


def test_repeatable_without_noise_is_one(rng):
    signal = rng.normal(size=(50, 4))
    recording = Recording(np.tile(signal, (2, 1)), {"stimulus_id": [f"s{i}" for i in range(50)] * 2})
    for method in ("ncsnr", "split_half"):
        np.testing.assert_allclose(noise_ceiling(recording, method, n_splits=5), 1, atol=1e-6)


def test_single_presentations_are_refused(rng):
    once = Recording(rng.normal(size=(9, 2)), {"stimulus_id": [f"s{i}" for i in range(9)]})
    with pytest.raises(RepetitionError, match="0 stimuli were shown more than once"):
        noise_ceiling(once)
    with pytest.raises(RepetitionError):
        noise_ceiling(Recording(rng.normal(size=(1, 2)), {"stimulus_id": ["a"]}))
    with pytest.raises(UnknownNameError, match="no noise ceiling 'oracle'"):
        noise_ceiling(planted(0.7, 20), "oracle")


def test_time_bins_have_their_own_ceilings():
    flat = planted(0.7, m=40)
    shape = (len(flat), 4, 10)
    recording = Recording(flat.values.reshape(shape), flat.presentations, time=np.arange(4.0))
    np.testing.assert_allclose(noise_ceiling(recording), noise_ceiling(flat).reshape(4, 10), rtol=1e-5)


def test_spearman_brown():
    assert spearman_brown(0.5) == pytest.approx(2 / 3) and spearman_brown(0.5, 3) == pytest.approx(0.75)


def test_inter_subject_ceiling():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(400, 20))
    ids = {"stimulus_id": [f"s{i}" for i in range(400)]}
    people = [Recording(shared + rng.normal(size=shared.shape), ids) for _ in range(5)]
    ceiling = inter_subject_ceiling(people)
    # One person against the mean of four: r^2 = 1 / (2 * 1.25).
    assert ceiling.shape == (5, 20) and ceiling.mean() == pytest.approx(0.4, abs=0.03)
    shuffled = people[0].take(np.random.default_rng(2).permutation(400))
    np.testing.assert_allclose(inter_subject_ceiling([shuffled, *people[1:]]), ceiling, atol=1e-5)
    noise = [Recording(rng.normal(size=shared.shape), ids) for _ in range(5)]
    assert inter_subject_ceiling(noise).mean() < 0.02
    with pytest.raises(RepetitionError, match="at least two subjects"):
        inter_subject_ceiling(people[:1])
    with pytest.raises(MismatchedIdsError, match="subject 1 has other neuroids"):
        inter_subject_ceiling([people[0], people[1].take(neuroid=slice(0, 19))])
