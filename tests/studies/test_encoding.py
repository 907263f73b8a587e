"""Fitted encoders scored as a question: the null and the baselines see the responses that the score sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings import Recording
from studies.encoding import fit_encoder, make_encoder
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
