"""Identification and retrieval: exact counts, chance, both directions of two-way, ties and confidence."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from decoders import fit_temperature, identify, identify_patterns, retrieve
from decoders.confidence import calibration_error, posterior
from decoders.identification import identify_by_similarity
from decoders.similarity import correlations
from recordings import Recording
from recordings.errors import (
    ConstantUnitError,
    InputError,
    MismatchedIdsError,
    NotFiniteError,
    RepetitionError,
    ShapeError,
)

IDS = list("abcdefgh")


def test_correlations_agree_with_numpy(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rng.normal(3, 1, (5, 7)), rng.normal(3, 1, (11, 7))
    expected = np.corrcoef(a, b)[:5, 5:]
    assert np.allclose(correlations(a, b), expected, atol=1e-6)
    monkeypatch.setattr("decoders.similarity._BLOCK_BYTES", 8 * 7 * 2)
    assert np.allclose(correlations(a, b), expected, atol=1e-6)
    mean, scale = b.mean(0), b.std(0)
    assert np.allclose(
        correlations(a, b, mean=mean, scale=scale),
        np.corrcoef((a - mean) / scale, (b - mean) / scale)[:5, 5:],
        atol=1e-6,
    )


def test_n_way_is_the_mean_over_all_draws() -> None:
    # The right candidate beats b of 7 others, so that it wins C(b, 2) / C(7, 2) of the three-way draws.
    similarity = np.tile(np.arange(8.0), (8, 1))
    found = identify_by_similarity(similarity, IDS, IDS, n_way=3, n_permutations=10, n_bootstrap=10)
    assert found.correct == pytest.approx([comb(b, 2) / comb(7, 2) for b in range(8)])
    assert found.rank.tolist() == [8, 7, 6, 5, 4, 3, 2, 1]
    assert found.chance == pytest.approx(1 / 3) == pytest.approx(found.accuracy)


def test_two_way_names_both_directions() -> None:
    # Row a loves every candidate equally less than b does: asymmetric, so that the directions differ.
    similarity = np.array([[0.5, 0.6, 0.7], [0.1, 0.3, 0.2], [0.0, 0.1, 0.4]])
    found = identify_by_similarity(similarity, ["a", "b", "c"], ["a", "b", "c"], n_permutations=10, n_bootstrap=10)
    assert found.two_way_candidates == pytest.approx((0 + 2 + 2) / 6)
    assert found.two_way_rows == pytest.approx((2 + 1 + 1) / 6)


def test_two_way_agrees_with_a_loop(rng: np.random.Generator) -> None:
    s = rng.normal(size=(8, 8))
    found = identify_by_similarity(s, IDS, IDS, n_permutations=10, n_bootstrap=10)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    assert found.two_way_candidates == pytest.approx(np.mean([s[i, i] > s[i, j] for i, j in pairs]))
    assert found.two_way_rows == pytest.approx(np.mean([s[i, i] > s[j, i] for i, j in pairs]))


def test_ties_are_counted_and_worth_half() -> None:
    found = identify_by_similarity(np.ones((8, 8)), IDS, IDS, n_permutations=10, n_bootstrap=10)
    assert found.n_tied == 8
    assert found.two_way_candidates == found.two_way_rows == 0.5


def test_noise_is_at_chance(rng: np.random.Generator) -> None:
    accuracy, p_values = [], []
    ids = [str(i) for i in range(50)]
    for seed in range(40):
        found = identify(
            rng.normal(size=(50, 10)), ids, rng.normal(size=(50, 10)), candidate_ids=ids, seed=seed, n_bootstrap=10
        )
        accuracy.append(found.accuracy)
        p_values.append(found.null.p_value)
        assert abs(found.null.mean - 0.02) < 0.003
    assert abs(np.mean(accuracy) - 0.02) < 3 * 0.02 / np.sqrt(40)
    assert 0.3 < np.mean(p_values) <= 1
    assert np.mean(np.array(p_values) <= 0.05) < 0.2


def test_rows_of_one_stimulus_are_shuffled_together(rng: np.random.Generator) -> None:
    # One lucky stimulus shown 30 times is one piece of luck, not thirty.
    similarity = rng.normal(size=(34, 5))
    shown = ["a"] * 30 + ["b", "c", "d", "e"]
    similarity[:30, 0] += 10
    found = identify_by_similarity(similarity, shown, list("abcde"))
    assert found.accuracy > 0.8 and found.null.p_value > 0.1


def test_more_candidates_than_shown(rng: np.random.Generator) -> None:
    values = rng.normal(size=(8, 30))
    found = identify(values[:3] + 0.1, ["a", "b", "c"], values, candidate_ids=IDS)
    assert found.accuracy == 1 and found.chance == 1 / 8 and list(found.answers) == ["a", "b", "c"]


def test_confidence_of_identification_is_calibrated(rng: np.random.Generator) -> None:
    truth = rng.normal(size=(300, 12))
    ids = [str(i) for i in range(300)]
    found = identify(truth + 0.9 * rng.normal(size=truth.shape), ids, truth, candidate_ids=ids, n_permutations=10)
    correct = found.shown == found.answers
    assert 0.2 < correct.mean() < 0.95
    assert abs(found.confidence.mean() - correct.mean()) < 0.08
    assert calibration_error(found.confidence, correct, 5) < 0.12


def test_temperature_recovers_the_planted_one(rng: np.random.Generator) -> None:
    similarity = rng.normal(size=(4000, 6))
    truth = np.array([rng.choice(6, p=p) for p in posterior(similarity, 0.5)])
    assert fit_temperature([similarity[:2000], similarity[2000:]], [truth[:2000], truth[2000:]]) == pytest.approx(
        0.5, rel=0.1
    )
    with pytest.raises(RepetitionError):
        fit_temperature([np.empty((0, 6))], [np.empty(0, int)])
    with pytest.raises(ShapeError):
        fit_temperature([similarity], [truth[:5]])


def test_calibration_error_sees_overconfidence() -> None:
    correct = np.arange(1000) % 2 == 0
    assert calibration_error(np.full(1000, 0.5), correct) < 0.02
    assert calibration_error(np.full(1000, 0.9), correct) == pytest.approx(0.4, abs=0.02)


def test_retrieve_orders_the_gallery(rng: np.random.Generator) -> None:
    gallery = rng.normal(size=(8, 20))
    found = retrieve(gallery[[5, 2]], gallery, 8, temperature=0.1, gallery_ids=IDS)
    assert list(found.stimulus_ids[:, 0]) == ["f", "c"]
    assert np.allclose(found.confidence.sum(1), 1)
    order = np.argsort(-np.corrcoef(gallery)[5])
    assert list(found.stimulus_ids[0]) == [IDS[i] for i in order]
    assert found.hits(["f", "zzz"]).tolist() == [True, False] and found.chance == 1


def test_bad_input(rng: np.random.Generator) -> None:
    values = rng.normal(size=(8, 5))
    with pytest.raises(MismatchedIdsError, match="'x'"):
        identify(values, [*IDS[:7], "x"], values, candidate_ids=IDS)
    with pytest.raises(MismatchedIdsError, match="candidate_ids"):
        identify(values, IDS, values)
    with pytest.raises(MismatchedIdsError, match="twice"):
        identify(values, IDS, values, candidate_ids=[*IDS[:7], "a"])
    with pytest.raises(InputError, match="9-way"):
        identify(values, IDS, values, candidate_ids=IDS, n_way=9)
    with pytest.raises(RepetitionError):
        identify(values[:2], ["a", "a"], values, candidate_ids=IDS)
    with pytest.raises(ShapeError, match="5 features"):
        identify(values[:, :4], IDS, values, candidate_ids=IDS)
    with pytest.raises(InputError, match="gallery of 8"):
        retrieve(values, values, 9, temperature=1, gallery_ids=IDS)
    constant = values.copy()
    constant[4] = 3
    with pytest.raises(ConstantUnitError, match="decoded row 4"):
        identify(constant, IDS, values, candidate_ids=IDS)
    constant[4, 0] = np.inf
    with pytest.raises(NotFiniteError, match="candidate 4"):
        identify(values, IDS, constant, candidate_ids=IDS)


def _patterns(rng: np.random.Generator, signal: float, repetitions: int = 4) -> Recording:
    mean = signal * rng.normal(size=(20, 30))
    values = np.concatenate([mean + rng.normal(size=mean.shape) + 50 for _ in range(repetitions)])
    return Recording(values, {"stimulus_id": [f"s{i}" for i in range(20)] * repetitions})


def test_patterns_with_and_without_signal(rng: np.random.Generator) -> None:
    found = identify_patterns(_patterns(rng, 1.5), n_permutations=200)
    assert found.accuracy > 0.9 and found.null.p_value < 0.01 and len(found.shown) == 80
    accuracy = [identify_patterns(_patterns(rng, 0), n_permutations=10, n_bootstrap=10).accuracy for _ in range(20)]
    assert abs(np.mean(accuracy) - 0.05) < 0.015


def test_patterns_bad_input(rng: np.random.Generator) -> None:
    recording = _patterns(rng, 1)
    with pytest.raises(RepetitionError, match="'s0' was shown once"):
        identify_patterns(recording.take(np.r_[0, 1:20, 21:40]))
    values = recording.values.copy()
    values[:, 3] = 1
    flat = Recording(values, recording.presentations)
    assert identify_patterns(flat, n_permutations=10).accuracy > 0.5
