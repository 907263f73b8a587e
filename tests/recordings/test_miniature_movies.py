from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders import Features, RidgeEncoder
from recordings import noise_ceiling, split_by_value
from recordings.errors import Cancelled, InputError
from recordings.miniature import Movie, Scenes, SimulatedBrain, clip, simulate_movie

KERNEL = np.array([0.0, 0.3, 1.0, 0.5, 0.0, -0.2])
TRS, FRAMES = 4, 2
HOW = {"trs_per_clip": TRS, "frames_per_tr": FRAMES, "kernel": KERNEL}


@pytest.fixture(scope="module")
def movie() -> Movie:
    return simulate_movie(Scenes.sample(30, seed=5), runs=3, repetitions=3, noise_ceiling=0.6, **HOW)


def test_one_presentation_a_tr_and_one_stimulus_a_segment(movie: Movie) -> None:
    recording, stimuli = movie.subject.recording, movie.subject.stimuli
    assert len(stimuli) == 30 * TRS and len(recording) == 3 * len(stimuli)
    assert stimuli.load(0).shape == (FRAMES, 64, 64, 3)
    assert recording.stimulus_ids[5] == "clip-5-000001_tr01"
    np.testing.assert_array_equal(np.unique(recording.presentation("run")), np.arange(9))
    np.testing.assert_array_equal(recording.presentation("onset")[: 10 * TRS], np.arange(10 * TRS))
    assert recording.presentation("onset")[10 * TRS] == 0
    second = recording.presentation("repetition") == 1
    np.testing.assert_array_equal(recording.stimulus_ids[second], stimuli.ids)


def test_segments_are_the_clip_cut_in_order(movie: Movie) -> None:
    shown = clip(Scenes.sample(30, seed=5), 7, TRS * FRAMES)
    segments = [movie.subject.stimuli.load(7 * TRS + number) for number in range(TRS)]
    np.testing.assert_array_equal(np.concatenate(segments), shown.frames)


def test_what_is_seen_is_told_without_the_occluder() -> None:
    shown = clip(Scenes.sample(3, seed=5), 1, 24)
    hidden = shown.occluded == 1
    assert hidden.any() and not shown.silhouette[hidden].any()
    assert shown.silhouette[shown.occluded < 1].any((1, 2)).all()


def test_fir_ridge_on_the_true_channels_recovers_the_kernel(movie: Movie) -> None:
    recording = movie.subject.recording.roi("vehicles")
    features = Features.from_arrays(movie.channels["vehicles"], movie.subject.stimuli.ids)
    encoder = RidgeEncoder(alphas=(1.0,), cv=3, delays=range(8), standardise=False, solver="primal")
    fitted = encoder.fit(features, recording).weights_.reshape(8, 6, -1)
    planted = SimulatedBrain.wire().weights["vehicles"]
    found = (fitted * planted).sum((1, 2)) / (planted**2).sum()
    np.testing.assert_allclose(found, np.pad(KERNEL, (0, 2)), atol=0.12)


def test_without_delays_the_lag_is_missed(movie: Movie) -> None:
    features = Features.from_arrays(movie.channels["V1"], movie.subject.stimuli.ids)
    recording = movie.subject.recording.roi("V1").where(repetition=0)
    train, test = split_by_value(recording, "run", [2]).apply(recording)
    r = {}
    for delays in (None, range(6)):
        encoder = RidgeEncoder(alphas=(300.0,), cv=2, delays=delays, group_by="run").fit(features, train)
        r[delays is None] = encoder.score(features, test).center
    assert r[False] > r[True] + 0.1


def test_the_signal_of_a_run_depends_on_its_own_clips_alone(movie: Movie) -> None:
    scenes = Scenes.sample(30, seed=5)
    others = simulate_movie(Scenes.sample(10, seed=6), runs=1, **HOW).signal
    np.testing.assert_allclose(
        simulate_movie(scenes[10:20], runs=1, **HOW).signal, movie.signal[10 * TRS : 20 * TRS], atol=1e-5
    )
    start = movie.drive[10 * TRS : 10 * TRS + 3]
    expected = start[2] * KERNEL[0] + start[1] * KERNEL[1] + start[0] * KERNEL[2]
    np.testing.assert_allclose(movie.signal[10 * TRS + 2], expected, atol=1e-5)
    assert np.abs(others - movie.signal[: 10 * TRS]).max() > 0.1


def test_the_planted_ceiling_is_the_one_that_repetitions_tell(movie: Movie) -> None:
    recording = movie.subject.recording
    planted, told = recording.neuroid("planted_noise_ceiling"), noise_ceiling(recording)
    np.testing.assert_allclose(planted, 0.6, atol=1e-6)
    assert abs(told.mean() - 0.6) < 0.02 and np.abs(told - planted).mean() < 0.06


def test_a_movie_is_the_same_every_time_and_noise_is_keyed_by_what_was_shown(movie: Movie) -> None:
    scenes = Scenes.sample(4, seed=5)
    first, again = (simulate_movie(scenes, runs=2, **HOW).subject for _ in range(2))
    np.testing.assert_array_equal(first.recording.values, again.recording.values)
    # The noise that is left when the signal is taken off has the same draws in a longer movie.
    rows = [list(movie.subject.recording.stimulus_ids).index(i) for i in first.recording.stimulus_ids]
    long = movie.subject.recording.values[rows] - movie.signal[: 4 * TRS]
    short = first.recording.values - simulate_movie(scenes, runs=2, **HOW).signal
    similarity = [np.corrcoef(long[:, k], short[:, k])[0, 1] for k in range(0, 1380, 97)]
    assert min(similarity) > 0.999


def test_hidden_objects_silence_category_patches_and_not_mtl() -> None:
    scenes = Scenes.sample(1, seed=7, categories=["car"])
    movie = simulate_movie(scenes, runs=1, trs_per_clip=24, frames_per_tr=1, kernel=[1.0])
    occluded = movie.subject.stimuli.table["occluded"].to_numpy()
    vehicles, mtl = movie.channels["vehicles"], movie.channels["MTL"]
    assert vehicles[occluded == 0, 0].min() > vehicles[occluded == 1, 0].max() + 1
    assert np.ptp(mtl, axis=0).max() < 1e-5


def test_the_default_kernel_peaks_between_four_and_seven_seconds() -> None:
    for tr in (1.0, 2.0):
        movie = simulate_movie(Scenes.sample(2), runs=1, trs_per_clip=1, frames_per_tr=1, tr=tr)
        assert 4 <= tr * movie.kernel.argmax() <= 7
        assert movie.subject.recording.attrs["tr"] == tr


def test_a_subject_of_a_movie_is_saved_and_loaded(tmp_path: Path) -> None:
    subject = simulate_movie(Scenes.sample(2), runs=1, trs_per_clip=2, frames_per_tr=3).subject
    loaded = subject.save(tmp_path / "subject")
    np.testing.assert_array_equal(loaded.stimuli.load(3), subject.stimuli.load(3))
    np.testing.assert_array_equal(loaded.recording.values, subject.recording.values)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_ceiling": 1.0}, {"runs": 3}, {"runs": 0}, {"repetitions": 0}, {"trs_per_clip": 0},
        {"frames_per_tr": 0}, {"tr": 0}, {"kernel": [[1.0]]}, {"kernel": [0.0, 0.0]}, {"kernel": [np.nan]},
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="simulate_movie"):
        simulate_movie(Scenes.sample(2), **({"runs": 1} | wrong))


def test_stop() -> None:
    with pytest.raises(Cancelled):
        simulate_movie(Scenes.sample(2), runs=1, stop=lambda: True)
