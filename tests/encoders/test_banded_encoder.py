"""BandedRidgeEncoder: planted bands, the split of variance between them, and artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders import BandedRidgeEncoder, Features, RidgeEncoder
from recordings import Recording
from recordings.errors import ArtifactError, LeakageError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")
GROUPS = {"low": slice(0, 10), "high": slice(10, 20), "both": slice(20, 30), "none": slice(30, 40)}


def simulate(rng: np.random.Generator, n: int, p: int) -> tuple[dict[str, Features], Recording]:
    """A narrow band of large units and a wide one; ten neuroids driven by each, by both, by neither; R2 about .5."""
    ids = [f"s{i}" for i in range(n)]
    values = {"low": 50 * rng.standard_normal((n, p)) + 7, "high": rng.standard_normal((n, 3 * p))}
    drive = {name: X @ rng.standard_normal((X.shape[1], 40)) for name, X in values.items()}
    drive = {name: d / d.std(0) for name, d in drive.items()}
    signal = np.zeros((n, 40))
    signal[:, GROUPS["low"]] = drive["low"][:, :10]
    signal[:, GROUPS["high"]] = drive["high"][:, 10:20]
    signal[:, GROUPS["both"]] = (drive["low"] + drive["high"])[:, 20:30] / np.sqrt(2)
    features = {name: Features.from_arrays(X, ids, uri="planted", layer=name) for name, X in values.items()}
    return features, Recording(signal + rng.standard_normal(signal.shape) + 5, {"stimulus_id": ids})


@pytest.mark.parametrize("p", [8, 150])
def test_splits_the_variance_as_planted(rng: np.random.Generator, p: int) -> None:
    features, recording = simulate(rng, 800, p)
    train, test = recording.take(slice(0, 400)), recording.take(slice(400, 800))
    encoder = BandedRidgeEncoder(n_draws=12).fit(features, train)
    assert encoder.solver_ == ("primal" if p == 8 else "kernel")
    assert encoder.gammas_[0, GROUPS["low"]].min() > 0.7
    assert encoder.gammas_[1, GROUPS["high"]].min() > 0.7
    split = encoder.variance_split(features, test)
    assert abs(split["high"][GROUPS["low"]]).mean() < 0.03
    assert abs(split["low"][GROUPS["high"]]).mean() < 0.03
    if p == 8:
        assert split["low"][GROUPS["low"]].mean() == pytest.approx(0.5, abs=0.06)
        for share in split.values():
            assert share[GROUPS["both"]].mean() == pytest.approx(0.25, abs=0.06)
    assert abs(split["low"] + split["high"])[GROUPS["none"]].max() < 0.1


def test_variance_split_agrees_with_himalaya(rng: np.random.Generator) -> None:
    from himalaya.backend import set_backend
    from himalaya.scoring import r2_score_split

    set_backend("numpy")
    features, recording = simulate(rng, 200, 6)
    train, test = recording.take(slice(0, 120)), recording.take(slice(120, 200))
    encoder = BandedRidgeEncoder(n_draws=5).fit(features, train)
    parts = np.stack([encoder.predict(features, test.stimulus_ids, band=band) for band in features])
    observed = test.values.astype(np.float64)
    peer = r2_score_split(observed - observed.mean(0), parts - parts.mean(1, keepdims=True))
    np.testing.assert_allclose(np.stack(list(encoder.variance_split(features, test).values())), peer, atol=1e-4)


@pytest.mark.parametrize("p", [8, 60])
def test_parts_add_up_and_survive_a_folder(rng: np.random.Generator, tmp_path: Path, p: int) -> None:
    features, recording = simulate(rng, 120, p)
    encoder = BandedRidgeEncoder(n_draws=5, seed=3).fit(features, recording)
    parts = [encoder.predict(features, band=band) for band in features]
    np.testing.assert_allclose(sum(parts) + encoder.intercept_, encoder.predict(features), atol=1e-3)
    raw = np.hstack([space.read() for space in features.values()])
    linear = raw @ encoder.coefficients()
    np.testing.assert_allclose(linear - linear.mean(0), sum(parts) - sum(parts).mean(0), atol=1e-2)
    encoder.save_pretrained(tmp_path / "model")
    loaded = BandedRidgeEncoder.from_pretrained(tmp_path / "model")
    assert loaded._parameters() == encoder._parameters()
    np.testing.assert_array_equal(loaded.predict(features), encoder.predict(features))
    np.testing.assert_array_equal(loaded.predict(features, band="high"), parts[1])


def test_bands_beat_one_penalty_where_one_band_is_noise(rng: np.random.Generator) -> None:
    features, recording = simulate(rng, 400, 60)
    train, test = recording.take(slice(0, 200)), recording.take(slice(200, 400))
    banded = BandedRidgeEncoder(n_draws=12).fit(features, train).score(features, test, n_bootstrap=0)
    ridge = RidgeEncoder().fit(features, train).score(features, test, n_bootstrap=0)
    assert banded.values[GROUPS["low"]].mean() > ridge.values[GROUPS["low"]].mean() + 0.05


def test_refusals(rng: np.random.Generator) -> None:
    features, recording = simulate(rng, 60, 5)
    encoder = BandedRidgeEncoder(n_draws=3).fit(features, recording)
    with pytest.raises(ArtifactError, match="low"):
        encoder.predict({"low": features["low"]})
    with pytest.raises(ArtifactError, match="not those of the fit"):
        encoder.predict({"low": features["high"], "high": features["low"]})
    with pytest.raises(UnknownNameError, match="middle"):
        encoder.predict(features, band="middle")
    with pytest.raises(LeakageError):
        encoder.variance_split(features, recording)
