"""Banded ridge at array level: exact numbers, himalaya beside, planted bands, and input it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from encoders.solvers import AlphaEdgeWarning, ConstantTargetWarning, banded_ridge_cv, ridge_cv
from encoders.solvers.banded import draw_gammas
from recordings.errors import Cancelled, InputError, NotFiniteError, ShapeError

X6 = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [4, 1, 1], [3, 2, 5], [1, 4, 2]], dtype=float)
Y6 = np.array([[1, 2], [0, 1], [3, 1], [1, 5], [2, 2], [4, 0]], dtype=float)
BANDED6 = np.array([[-0.223804, 0.771508], [0.755750, -0.331951], [0.183083, -0.103606]])
ALPHAS = np.logspace(-2, 6, 9)
pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")


def two_bands(rng: np.random.Generator, n: int, p: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two bands with a mean; ten targets driven by the first, ten by the second, ten by neither."""
    Xs = [rng.standard_normal((n, p)) + 1, rng.standard_normal((n, p)) - 1]
    signal = np.hstack([X @ rng.standard_normal((p, 10)) / np.sqrt(p) for X in Xs] + [np.zeros((n, 10))])
    return Xs, signal + 0.5 * rng.standard_normal(signal.shape) + 5


@pytest.mark.parametrize("solver", ["primal", "kernel"])
def test_fixture(solver: str) -> None:
    bands = [X6[:, :2], X6[:, 2:]]
    fit = banded_ridge_cv(bands, Y6, [1.0], 3, gammas=[[2.0, 0.5]], solver=solver)
    weights = fit.coefficients(bands)
    np.testing.assert_allclose(weights, BANDED6, atol=1e-6)
    np.testing.assert_allclose(fit.intercept, Y6.mean(0) - X6.mean(0) @ BANDED6, atol=1e-5)


@pytest.mark.parametrize("solver", ["primal", "kernel"])
def test_equal_weights_are_plain_ridge(rng: np.random.Generator, solver: str) -> None:
    Xs, Y = two_bands(rng, 60, 8)
    banded = banded_ridge_cv(Xs, Y, ALPHAS, 4, gammas=[[1.0, 1.0]], solver=solver)
    plain = ridge_cv(np.hstack(Xs), Y, ALPHAS, 4)
    np.testing.assert_allclose(banded.coefficients(Xs), plain.weights, atol=1e-10)
    np.testing.assert_allclose(banded.intercept, plain.intercept, atol=1e-9)
    np.testing.assert_allclose(banded.cv_scores, plain.cv_scores, atol=1e-12)


@pytest.mark.parametrize("p", [10, 60])
def test_same_choice_as_himalaya(rng: np.random.Generator, p: int) -> None:
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search
    from himalaya.ridge import solve_group_ridge_random_search

    set_backend("numpy")
    Xs, Y = two_bands(rng, 80, p)
    draws = rng.dirichlet([1, 1], 8)
    options = {"n_iter": draws, "alphas": ALPHAS, "cv": 4, "fit_intercept": True, "progress_bar": False}
    if 2 * p < 80:
        deltas, weights, _, intercept = solve_group_ridge_random_search(Xs, Y, return_weights=True, **options)
    else:
        Ks = np.stack([X @ X.T for X in Xs])
        deltas, dual, _, intercept = solve_multiple_kernel_ridge_random_search(Ks, Y, return_weights="dual", **options)
        weights = np.vstack([X.T @ dual * np.exp(d) for X, d in zip(Xs, deltas, strict=True)])
    fit = banded_ridge_cv(Xs, Y, ALPHAS, 4, gammas=draws)
    assert fit.solver == ("primal" if 2 * p < 80 else "kernel")
    np.testing.assert_allclose(np.log(fit.gammas / fit.alphas), deltas, atol=1e-6)
    np.testing.assert_allclose(fit.coefficients(Xs), weights, atol=1e-6)
    np.testing.assert_allclose(fit.intercept, intercept, atol=1e-6)


@pytest.mark.parametrize("p", [20, 150])
def test_finds_the_planted_band(rng: np.random.Generator, p: int) -> None:
    Xs, Y = two_bands(rng, 200, p)
    fit = banded_ridge_cv(Xs, Y, ALPHAS, 5, gammas=20)
    assert (fit.gammas[0, :10] > 0.8).all()
    assert (fit.gammas[1, 10:20] > 0.8).all()
    plain = ridge_cv(np.hstack(Xs), Y, ALPHAS, 5)
    assert (fit.cv_scores[:20] > plain.cv_scores[:20]).all()
    assert fit.cv_scores[20:].max() < 0.1


