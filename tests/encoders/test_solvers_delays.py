"""Delays: exact shifts, and a planted haemodynamic response that they recover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from encoders.solvers import delay, ridge_cv
from recordings.errors import InputError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")


def test_shifts_by_hand() -> None:
    X = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    expected = [[1, 2, 0, 0, 3, 4], [3, 4, 1, 2, 5, 6], [5, 6, 3, 4, 0, 0]]
    delayed = delay(X, [0, 1, -1])
    np.testing.assert_array_equal(delayed, expected)
    assert delayed.dtype == np.float32


def test_never_across_runs() -> None:
    X = np.arange(1.0, 7.0)[:, None]
    runs = ["a", "a", "a", "b", "b", "b"]
    np.testing.assert_array_equal(delay(X, [2], runs)[:, 0], [0, 0, 1, 0, 0, 4])
    np.testing.assert_array_equal(delay(X, [-1], runs)[:, 0], [2, 3, 0, 5, 6, 0])


def test_a_delay_longer_than_the_run_is_zero() -> None:
    assert not delay(np.ones((4, 2)), [3, -3], [0, 0, 1, 1]).any()


def test_agrees_with_a_finite_impulse_response_filter(rng: np.random.Generator) -> None:
    X = rng.standard_normal((50, 1))
    kernel = rng.standard_normal(4)
    np.testing.assert_allclose(delay(X, range(4)) @ kernel, lfilter(kernel, 1, X[:, 0]), atol=1e-12)


def test_recovers_a_planted_response(rng: np.random.Generator) -> None:
    runs = np.repeat(np.arange(6), 100)
    response = np.array([0.0, 0.3, 1.0, 0.7, 0.2, -0.1])
    X = rng.standard_normal((600, 3))
    Y = np.empty((600, 3))
    for run in range(6):
        Y[runs == run] = lfilter(response, 1, X[runs == run], axis=0)
    Y += 0.5 * rng.standard_normal(Y.shape)
    fit = ridge_cv(delay(X, range(6), runs), Y, np.logspace(-2, 4, 7), 6, groups=runs)
    weights = fit.weights.reshape(6, 3, 3)
    for target in range(3):
        np.testing.assert_allclose(weights[:, target, target], response, atol=0.1)
        np.testing.assert_allclose(weights[:, (target + 1) % 3, target], 0, atol=0.1)
    assert fit.cv_scores.min() > 0.75
    assert ridge_cv(X, Y, np.logspace(-2, 4, 7), 6, groups=runs).cv_scores.max() < 0.1


@pytest.mark.parametrize(
    ("delays", "runs", "error"),
    [
        ([], None, InputError),
        ([1, 1], None, InputError),
        ([1.5], None, InputError),
        ([1], [0, 1, 0], InputError),
        ([1], [0, 1], ShapeError),
    ],
)
def test_bad_input(delays: list, runs: list | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        delay(np.ones((3, 2)), delays, runs)
    with pytest.raises(ShapeError):
        delay(np.ones(3), [1])
