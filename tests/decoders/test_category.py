"""CategoryDecoder: the peer's solution, planted categories, chance without them, confidence and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from decoders import CategoryDecoder, calibration_error, evaluate_categories
from decoders.machines import Design
from recordings import Recording
from recordings.errors import (
    ArtifactError,
    Cancelled,
    InputError,
    LeakageError,
    NotFiniteError,
    RepetitionError,
    UnknownNameError,
)

CATEGORIES = ["cat", "face", "house", "shoe"]


def blocks(seed: int = 0, signal: float = 1.0, runs: int = 8, neuroids: int = 60) -> Recording:
    """One block a category and run; each run has an offset of its own."""
    rng = np.random.default_rng(seed)
    patterns = signal * rng.normal(size=(len(CATEGORIES), neuroids))
    values, rows = [], []
    for run in range(runs):
        offset = rng.normal(size=neuroids)
        for k in rng.permutation(len(CATEGORIES)):
            values.append(patterns[k] + offset + 2 * rng.normal(size=neuroids))
            rows.append((f"{CATEGORIES[k]}-run{run:02d}", CATEGORIES[k], run))
    ids, category, run_of = zip(*rows, strict=True)
    return Recording(np.array(values), {"stimulus_id": ids, "category": category, "run": run_of})


@pytest.mark.parametrize("shape", [(40, 90), (90, 12)])
@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_solves_the_problem_of_linear_svc(
    rng: np.random.Generator, shape: tuple[int, int], C: float, n_classes: int
) -> None:
    values, codes = rng.normal(3, 2, shape), np.arange(shape[0]) % n_classes
    values[:, 0] += codes
    fitted = Design(values).fit(codes, C)
    decisions = values @ fitted.coef + fitted.intercept
    solver = LinearSVC(C=C, tol=1e-8, max_iter=200_000, random_state=0)
    peer = make_pipeline(StandardScaler(), OneVsRestClassifier(solver)).fit(values, codes)
    expected = peer.decision_function(values)
    if n_classes == 2:
        expected = np.stack([-expected, expected], axis=1)
    assert np.allclose(decisions, expected, atol=1e-4)


def test_constant_neuroids_get_no_weight(rng: np.random.Generator) -> None:
    values, codes = rng.normal(size=(20, 5)), np.arange(20) % 2
    values[:, 2] = 7
    assert np.abs(Design(values).fit(codes, 1.0).coef[2]).max() < 1e-12


def test_planted_categories() -> None:
    found = evaluate_categories(blocks(), n_permutations=50)
    assert found.accuracy > 0.6 and found.chance == 0.25
    assert found.null is not None and found.null.p_value < 0.05
    assert abs(found.null.mean - 0.25) < 0.06
    assert found.interval[0] <= found.accuracy <= found.interval[1]
    assert found.confusion.sum() == 32 and np.trace(found.confusion) == round(found.accuracy * 32)
    summary = found.to_dict()
    assert {"accuracy", "chance", "low", "high", "shuffled", "p_value"} <= set(summary)
    assert list(summary["accuracy_by_category"]) == CATEGORIES


def test_no_signal() -> None:
    accuracy, p_values = [], []
    for seed in range(10):
        recording = blocks(seed, signal=0, runs=6, neuroids=30)
        found = evaluate_categories(recording, n_permutations=10, n_bootstrap=10)
        accuracy.append(found.accuracy)
        assert found.null is not None
        p_values.append(found.null.p_value)
    assert abs(np.mean(accuracy) - 0.25) < 0.06
    assert np.mean(np.array(p_values) <= 0.1) < 0.4


def test_equals_the_peer_across_runs() -> None:
    recording = blocks(3)
    found = evaluate_categories(recording, n_permutations=0)
    values, labels, runs = (
        recording.values,
        recording.presentation("category").astype(str),
        recording.presentation("run"),
    )
    for run in range(8):
        machine = OneVsRestClassifier(LinearSVC(C=1, tol=1e-6, max_iter=100_000, random_state=0))
        peer = make_pipeline(StandardScaler(), machine).fit(values[runs != run], labels[runs != run])
        assert list(peer.predict(values[runs == run])) == list(found.answers["answer"][runs == run])
    assert found.null is None and "p_value" not in found.to_dict()


def test_confidence_is_calibrated() -> None:
    confidence, correct = [], []
    for seed in range(12):
        answers = evaluate_categories(blocks(seed, signal=0.7), n_permutations=0, n_bootstrap=10).answers
        confidence.append(answers["confidence"].to_numpy())
        correct.append((answers["shown"] == answers["answer"]).to_numpy())
    confidence, correct = np.concatenate(confidence), np.concatenate(correct)
    assert 0.35 < correct.mean() < 0.95
    assert abs(confidence.mean() - correct.mean()) < 0.1
    assert calibration_error(confidence, correct, 4) < 0.12


def test_round_trip(tmp_path: Path) -> None:
    recording = blocks()
    train, test = (
        recording.take(np.flatnonzero(m))
        for m in (recording.presentation("run") < 6, recording.presentation("run") >= 6)
    )
    decoder = CategoryDecoder().fit(train)
    answers = decoder.predict(test)
    assert np.allclose(answers.probabilities.sum(1), 1)
    assert np.array_equal(answers.confidence, answers.probabilities.max(1))
    decoder.save_pretrained(tmp_path / "decoder")
    again = CategoryDecoder.from_pretrained(str(tmp_path / "decoder"))
    assert np.array_equal(again.predict(test).probabilities, answers.probabilities)
    assert list(again.predict(test).categories) == list(answers.categories)
    with pytest.raises(ArtifactError):
        again.predict(test.take(neuroid=slice(0, 10)))


def test_bad_input() -> None:
    recording = blocks()
    with pytest.raises(UnknownNameError, match="'object'"):
        evaluate_categories(recording, label="object")
    with pytest.raises(RepetitionError, match="single category"):
        evaluate_categories(recording.where(category="cat"))
    with pytest.raises(InputError, match="three"):
        evaluate_categories(recording.where(run=[0, 1]))
    keep = (recording.presentation("category") != "cat") | (recording.presentation("run") == 0)
    with pytest.raises(RepetitionError, match="missing from the training part"):
        evaluate_categories(recording.take(np.flatnonzero(keep)))
    values = recording.values.copy()
    values[2, 5] = np.nan
    with pytest.raises(NotFiniteError, match="'n5'"):
        evaluate_categories(Recording(values, recording.presentations))
    with pytest.raises(InputError, match="not fitted"):
        CategoryDecoder().predict(recording)
    plain = CategoryDecoder(group=None).fit(recording)
    assert plain.decide(recording).shape == (32, 4)
    with pytest.raises(InputError, match="confidence"):
        plain.predict(recording)
    with pytest.raises(Cancelled):
        evaluate_categories(recording, stop=lambda: True)


def test_one_picture_in_two_runs_is_leakage() -> None:
    recording = blocks()
    table = recording.presentations
    table["stimulus_id"] = table["category"]
    with pytest.raises(LeakageError, match="run"):
        evaluate_categories(Recording(recording.values, table.drop(columns="repetition")))