def test_a_band_of_noise_does_not_help_or_hurt(rng: np.random.Generator) -> None:
    (X, noise), Y = two_bands(rng, 400, 20)
    Y = Y[:, :10]
    fit = banded_ridge_cv([X[:200], noise[:200]], Y[:200], ALPHAS, 5, gammas=20)
    own = X[200:] @ fit.weights[:20]
    other = noise[200:] @ fit.weights[20:]
    left = ((Y[200:] - own - other - fit.intercept) ** 2).sum(0)
    alone = ((Y[200:] - own - (fit.intercept + other.mean(0))) ** 2).sum(0)
    total = ((Y[200:] - Y[200:].mean(0)) ** 2).sum(0)
    assert abs((left - alone) / total).max() < 0.01
    assert (1 - left / total).min() > 0.5


def test_no_signal_gives_no_score(rng: np.random.Generator) -> None:
    Xs = [rng.standard_normal((150, 30)) for _ in range(2)]
    Y, Y_new = rng.standard_normal((150, 200)), rng.standard_normal((300, 200))
    X_new = rng.standard_normal((300, 60))
    with pytest.warns(AlphaEdgeWarning):
        fit = banded_ridge_cv(Xs, Y, ALPHAS, 5, gammas=10)
    predicted = X_new @ fit.weights
    r = np.array([np.corrcoef(predicted[:, i], Y_new[:, i])[0, 1] for i in range(200)])
    assert abs(r.mean()) < 3 * r.std() / np.sqrt(200)


def test_nuisance_is_not_penalised(rng: np.random.Generator) -> None:
    Xs, Y = two_bands(rng, 80, 5)
    Z = rng.standard_normal((80, 2))
    Y = Y + Z @ rng.standard_normal((2, 30)) * 5
    for solver in ("primal", "kernel"):
        fit = banded_ridge_cv(Xs, Y, [2.0], 4, gammas=[[0.7, 0.3]], nuisance=Z, solver=solver)
        scaled = np.hstack([Xs[0] * np.sqrt(0.7), Xs[1] * np.sqrt(0.3), Z * 1e6])
        peer = Ridge(alpha=2.0).fit(scaled, Y)
        predicted = np.hstack(Xs) @ fit.coefficients(Xs) + fit.intercept + (Z - fit.nuisance_mean) @ fit.nuisance_coef
        np.testing.assert_allclose(predicted, peer.predict(scaled), atol=1e-5)


def test_draws_do_not_depend_on_their_number() -> None:
    few, many = draw_gammas(8, 3, seed=1), draw_gammas(50, 3, seed=1)
    np.testing.assert_array_equal(few, many[:8])
    np.testing.assert_allclose(many.sum(1), 1)
    np.testing.assert_allclose(many[0], 1 / 3)
    np.testing.assert_array_equal(many[1:4], np.eye(3))
    assert not np.array_equal(many[4:], draw_gammas(50, 3, seed=2)[4:])


def test_blocks_of_targets_equal_the_whole(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    Xs, Y = two_bands(rng, 60, 8)
    whole = banded_ridge_cv(Xs, Y, ALPHAS, 4, gammas=6)
    monkeypatch.setattr("encoders.solvers.banded.BLOCK_BYTES", 1)
    parts = banded_ridge_cv(Xs, Y, ALPHAS, 4, gammas=6)
    for name in ("weights", "intercept", "gammas", "alphas", "cv_scores"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-10)


def test_float32_stays_float32_and_constant_is_flagged(rng: np.random.Generator) -> None:
    Xs, Y = two_bands(rng, 60, 8)
    Y[:, 3] = 2
    with pytest.warns(ConstantTargetWarning):
        fit = banded_ridge_cv([X.astype(np.float32) for X in Xs], Y, ALPHAS, 4, gammas=6)
    arrays = (fit.weights, fit.intercept, fit.gammas, fit.alphas, fit.cv_scores)
    assert {array.dtype for array in arrays} == {np.dtype("float32")}
    assert fit.constant[3]
    assert fit.intercept[3] == 2
    assert (fit.weights[:, 3] == 0).all()


def test_bad_input(rng: np.random.Generator) -> None:
    Xs, Y = two_bands(rng, 40, 4)
    for change, error in [
        ({"Xs": []}, InputError),
        ({"Xs": [Xs[0], Xs[1][:30]]}, ShapeError),
        ({"gammas": 0}, ShapeError),
        ({"gammas": [[1.0, 1.0, 1.0]]}, ShapeError),
        ({"gammas": [[1.0, -1.0]]}, InputError),
        ({"gammas": [[0.0, 0.0]]}, InputError),
        ({"alphas": [0.0]}, InputError),
        ({"Xs": [Xs[0], np.full((40, 2), np.nan)]}, NotFiniteError),
    ]:
        with pytest.raises(error):
            banded_ridge_cv(**({"Xs": Xs, "Y": Y, "alphas": ALPHAS, "folds": 4} | change))


def test_stop_between_draws(rng: np.random.Generator) -> None:
    Xs, Y = two_bands(rng, 40, 4)
    seen: list = []
    with pytest.raises(Cancelled):
        banded_ridge_cv(Xs, Y, ALPHAS, 4, gammas=50, on_event=seen.append, stop=lambda: len(seen) > 3)
    assert len(seen) < 10
