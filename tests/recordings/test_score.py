"""`Score`: normalisation, masks, regions, intervals; and the statistics under it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from recordings import Recording, score_predictions
from recordings.errors import ShapeError, UnknownNameError
from recordings.score import shuffled_score
from recordings.statistics import bootstrap_interval, correlate, r2_score, shuffled_correlation, unit_rows


@pytest.fixture
def observed() -> Recording:
    rng = np.random.default_rng(3)
    neuroids = {"neuroid_id": list("abcdef"), "roi": ["V1", "V1", "V2|early", "V2", "", "V1|early"]}
    return Recording(rng.normal(size=(200, 6)), {"stimulus_id": [f"s{i}" for i in range(200)]}, neuroids)


def test_correlation_and_r2_agree_with_scipy_and_sklearn(rng):
    from sklearn.metrics import r2_score as sklearn_r2

    x, y = rng.normal(size=(40, 7)), rng.normal(size=(40, 7)) + 3
    np.testing.assert_allclose(correlate(x, y), [stats.pearsonr(a, b).statistic for a, b in zip(x.T, y.T, strict=True)])
    np.testing.assert_allclose(r2_score(y, x), sklearn_r2(y, x, multioutput="raw_values"))
    with pytest.raises(ShapeError):
        correlate(x, y[:, :3])


def test_a_perfect_model_reaches_the_ceiling():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(4000, 5))
    noisy = Recording(
        signal + np.sqrt(3 / 7) * rng.normal(size=signal.shape), {"stimulus_id": [f"s{i}" for i in range(4000)]}
    )
    ceiling = np.full(5, 0.7)
    for metric in ("r", "r2"):
        score = score_predictions(signal, noisy, ceiling=ceiling, metric=metric, n_bootstrap=0)
        assert score.center == pytest.approx(1, abs=0.03)
        assert score.values.mean() == pytest.approx(np.sqrt(0.7) if metric == "r" else 0.7, abs=0.02)


def test_no_signal_is_zero_within_its_interval(observed):
    noise = np.random.default_rng(4).normal(size=(200, 6))
    score = score_predictions(noise, observed)
    assert score.interval[0] < 0 < score.interval[1] and abs(score.center) < 0.08


def test_constant_and_unreliable_neuroids_are_masked_and_counted(observed):
    predicted = observed.values.copy()
    predicted[:, 2] = 1.0
    ceiling = np.array([1, 1, 1, 0.01, np.nan, 1])
    score = score_predictions(predicted, observed, ceiling=ceiling, n_bootstrap=20)
    assert list(score.mask) == [True, True, False, False, False, True]
    assert np.isnan(score.values[2]) and score.center == pytest.approx(1)
    summary = score.to_dict()
    assert summary["n_masked"] == 3 and summary["n_neuroids"] == 6
    assert summary["low"] == pytest.approx(1) and summary["roi"]["V1"] == pytest.approx(1)
    assert np.isnan(summary["roi"]["V2"])
    json.dumps(summary)


def test_the_recordings_own_ceiling_is_taken(observed):
    predicted = observed.values + 1
    own = observed.with_neuroid(noise_ceiling=np.full(6, 0.25))
    assert score_predictions(predicted, own, n_bootstrap=0).center == pytest.approx(2)
    assert score_predictions(predicted, observed, n_bootstrap=0).center == pytest.approx(1)


def test_regions_may_overlap(observed):
    predicted = observed.values * np.array([1, -1, 1, 1, 1, 1])
    regions = score_predictions(predicted, observed, n_bootstrap=0).by_roi()
    assert regions == pytest.approx({"V1": 1 / 3, "V2": 1.0, "early": 1.0})


def test_the_interval_covers_the_truth():
    truth, covered = 0.5, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(100, 1))
        y = truth * x + np.sqrt(1 - truth**2) * rng.normal(size=(100, 1))
        score = score_predictions(x, Recording(y, {"stimulus_id": [f"s{i}" for i in range(100)]}), n_bootstrap=100)
        covered += score.interval[0] <= truth <= score.interval[1]
    assert covered >= 34


def test_bad_requests(observed):
    with pytest.raises(UnknownNameError, match=r"no metric 'mse'.*r, r2"):
        score_predictions(observed.values, observed, metric="mse")
    with pytest.raises(ShapeError, match=r"predictions of shape \(200, 5\)"):
        score_predictions(observed.values[:, :5], observed)


def test_shuffled_null_is_centred_and_tells_signal_from_noise():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 30))
    null = shuffled_correlation(x, x + 3 * rng.normal(size=x.shape), n=200)
    assert abs(null.mean) < 3 * null.standard_error + 0.005
    assert null.observed > 0.2 and null.p_value == pytest.approx(1 / 201)
    blank = shuffled_correlation(x, rng.normal(size=x.shape), n=200)
    assert blank.p_value > 0.01
    slow = [correlate(x[np.random.default_rng(0).permutation(80)], x).mean()]
    assert abs(slow[0]) < 0.1


def test_bootstrap_is_repeatable():
    values = np.random.default_rng(0).normal(size=300)
    first = bootstrap_interval(lambda rows: float(values[rows].mean()), 300, n_resamples=400)
    assert first == bootstrap_interval(lambda rows: float(values[rows].mean()), 300, n_resamples=400)
    half = 1.96 * values.std() / np.sqrt(300)
    assert first == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


@pytest.mark.parametrize("metric", ["r", "r2"])
def test_the_shuffled_score_is_the_score_of_shuffled_rows(observed: Recording, metric: str):
    rng = np.random.default_rng(6)
    predicted = observed.values + rng.normal(size=observed.values.shape) + 0.3
    predicted[:, 5] = observed.values[:, 5].mean()
    how = {"ceiling": np.array([0.5, 0.8, 0.01, np.nan, 0.6, 0.7]), "metric": metric, "n_bootstrap": 0}
    score = score_predictions(predicted, observed, **how)
    null = shuffled_score(score, predicted, observed, n=3, seed=1)
    assert null.observed == pytest.approx(score.center)
    draws = np.random.default_rng(1)
    again = [score_predictions(predicted[draws.permutation(200)], observed, **how).center for _ in range(3)]
    np.testing.assert_allclose(null.scores, again, atol=1e-9)


@pytest.mark.parametrize("centred", [True, False])
def test_unit_rows_give_correlations_or_cosines_and_tell_what_has_no_direction(
    rng: np.random.Generator, centred: bool
) -> None:
    values = rng.normal(3, 1, (5, 20))
    values[2] = 0.1 + 0.2 if centred else 0
    rows, flat = unit_rows(values, centred=centred)
    kept = np.array([0, 1, 3, 4])
    peer = 1 - squareform(pdist(values[kept], "correlation" if centred else "cosine"))
    np.testing.assert_allclose(rows[kept] @ rows[kept].T, peer, atol=1e-12)
    assert flat.tolist() == [False, False, True, False, False]
    assert np.isnan(rows[2]).all()
