"""Fitted encoders scored as a question: the null and the baselines see the responses that the score sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings import Recording
from studies.encoding import fit_encoder, make_encoder, score_against_baselines, score_encoder, split_by_fit


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
