"""RidgeEncoder: from features and a recording to predictions, scores and a folder, matched by stimulus id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders import Features, RidgeEncoder
from recordings import Recording, split_by_stimulus
from recordings.errors import (
    ArtifactError,
    Cancelled,
    InputError,
    LeakageError,
    MismatchedIdsError,
    NotFiniteError,
    RepetitionError,
    ShapeError,
)

pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")
CEILING = 0.7


def simulate(
    rng: np.random.Generator, n: int = 300, p: int = 20, t: int = 40, repetitions: int = 1
) -> tuple[Features, Recording, np.ndarray]:
    """Features of odd units and offsets, shuffled against a recording that they drive up to the noise ceiling."""
    ids = [f"s{i:04d}" for i in range(n)]
    X = (rng.standard_normal((n, p)) * np.logspace(-2, 2, p) + 3).astype(np.float32)
    W = rng.standard_normal((p, t)) / np.logspace(-2, 2, p)[:, None]
    signal = X @ W
    signal = signal / signal.std(0)
    noise_sd = np.sqrt((1 - CEILING) / CEILING * repetitions)
    shown = np.concatenate([rng.permutation(n) for _ in range(repetitions)])
    values = signal[shown] + noise_sd * rng.standard_normal((len(shown), t)) + 100
    order = rng.permutation(n)
    features = Features.from_arrays(X[order], [ids[i] for i in order], uri="planted", layer="scene")
    neuroids = {"neuroid_id": [f"v{i}" for i in range(t)], "noise_ceiling": np.full(t, CEILING, np.float32)}
    return features, Recording(values, {"stimulus_id": [ids[i] for i in shown]}, neuroids), W / (X @ W).std(0)


def test_reaches_the_planted_ceiling(rng: np.random.Generator) -> None:
    features, recording, W = simulate(rng, repetitions=2)
    train, test = split_by_stimulus(recording, 0.3).apply(recording)
    encoder = RidgeEncoder().fit(features, train)
    score = encoder.score(features, test)
    assert 0.95 < score.center < 1.05
    assert score.interval is not None
    assert score.interval[0] < score.center < score.interval[1]
    assert encoder.score(features, test, metric="r2").center == pytest.approx(score.center**2, abs=0.06)
    coefficients = encoder.coefficients()
    for i in range(40):
        assert np.corrcoef(coefficients[:, i] * np.logspace(-2, 2, 20), W[:, i] * np.logspace(-2, 2, 20))[0, 1] > 0.95


def test_shuffled_stimuli_score_nothing(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng)
    train, test = split_by_stimulus(recording, 0.3).apply(recording)
    means = []
    for _ in range(20):
        shuffled = Recording(train.values[rng.permutation(len(train))], train.presentations, train.neuroids)
        means.append(
            RidgeEncoder(alphas=(10.0, 1000.0)).fit(features, shuffled).score(features, test, n_bootstrap=0).center
        )
    assert abs(np.mean(means)) < max(3 * np.std(means) / np.sqrt(20), 0.02)


def test_kernel_form_is_chosen_and_equals_the_primal(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=60, p=200)
    train, test = split_by_stimulus(recording, 0.3).apply(recording)
    kernel, primal = RidgeEncoder().fit(features, train), RidgeEncoder(solver="primal").fit(features, train)
    assert kernel.solver_ == "kernel"
    ids = test.stimulus_ids
    np.testing.assert_allclose(kernel.predict(features, ids), primal.predict(features, ids), atol=2e-3)
    np.testing.assert_allclose(kernel.coefficients(slice(3, 9)), primal.coefficients()[:, 3:9], atol=1e-2)
    np.testing.assert_array_equal(kernel.alphas_, primal.alphas_)


@pytest.mark.parametrize("p", [20, 200])
def test_saved_and_loaded_predicts_the_same(rng: np.random.Generator, tmp_path: Path, p: int) -> None:
    features, recording, _ = simulate(rng, n=80, p=p)
    encoder = RidgeEncoder(cv=4, scoring="r").fit(features, recording)
    encoder.save_pretrained(tmp_path / "model")
    loaded = RidgeEncoder.from_pretrained(tmp_path / "model")
    assert loaded._parameters() == encoder._parameters()
    assert loaded.solver_ == ("primal" if p < 80 else "kernel")
    np.testing.assert_array_equal(loaded.predict(features), encoder.predict(features))
    assert "80 stimuli" in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises(LeakageError):
        loaded.score(features, recording)
    refit = loaded.fit(features, recording)
    np.testing.assert_array_equal(refit.weights_, encoder.weights_)


def test_a_saved_encoder_tells_how_its_features_are_made(rng: np.random.Generator, tmp_path: Path) -> None:
    values, ids = rng.normal(size=(30, 4)), [str(i) for i in range(30)]
    features = Features.from_arrays(values, ids, uri="miniature:backbone", layer="blocks.1", readout="pooled")
    recording = Recording(rng.normal(size=(30, 2)), {"stimulus_id": ids})
    RidgeEncoder(cv=3).fit(features, recording).save_pretrained(tmp_path / "ridge")
    (source,) = RidgeEncoder.from_pretrained(tmp_path / "ridge")._sources()
    made = {name: source["space"][name] for name in ("uri", "layer", "readout")}
    assert made == {"uri": "miniature:backbone", "layer": "blocks.1", "readout": "pooled"}


def test_lazy_recording_and_weights_on_disk(rng: np.random.Generator, tmp_path: Path) -> None:
    features, recording, _ = simulate(rng)
    plain = RidgeEncoder().fit(features, recording)
    lazy = recording.save(tmp_path / "recording.zarr")
    encoder = RidgeEncoder().fit(features, lazy, weights_path=tmp_path / "weights.npy")
    assert isinstance(encoder.weights_, np.memmap)
    np.testing.assert_allclose(encoder.weights_, plain.weights_, atol=1e-6)
    np.testing.assert_array_equal(np.load(tmp_path / "weights.npy"), encoder.weights_)
    encoder.save_pretrained(tmp_path / "model")
    loaded = RidgeEncoder.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(features), plain.predict(features), atol=1e-4)


def test_a_cancelled_fit_leaves_no_file(rng: np.random.Generator, tmp_path: Path) -> None:
    features, recording, _ = simulate(rng, n=50)
    with pytest.raises(Cancelled):
        RidgeEncoder().fit(features, recording, weights_path=tmp_path / "weights.npy", stop=lambda: True)
    assert not list(tmp_path.iterdir())


def test_prediction_in_blocks(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    features, recording, _ = simulate(rng, n=60, p=30)
    encoder = RidgeEncoder().fit(features, recording)
    whole = encoder.predict(features)
    monkeypatch.setattr("encoders.linear._PREDICT_BYTES", 1)
    np.testing.assert_allclose(encoder.predict(features), whole, rtol=1e-6)


def test_order_of_rows_does_not_matter(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=60)
    encoder = RidgeEncoder().fit(features, recording)
    ids = list(recording.stimulus_ids[[5, 2, 5]])
    rows = features.rows(ids)
    np.testing.assert_allclose(encoder.predict(features, ids), encoder.predict(features)[rows], rtol=1e-6)


def test_tokens_are_laid_side_by_side(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=100)
    flat = features.read()
    tokens = Features.from_arrays(flat.reshape(100, 4, 5), features.stimulus_ids)
    np.testing.assert_allclose(
        RidgeEncoder().fit(tokens, recording).predict(tokens),
        RidgeEncoder().fit(features, recording).predict(features),
    )


def test_leakage_is_refused(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=40, repetitions=2)
    train, test = recording.take(slice(0, 40)), recording.take(slice(30, 80))
    encoder = RidgeEncoder().fit(features, train)
    with pytest.raises(LeakageError, match="s00"):
        encoder.score(features, test)
    by_presentation = [(np.arange(40), np.arange(40, 80))]
    with pytest.raises(LeakageError, match="s00"):
        RidgeEncoder(cv=by_presentation).fit(features, recording)


def test_refusals(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=40)
    encoder = RidgeEncoder()
    with pytest.raises(InputError, match="not fitted"):
        encoder.predict(features)
    encoder.fit(features, recording.take(slice(0, 30)))
    other = Features.from_arrays(features.read()[:, :19], features.stimulus_ids, uri="planted", layer="scene")
    with pytest.raises(ArtifactError, match="not those of the fit"):
        encoder.predict(other)
    with pytest.raises(ArtifactError, match="neuroids"):
        encoder.score(features, recording.take(slice(30, 40), slice(0, 5)))
    with pytest.raises(MismatchedIdsError, match="nowhere"):
        encoder.predict(features, ["nowhere"])
    with pytest.raises(MismatchedIdsError):
        encoder.fit(features.select(list(features.stimulus_ids[:5])), recording)
    with pytest.raises(RepetitionError):
        encoder.fit(features, recording.take([0]))
    timed = Recording(np.zeros((40, 2, 3)), recording.presentations, time=[0.0, 0.1])
    with pytest.raises(ShapeError, match="time"):
        encoder.fit(features, timed)
    bad = recording.values.copy()
    bad[3, 7] = np.nan
    with pytest.raises(NotFiniteError, match="v7"):
        encoder.fit(features, Recording(bad, recording.presentations, recording.neuroids))


def time_series(rng: np.random.Generator) -> tuple[Features, Recording, np.ndarray, np.ndarray]:
    """Six runs of 80 volumes in two sessions: a delayed response to two features, and a drift of no interest."""
    response = np.array([0.0, 1.0, 0.5])
    run = np.repeat(np.arange(6), 80)
    X = rng.standard_normal((480, 2)).astype(np.float32)
    drift = np.tile(np.linspace(-1, 1, 80), 6)[:, None]
    Y = np.zeros((480, 2))
    for r in range(6):
        for d, weight in enumerate(response):
            rows = np.flatnonzero(run == r)
            Y[rows[d:]] += weight * X[rows[: len(rows) - d]]
    Y += 0.5 * rng.standard_normal(Y.shape) + 4 * drift
    ids = [f"t{i:04d}" for i in range(480)]
    table = {"stimulus_id": ids, "run": run % 3, "session": run // 3}
    return Features.from_arrays(X, ids), Recording(Y, table), drift, response


def test_delays_and_nuisance_in_a_time_series(rng: np.random.Generator) -> None:
    features, recording, drift, response = time_series(rng)
    train, test = np.arange(400), np.arange(400, 480)
    encoder = RidgeEncoder(delays=(0, 1, 2), cv=5).fit(features, recording.take(train), nuisance=drift[train])
    coefficients = encoder.coefficients().reshape(3, 2, 2)
    for unit in range(2):
        np.testing.assert_allclose(coefficients[:, unit, unit], response, atol=0.1)
    score = encoder.score(features, recording.take(test), nuisance=drift[test], n_bootstrap=0)
    assert score.values.min() > 0.85
    without = RidgeEncoder(cv=5, group_by="run").fit(features, recording.take(train))
    assert without.score(features, recording.take(test), n_bootstrap=0).values.max() < 0.3
    with pytest.raises(InputError, match="nuisance"):
        encoder.score(features, recording.take(test))
    with pytest.raises(ShapeError, match="nuisance"):
        encoder.score(features, recording.take(test), nuisance=drift)


def test_folds_keep_runs_of_a_session_together(rng: np.random.Generator) -> None:
    features, recording, _, _ = time_series(rng)
    with pytest.raises(InputError, match="7 folds asked of 6 groups"):
        RidgeEncoder(delays=(1,), cv=7).fit(features, recording)
    with pytest.raises(InputError, match="3 folds asked of 2 groups"):
        RidgeEncoder(cv=3, group_by="session").fit(features, recording)


def test_group_by_must_not_split_a_stimulus(rng: np.random.Generator) -> None:
    features, recording, _ = simulate(rng, n=30, repetitions=2)
    table = recording.presentations.assign(run=np.repeat([0, 1], 30))
    with pytest.raises(LeakageError, match="s00"):
        RidgeEncoder(cv=2, group_by="run").fit(features, Recording(recording.values, table, recording.neuroids))
