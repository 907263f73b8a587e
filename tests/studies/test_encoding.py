"""Fitted encoders scored as a question: the null and the baselines see the responses that the score sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from encoders import BandedRidgeEncoder, Ensemble, Features, RidgeEncoder, TransformerEncoder, load_encoder
from recordings import Recording
from recordings.errors import ArtifactError, InputError, RepetitionError, UnknownNameError
from studies.encoding import fit_encoder, make_encoder, predict_recording, select_features
from studies.evaluation import ceiling_of, score_against_baselines, score_encoder, split_by_fit


@pytest.fixture
def moving(rng: np.random.Generator) -> tuple[dict[str, Features], Recording]:
    """100 stimuli shown twice to neuroids that the features drive, under head motion thirty times as strong."""
    ids = [f"s{i:02d}" for i in range(100)]
    values, motion = rng.standard_normal((100, 5)), rng.standard_normal(200)
    responses = np.tile(values @ rng.standard_normal((5, 8)), (2, 1)) + 0.1 * rng.standard_normal((200, 8))
    responses += 60 * np.outer(motion, rng.standard_normal(8))
    recording = Recording(responses, {"stimulus_id": ids * 2, "motion": motion})
    return {"": Features.from_arrays(values, ids)}, recording


@pytest.mark.parametrize("metric", ["r", "r2"])
def test_null_and_baselines_are_rid_of_nuisance_like_the_score(
    moving: tuple[dict[str, Features], Recording], metric: str
) -> None:
    features, recording = moving
    how: dict[str, Any] = {"metric": metric, "nuisance": ("motion",)}
    seen = recording.where(stimulus_id=list(recording.stimulus_ids[:70]))
    encoder = fit_encoder(make_encoder("ridge"), features, seen, nuisance=("motion",))
    train, test = split_by_fit(encoder, recording)
    answer = score_encoder(encoder, features, test, **how)
    assert answer["center"] > 0.9
    assert answer["p_value"] == pytest.approx(1 / 101) and answer["shuffled"] < 0.1
    same = score_against_baselines(encoder, {"the same features": features[""]}, train, test, **how)
    assert same["the same features"]["center"] == pytest.approx(answer["center"])


def test_the_ceiling_is_of_the_responses_that_are_scored(rng: np.random.Generator) -> None:
    # One presentation has as much noise as signal, without what head motion adds.
    ids = [f"s{i:03d}" for i in range(300)]
    values, motion = rng.standard_normal((300, 4)), rng.standard_normal(900)
    signal = values @ np.eye(4)
    responses = np.tile(signal, (3, 1)) + rng.standard_normal((900, 4)) + 5 * motion[:, None]
    runs = np.repeat([0, 1, 2], 300)
    recording = Recording(responses, {"stimulus_id": ids * 3, "run": runs, "motion": motion})
    features = {"": Features.from_arrays(values, ids)}
    train, test = (recording.where(stimulus_id=part) for part in (ids[:200], ids[200:]))
    encoder = fit_encoder(make_encoder("ridge"), features, train, nuisance=("motion",))
    ceiling = ceiling_of(encoder, recording, test, ("motion",))
    assert ceiling == pytest.approx(0.75, abs=0.05)
    answer = score_encoder(encoder, features, test, ceiling=ceiling, nuisance=("motion",), shuffles=0)
    assert answer["center"] == pytest.approx(1, abs=0.05)
    still = Recording(responses - 5 * motion[:, None], {"stimulus_id": ids * 3, "run": runs})
    delayed = make_encoder("ridge", delays=(0,))
    delayed.group_by = "stimulus_id"
    fit_encoder(delayed, features, still.where(stimulus_id=ids[:200]))
    assert ceiling_of(delayed, still, still.where(stimulus_id=ids[200:])) == pytest.approx(0.5, abs=0.06)


IDS = [f"s{i:02d}" for i in range(60)]
TINY: dict[str, Any] = {"epochs": 1, "hidden": 8, "n_heads": 2, "feedforward": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def seen() -> tuple[dict[str, Features], Recording]:
    """60 pictures of 4 x 4 tokens in two layers, and responses of two regions to the mean token of the first."""
    rng = np.random.default_rng(0)
    layers = {
        name: Features.from_arrays(rng.standard_normal((60, 16, 8)), IDS, layer=name, grid=[4, 4], readout="tokens")
        for name in ("early", "late")
    }
    signal = 4 * layers["early"].read().mean(1) @ rng.standard_normal((8, 6))
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(6)], "roi": ["A"] * 2 + ["B"] * 4})
    responses = np.tile(signal, (2, 1)) + rng.standard_normal((120, 6))
    return layers, Recording(responses, {"stimulus_id": IDS * 2}, neuroids)


@pytest.mark.parametrize(
    ("model", "routing", "kind", "has"),
    [
        ("ridge", None, RidgeEncoder, {"pool": False, "cv": 5}),
        ("ridge", "pooled", RidgeEncoder, {"pool": True}),
        ("ridge", "flattened", RidgeEncoder, {"solver": "kernel"}),
        ("banded_ridge", None, BandedRidgeEncoder, {"seed": 3}),
        ("transformer", None, TransformerEncoder, {"routing": "roi", "seed": 3, "epochs": 15}),
        ("transformer", "gaussian", TransformerEncoder, {"routing": "gaussian"}),
    ],
)
def test_models_and_routings_by_name(model: str, routing: str | None, kind: type, has: dict[str, Any]) -> None:
    encoder = make_encoder(model, routing, seed=3, epochs=None, alphas=(), folds=None)
    assert type(encoder) is kind and has.items() <= vars(encoder).items()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("forest", {}, "no encoding model 'forest'"),
        ("ridge", {"routing": "rio"}, "no routing 'rio'"),
        ("ridge", {"routing": "roi"}, "--model transformer"),
        ("banded_ridge", {"routing": "pooled"}, "--model ridge"),
        ("transformer", {"routing": "pooled"}, "--model ridge"),
        ("ridge", {"epochs": 3}, "no option 'epochs'"),
        ("transformer", {"alphas": (1.0,)}, "no option 'alphas'"),
        ("transformer", {"folds": 3}, "no option 'folds'"),
    ],
)
def test_options_of_another_model_are_refused(model: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises((InputError, UnknownNameError), match=says):
        make_encoder(model, **options)


def test_each_kind_is_fitted_scored_and_read_back(seen: tuple[dict[str, Features], Recording], tmp_path: Path) -> None:
    layers, recording = seen
    train, rest = recording.where(stimulus_id=IDS[:36]), recording.where(stimulus_id=IDS[36:])
    members: dict[str, Any] = {
        "network": fit_encoder(make_encoder("transformer", **TINY), {"late": layers["late"]}, train),
        "ridge": fit_encoder(make_encoder("ridge", "pooled"), layers, train),
    }
    ensemble = Ensemble(members)
    ensemble.fit(select_features(ensemble, layers), rest.where(stimulus_id=IDS[36:46]))
    ensemble.save_pretrained(tmp_path / "ensemble")
    whole = load_encoder(tmp_path / "ensemble")
    _, test = split_by_fit(whole, recording)
    assert sorted(set(test.stimulus_ids)) == IDS[46:]
    answer = score_encoder(
        whole, layers, test, ceiling=ceiling_of(whole, recording, test), values=tmp_path / "s.npz", shuffles=10
    )
    assert answer["center"] > 0.8 > abs(answer["shuffled"]) + 0.3
    assert answer["roi_n"] == {"A": 2, "B": 4} and set(answer["roi_ceiling"]) == {"A", "B"}
    for roi, (low, high) in answer["roi_interval"].items():
        assert low < answer["roi"][roi] < high
    normalised = np.load(tmp_path / "s.npz")["normalised"]
    assert normalised.dtype == np.float32 and normalised.mean() == pytest.approx(answer["center"], abs=1e-5)
    same = whole.score(select_features(whole, layers), test, ceiling=ceiling_of(whole, recording, test))  # type: ignore
    assert answer["center"] == pytest.approx(same.center) and answer["low"] == pytest.approx(same.interval[0])

    written = predict_recording(whole, layers, tmp_path / "p.zarr")
    np.testing.assert_allclose(written.values, whole.predict(select_features(whole, layers)), atol=1e-6)
    beside = score_against_baselines(whole, {"late": layers["late"]}, train, test)
    assert beside["late"]["center"] < answer["center"]
    with pytest.raises(RepetitionError, match="nothing is held out"):
        split_by_fit([whole], recording.where(stimulus_id=IDS[:46]))


def test_features_are_found_by_what_they_are(seen: tuple[dict[str, Features], Recording]) -> None:
    layers, recording = seen
    encoder = make_encoder("ridge", "pooled").fit(layers["late"], recording)
    other = {"a": layers["early"], "b": layers["late"]}
    assert select_features(encoder, other) is layers["late"]
    both = make_encoder("ridge", "pooled").fit(layers, recording)
    assert select_features(both, other) == layers
    with pytest.raises(ArtifactError, match=r"none of the features \(a\) are those of the fit"):
        select_features(encoder, {"a": layers["early"]})
    with pytest.raises(UnknownNameError, match="several of the features"):
        select_features(encoder, {"a": layers["late"], "b": layers["late"]})


def test_what_a_model_does_not_take_is_refused(seen: tuple[dict[str, Features], Recording], tmp_path: Path) -> None:
    layers, recording = seen
    one = {"": layers["early"]}
    with pytest.raises(InputError, match="no nuisance regressors"):
        fit_encoder(make_encoder("transformer", **TINY), one, recording, nuisance=("run",))
    with pytest.raises(InputError, match="no checkpoints"):
        fit_encoder(make_encoder("ridge"), one, recording, checkpoints=tmp_path)
