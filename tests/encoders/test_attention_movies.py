"""The transformer encoder on movies: haemodynamic lags, as a finite impulse response or as attention over delays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from encoders import FeatureExtractor, Features, extract
from encoders.attention.encoder import TransformerEncoder
from encoders.attention.targets import split_validation
from recordings import Recording, split_by_value
from recordings.errors import RepetitionError
from recordings.miniature import Scenes, simulate_movie

KERNEL = (0.0, 0.1, 0.4, 1.0, 0.4)
LAG, N_RUNS, LENGTH, GRID, CHANNELS, N_CONTENT = 2, 8, 50, (2, 3, 3), 24, 3
SMALL: dict[str, Any] = {
    "hidden": 24, "n_heads": 2, "feedforward": 0, "dropout": 0.0, "epochs": 10, "batch_size": 16, "learning_rate": 1e-2,
    "clip": 1.0, "validation": 0.2, "device": "cpu",
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def planted(rng: np.random.Generator) -> tuple[Features, Recording]:
    """Two regions that read a place of the clip that was shown two TRs before, and nothing before the run began."""
    n = N_RUNS * LENGTH
    tokens = np.zeros((n, *GRID, CHANNELS), np.float32)
    tokens[..., :N_CONTENT] = rng.normal(size=(n, *GRID, N_CONTENT))
    places = tokens[:, :, 0, 0].mean(1), tokens[:, :, 2, 1].mean(1)
    drive = np.concatenate([place @ rng.normal(size=(CHANNELS, 3)) for place in places], 1)
    runs = np.repeat(np.arange(N_RUNS), LENGTH)
    answer = np.zeros_like(drive)
    for run in range(N_RUNS):
        rows = np.flatnonzero(runs == run)
        answer[rows[LAG:]] = drive[rows[:-LAG]]
    noise = 0.3 * drive.std(0) * rng.normal(size=drive.shape)
    ids = [f"run{run}_tr{number:02d}" for run in range(N_RUNS) for number in range(LENGTH)]
    features = Features.from_arrays(tokens.reshape(n, -1, CHANNELS), ids, grid=list(GRID))
    regions = {"roi": ["first"] * 3 + ["second"] * 3}
    return features, Recording(answer + noise, {"stimulus_id": ids, "run": runs}, regions)


def held_out_runs(recording: Recording) -> tuple[Recording, Recording]:
    return split_by_value(recording, "run", [6, 7]).apply(recording)


def weight_by_delay(encoder: TransformerEncoder) -> np.ndarray:
    """Norm of the finite impulse response's weights, (delay,)."""
    weight = encoder.module_.readout.weight.detach().numpy()
    return np.linalg.norm(weight.reshape(len(weight), len(encoder.delays or ()), -1), axis=(0, 2))


@pytest.mark.parametrize("haemodynamics", ["fir", "query"])
def test_the_planted_lag_is_found(rng: np.random.Generator, haemodynamics: Literal["fir", "query"]) -> None:
    features, recording = planted(rng)
    train, test = held_out_runs(recording)
    delays = [1, 2, 3]
    encoder = TransformerEncoder(delays=delays, haemodynamics=haemodynamics, **SMALL).fit(features, train)
    still = TransformerEncoder(**SMALL | {"validation": 0.1}).fit(features, train)
    r, r_still = encoder.score(features, test).center, still.score(features, test).center
    assert r > r_still + 0.3
    maps = encoder.attention(features, list(test.stimulus_ids), runs=test.presentation("run")).weights
    if haemodynamics == "fir":
        assert maps.shape == (len(test), 2, *GRID)
        # Each moment's map is of what it shows itself, whatever came before.
        backwards = encoder.attention(features, list(test.stimulus_ids)[::-1]).weights
        np.testing.assert_allclose(backwards[::-1], maps, atol=1e-6)
        assert delays[int(weight_by_delay(encoder).argmax())] == LAG
    else:
        by_delay = maps.reshape(len(test), 2, len(delays), -1).sum(-1)
        assert delays[int(by_delay.mean((0, 1)).argmax())] == LAG


@pytest.mark.parametrize("fold_keys", [False, True])
def test_queries_over_delays_do_without_what_was_before_the_run(rng: np.random.Generator, fold_keys: bool) -> None:
    features, recording = planted(rng)
    train, test = held_out_runs(recording)
    encoder = TransformerEncoder(
        delays=[1, 2, 3], haemodynamics="query", fold_keys=fold_keys, **SMALL | {"epochs": 1}
    ).fit(features, train)
    ids, runs = list(test.stimulus_ids), test.presentation("run")
    maps = encoder.attention(features, ids, runs=runs).weights
    np.testing.assert_allclose(maps.reshape(len(ids), 2, -1).sum(-1), 1, atol=1e-5)
    by_delay = maps.reshape(len(ids), 2, 3, -1).sum(-1)
    assert by_delay[LENGTH + 1, :, 0] == pytest.approx(1), "the second TR of a run has seen the first one only"

    predicted = encoder.predict(features, ids, runs=runs)
    # The second run alone: what the first one showed has no part in it.
    alone = encoder.predict(features, ids[LENGTH:])
    np.testing.assert_allclose(alone, predicted[LENGTH:], atol=1e-5)
    assert np.isfinite(predicted).all()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Features, Recording]:
    """300 TRs of clips, as video tokens of the miniature backbone, and what V1 and a patch answered."""
    movie = simulate_movie(
        Scenes.sample(100, seed=3), runs=10, trs_per_clip=3, frames_per_tr=2, kernel=KERNEL, noise_ceiling=0.8
    )
    extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")
    store = tmp_path_factory.mktemp("movie") / "tokens.zarr"
    tokens = extract(extractor, movie.subject.stimuli, store, readout="tokens", n_frames=2)
    return tokens[extractor.default_layer], movie.subject.recording.roi("V1", "furniture")


VIDEO: dict[str, Any] = {
    "hidden": 48, "n_heads": 4, "feedforward": 0, "epochs": 20, "batch_size": 16, "learning_rate": 3e-3, "clip": 1.0,
    "validation": 0.15, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def r_without_delays(watched: tuple[Features, Recording]) -> np.ndarray:
    features, recording = watched
    train, test = split_by_value(recording, "run", [8, 9]).apply(recording)
    return TransformerEncoder(**VIDEO).fit(features, train).score(features, test).values


@pytest.mark.slow
@pytest.mark.parametrize("haemodynamics", ["fir", "query"])
def test_lags_of_a_movie_are_found(
    watched: tuple[Features, Recording],
    r_without_delays: np.ndarray,
    haemodynamics: Literal["fir", "query"],
    tmp_path: Path,
) -> None:
    features, recording = watched
    train, test = split_by_value(recording, "run", [8, 9]).apply(recording)
    delays, runs, ids = [1, 2, 3, 4], test.presentation("run"), list(test.stimulus_ids)
    encoder = TransformerEncoder(delays=delays, haemodynamics=haemodynamics, **VIDEO).fit(features, train)
    v1 = test.roi_mask("V1")
    assert encoder.score(features, test).values[v1].mean() > r_without_delays[v1].mean() + 0.3

    planted = int(np.argmax(KERNEL))
    if haemodynamics == "fir":
        assert delays[int(weight_by_delay(encoder).argmax())] == planted
    else:
        maps = encoder.attention(features, ids, runs=runs).weights
        assert delays[int(maps.reshape(len(ids), maps.shape[1], 4, -1).sum(-1).mean((0, 1)).argmax())] == planted
    encoder.save_pretrained(tmp_path / "model")
    loaded = TransformerEncoder.from_pretrained(str(tmp_path / "model"))
    np.testing.assert_allclose(
        loaded.predict(features, ids, runs=runs), encoder.predict(features, ids, runs=runs), atol=1e-6
    )


@pytest.mark.slow
def test_shuffled_moments_are_not_predicted(watched: tuple[Features, Recording], rng: np.random.Generator) -> None:
    features, recording = watched
    # Whole runs would not do: every clip begins at a wall, so that runs have their course in common.
    values = recording.values[rng.permutation(len(recording))]
    shuffled = Recording(values, recording.presentations, recording.neuroids, space=recording.space)
    train, test = split_by_value(shuffled, "run", [8, 9]).apply(shuffled)
    encoder = TransformerEncoder(delays=[1, 2, 3, 4], **VIDEO | {"epochs": 5}).fit(features, train)
    assert abs(encoder.score(features, test).values.mean()) < 0.05


def test_repetitions_of_a_movie_choose_the_epoch_together(rng: np.random.Generator) -> None:
    _, recording = planted(rng)
    twice = np.concatenate([np.arange(len(recording))] * 2)
    shown = {"stimulus_id": recording.stimulus_ids[twice], "run": np.repeat(np.arange(2 * N_RUNS), LENGTH)}
    repeated = Recording(recording.values[twice], shown, recording.neuroids)
    training, chosen = split_validation(repeated, None, 0.2, by_run=True, seed=0)
    assert not set(training.stimulus_ids) & set(chosen.stimulus_ids)
    assert len(chosen) == 2 * LENGTH * round(0.2 * N_RUNS)
    one = repeated.take(np.flatnonzero(np.isin(repeated.presentation("run"), [0, N_RUNS])))
    with pytest.raises(RepetitionError, match="show the same stimuli"):
        split_validation(one, None, 0.2, by_run=True, seed=0)
