"""Ridge at array level: exact numbers, peers, planted weights, and input it must refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold

from encoders.solvers import AlphaEdgeWarning, ConstantTargetWarning, make_folds, ridge_cv
from encoders.solvers.cross_validation import leave_one_out_residuals
from encoders.solvers.spectrum import Design, centred_features
from recordings.errors import Cancelled, InputError, LeakageError, NotFiniteError, ShapeError

# The fixture of the encoders' specification, section 2.6.
X6 = np.array([[1, 0, 2], [2, 1, 0], [0, 3, 1], [4, 1, 1], [3, 2, 5], [1, 4, 2]], dtype=float)
Y6 = np.array([[1, 2], [0, 1], [3, 1], [1, 5], [2, 2], [4, 0]], dtype=float)
W6 = np.array([[-0.231649, 0.740387], [0.718375, -0.328673], [0.200378, -0.104960]])
LOO6 = np.array([0.067785, 1.426110, 2.859155, -0.388939, 3.888139, 3.117148])
ALPHAS = np.logspace(-1, 5, 7)

# Few targets on a short grid: some choose its end. Where the warning is the point, `pytest.warns` still sees it.
pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")


def planted(
    rng: np.random.Generator, n: int, p: int, t: int, noise: float, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features with a power-law spectrum and a mean, weights, and targets with a mean."""
    X = rng.standard_normal((n, p)) * np.arange(1, p + 1) ** -0.5 + 1
    W = rng.standard_normal((p, t))
    Y = X @ W + noise * rng.standard_normal((n, t)) + 10
    return X.astype(dtype), W, Y.astype(dtype)


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


@pytest.mark.parametrize("solver", ["primal", "kernel"])
def test_fixture(solver: str) -> None:
    fit = ridge_cv(X6, Y6, [1.0], 3, solver=solver)
    weights = fit.coefficients(X6)
    np.testing.assert_allclose(weights, W6, atol=1e-6)
    np.testing.assert_allclose(fit.intercept, [0.573642, 1.270949], atol=1e-6)
    np.testing.assert_allclose(X6[0] @ weights + fit.intercept, [0.742749, 1.801417], atol=1e-6)


def test_primal_and_dual_weights_agree() -> None:
    primal, dual = (ridge_cv(X6, Y6, [1.0], 3, solver=s).coefficients(X6) for s in ("primal", "kernel"))
    np.testing.assert_allclose(primal, dual, rtol=0, atol=1e-10)


def test_leave_one_out_fixture_and_explicit_refits() -> None:
    design = Design(*centred_features(X6, torch.device("cpu")), None, "primal", torch.device("cpu"), torch.float64)
    full, _ = design.decompose((np.arange(6), np.arange(6)))
    residuals = leave_one_out_residuals(torch.as_tensor(Y6 - Y6.mean(0)), full, torch.tensor(1.0)).numpy()
    np.testing.assert_allclose((Y6 - residuals)[:, 0], LOO6, atol=1e-6)
    for i in range(6):
        rest = np.arange(6) != i
        predicted = Ridge(alpha=1.0).fit(X6[rest], Y6[rest]).predict(X6[[i]])[0]
        np.testing.assert_allclose(Y6[i] - residuals[i], predicted, rtol=0, atol=1e-10)


def test_leave_one_out_scores_are_those_of_one_fold_a_sample(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 40, 6, 5, 1.0, "float64")
    nuisance = rng.standard_normal((40, 2))
    folds = [(np.delete(np.arange(40), i), np.array([i])) for i in range(40)]
    short = ridge_cv(X, Y, ALPHAS, "loo", nuisance=nuisance)
    explicit = ridge_cv(X, Y, ALPHAS, folds, nuisance=nuisance)
    np.testing.assert_allclose(short.cv_scores, explicit.cv_scores, atol=1e-10)
    np.testing.assert_array_equal(short.alphas, explicit.alphas)


def test_leave_one_out_agrees_with_sklearn(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 8, 20, 3.0, "float64")
    peer = RidgeCV(ALPHAS, alpha_per_target=True).fit(X, Y)
    fit = ridge_cv(X, Y, ALPHAS, "loo")
    np.testing.assert_allclose(fit.alphas, peer.alpha_)
    np.testing.assert_allclose(fit.weights.T, peer.coef_, atol=1e-10)
    np.testing.assert_allclose(fit.intercept, peer.intercept_, atol=1e-9)


@pytest.mark.parametrize("p", [12, 90])
def test_alphas_and_weights_agree_with_sklearn_per_target(rng: np.random.Generator, p: int) -> None:
    X, _, Y = planted(rng, 60, p, 6, 2.0, "float64")
    fit = ridge_cv(X, Y, ALPHAS, 4)
    assert fit.solver == ("primal" if p < 60 else "kernel")
    for target in range(6):
        search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=KFold(4), scoring="neg_mean_squared_error")
        peer = search.fit(X, Y[:, target]).best_estimator_
        assert fit.alphas[target] == pytest.approx(peer.alpha)
        np.testing.assert_allclose(fit.coefficients(X)[:, target], peer.coef_, atol=1e-9)
        assert fit.intercept[target] == pytest.approx(peer.intercept_, abs=1e-8)


def test_correlation_scoring_agrees_with_explicit_folds(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 10, 4, 2.0, "float64")
    fit = ridge_cv(X, Y, ALPHAS, 4, scoring="r")
    scores = np.array(
        [
            np.mean([pearson(Ridge(alpha=a).fit(X[i], Y[i]).predict(X[j]), Y[j]) for i, j in KFold(4).split(X)], axis=0)
            for a in ALPHAS
        ]
    )
    np.testing.assert_allclose(fit.cv_scores, scores.max(0), atol=1e-10)
    np.testing.assert_allclose(fit.alphas, ALPHAS[scores.argmax(0)])


@pytest.mark.parametrize("p", [100, 400])
def test_same_test_scores_as_himalaya(rng: np.random.Generator, p: int) -> None:
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.ridge import RidgeCV as HimalayaRidgeCV

    X, _, Y = planted(rng, 500, p, 300, 5.0)
    train, test = slice(0, 300), slice(300, 500)
    peer = HimalayaRidgeCV if p < 300 else KernelRidgeCV
    model = peer(ALPHAS, cv=5, fit_intercept=True).fit(X[train], Y[train])
    fit = ridge_cv(X[train], Y[train], ALPHAS, 5)
    predicted = X[test] @ fit.coefficients(X[train]) + fit.intercept
    assert abs(pearson(predicted, Y[test]).mean() - pearson(np.asarray(model.predict(X[test])), Y[test]).mean()) < 2e-4


@pytest.mark.parametrize("p", [30, 300])
def test_recovers_planted_weights_and_the_mean(rng: np.random.Generator, p: int) -> None:
    X, W, Y = planted(rng, 250, p, 40, 0.1)
    fit = ridge_cv(X, Y, np.logspace(-4, 3, 8), 5)
    assert fit.cv_scores.min() > (0.95 if p < 250 else 0.3)
    predicted = X @ fit.coefficients(X) + fit.intercept
    np.testing.assert_allclose(predicted.mean(0), Y.mean(0), rtol=1e-4)
    if p < 250:
        assert pearson(fit.coefficients(X), W).min() > 0.99


def test_no_signal_gives_no_score(rng: np.random.Generator) -> None:
    X = rng.standard_normal((200, 50), dtype=np.float32)
    Y = rng.standard_normal((200, 300), dtype=np.float32)
    X_new, Y_new = rng.standard_normal((400, 50)), rng.standard_normal((400, 300))
    with pytest.warns(AlphaEdgeWarning):
        fit = ridge_cv(X, Y, ALPHAS, 5)
    r = pearson(X_new @ fit.weights, Y_new)
    assert abs(r.mean()) < 3 * r.std() / np.sqrt(len(r))
    assert np.median(fit.cv_scores) < 0.02


def test_each_target_has_its_own_alpha(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 200, 50, 2, 0.1)
    Y[:, 1] += 20 * rng.standard_normal(200)
    fit = ridge_cv(X, Y, np.logspace(-3, 4, 15), 5)
    assert fit.alphas[0] * 100 < fit.alphas[1]


def test_float32_stays_float32(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 10, 5, 1.0)
    for solver in ("primal", "kernel"):
        fit = ridge_cv(X, Y * np.float64(2), np.array(ALPHAS, np.float64), 3, solver=solver)
        arrays = (fit.weights, fit.intercept, fit.alphas, fit.cv_scores)
        assert {array.dtype for array in arrays} == {np.dtype("float32")}


def test_large_offsets_do_not_cost_precision(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 100, 10, 5, 0.5)
    shifted = ridge_cv(X + 100, Y + 10000, ALPHAS, 4)
    plain = ridge_cv(X, Y, ALPHAS, 4)
    np.testing.assert_allclose(shifted.weights, plain.weights, atol=2e-2)
    np.testing.assert_allclose(shifted.cv_scores, plain.cv_scores, atol=1e-3)


def test_groups_stay_together(rng: np.random.Generator) -> None:
    # Repeated stimuli: a split by presentation would call memorised noise a signal.
    X = np.repeat(rng.standard_normal((30, 200)), 4, axis=0)
    Y = np.repeat(rng.standard_normal((30, 40)), 4, axis=0)
    stimulus = np.repeat(np.arange(30), 4)
    leaky = ridge_cv(X, Y, ALPHAS, list(KFold(5, shuffle=True, random_state=0).split(X)))
    with pytest.warns(AlphaEdgeWarning):
        honest = ridge_cv(X, Y, ALPHAS, 5, groups=stimulus)
    assert leaky.cv_scores.mean() > 0.9
    assert honest.cv_scores.mean() < 0.05
    folds = list(GroupKFold(5).split(X, groups=stimulus))
    with pytest.warns(AlphaEdgeWarning):
        listed = ridge_cv(X, Y, ALPHAS, folds, groups=stimulus)
    np.testing.assert_array_equal(listed.cv_scores, honest.cv_scores)


def test_unpenalised_nuisance_equals_an_unpenalised_column(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 80, 6, 3, 0.5, "float64")
    Z = rng.standard_normal((80, 2))
    Y += Z @ np.array([[5.0, -3.0, 2.0], [1.0, 1.0, -4.0]])
    for solver in ("primal", "kernel"):
        fit = ridge_cv(X, Y, [3.0], 4, nuisance=Z, solver=solver)
        # A column that is scaled up is, in the limit, not penalised.
        peer = Ridge(alpha=3.0).fit(np.hstack([X, Z * 1e6]), Y)
        np.testing.assert_allclose(fit.coefficients(X), peer.coef_[:, :6].T, atol=1e-6)
        np.testing.assert_allclose(fit.nuisance_coef, peer.coef_[:, 6:].T * 1e6, atol=1e-6)
        predicted = X @ fit.coefficients(X) + fit.intercept + (Z - fit.nuisance_mean) @ fit.nuisance_coef
        np.testing.assert_allclose(predicted, peer.predict(np.hstack([X, Z * 1e6])), atol=1e-5)


def test_nuisance_is_learnt_on_the_training_part(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 5, 3, 1.0, "float64")
    Z = rng.standard_normal((60, 1))
    train, test = np.arange(40), np.arange(40, 60)
    fit = ridge_cv(X, Y, [1.0], [(train, test)], nuisance=Z)
    design = np.hstack([np.ones((60, 1)), Z])
    to_nuisance = np.linalg.pinv(design[train])
    X_left, Y_left = (a - design @ (to_nuisance @ a[train]) for a in (X, Y))
    predicted = Ridge(alpha=1.0, fit_intercept=False).fit(X_left[train], Y_left[train]).predict(X_left[test])
    r2 = 1 - ((Y_left[test] - predicted) ** 2).sum(0) / (Y_left[test] ** 2).sum(0)
    np.testing.assert_allclose(fit.cv_scores, r2, atol=1e-10)


def test_nuisance_alone_explains_nothing_twice(rng: np.random.Generator) -> None:
    X = rng.standard_normal((100, 10))
    Z = rng.standard_normal((100, 2))
    X[:, 0] = Z[:, 0]
    Y = Z @ rng.standard_normal((2, 20)) + 0.1 * rng.standard_normal((100, 20))
    with pytest.warns(AlphaEdgeWarning):
        fit = ridge_cv(X, Y, ALPHAS, 5, nuisance=Z)
    assert fit.cv_scores.mean() < 0.02
    assert ridge_cv(X, Y, ALPHAS, 5).cv_scores.mean() > 0.3


def test_constant_target_is_its_mean_and_flagged(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 10, 5, 1.0)
    Y[:, 2] = 0.1
    for solver in ("primal", "kernel"):
        with pytest.warns(ConstantTargetWarning, match=r"1 of 5.*target 2"):
            fit = ridge_cv(X, Y, ALPHAS, 3, solver=solver)
        np.testing.assert_array_equal(fit.constant, [False, False, True, False, False])
        assert (fit.weights[:, 2] == 0).all()
        assert fit.intercept[2] == np.float32(0.1)
        assert np.isnan(fit.alphas[2])
        assert np.isnan(fit.cv_scores[2])
        assert np.isfinite(np.delete(fit.cv_scores, 2)).all()


def test_constant_and_repeated_features_are_harmless(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 60, 10, 5, 1.0, "float64")
    wide = np.hstack([X, X[:, :1], np.full((60, 1), 7.0)])
    fit = ridge_cv(wide, Y, [1e-3], 3)
    assert np.isfinite(fit.weights).all()
    np.testing.assert_allclose(fit.weights[-1], 0, atol=1e-10)
    flat = ridge_cv(np.ones((60, 3)), Y, [1.0], 3)
    np.testing.assert_allclose(flat.intercept, Y.mean(0))


def test_edge_warning_only_above_five_percent(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 200, 10, 100, 1.0)
    Y[:, :4] = rng.standard_normal((200, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlphaEdgeWarning)
        fit = ridge_cv(X, Y, np.logspace(-3, 9, 25), 5)
    assert (fit.alphas == np.float32(1e9)).mean() <= 0.05
    with pytest.warns(AlphaEdgeWarning, match="largest"):
        ridge_cv(X, Y, [1e-9, 1e-8], 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alphas": [1.0, 0.0]}, InputError, "positive"),
        ({"alphas": [-1.0]}, InputError, "positive"),
        ({"alphas": []}, InputError, "positive"),
        ({"solver": "svd"}, InputError, "solver"),
        ({"scoring": "mse"}, InputError, "scoring"),
        ({"folds": "leave"}, InputError, "folds"),
        ({"folds": "loo", "scoring": "r"}, InputError, "correlation"),
        ({"folds": 25, "scoring": "r"}, InputError, "2 test samples"),
        ({"folds": 1}, InputError, "1 folds"),
        ({"folds": 51}, InputError, "51 folds"),
        ({"folds": "loo", "groups": np.repeat(np.arange(25), 2)}, LeakageError, "0 has 2 samples"),
        ({"folds": [(np.arange(30), np.arange(29, 50))]}, LeakageError, "29"),
        ({"folds": [(np.arange(30), np.arange(30, 51))]}, InputError, "outside"),
        ({"groups": np.zeros(3)}, ShapeError, "group labels"),
        ({"Y": np.ones((49, 2))}, ShapeError, "49"),
        ({"nuisance": np.ones((49, 2))}, ShapeError, "49"),
        ({"nuisance": np.full((50, 1), np.nan)}, NotFiniteError, "nuisance"),
        ({"out": np.empty((5, 3))}, ShapeError, "coefficients"),
    ],
)
def test_bad_input(rng: np.random.Generator, change: dict, error: type[Exception], message: str) -> None:
    X, _, Y = planted(rng, 50, 5, 4, 1.0)
    with pytest.raises(error, match=message):
        ridge_cv(**({"X": X, "Y": Y, "alphas": ALPHAS, "folds": 5} | change))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_names_the_first_target(rng: np.random.Generator, bad: float) -> None:
    X, _, Y = planted(rng, 50, 5, 8, 1.0)
    Y[7, 6] = Y[3, 5] = bad
    with pytest.raises(NotFiniteError, match=r"target 5 \(n5\).*row 3"):
        ridge_cv(X, Y, ALPHAS, 5, target_ids=[f"n{i}" for i in range(8)], targets_chunk=2)
    X[2, 4] = bad
    for solver in ("primal", "kernel"):
        with pytest.raises(NotFiniteError, match="feature 4"):
            ridge_cv(X, np.ones((50, 1)), ALPHAS, 5, solver=solver)


def test_progress_and_stop(rng: np.random.Generator) -> None:
    X, _, Y = planted(rng, 50, 5, 8, 1.0)
    events: list = []
    ridge_cv(X, Y, ALPHAS, 5, targets_chunk=2, on_event=events.append)
    done = [event.done for event in events if event.stage == "fit targets"]
    assert done == [0, 2, 4, 6, 8]
    with pytest.raises(Cancelled):
        ridge_cv(X, Y, ALPHAS, 5, targets_chunk=2, stop=lambda: len(events) > 0)


def test_folds_by_group_cover_every_row_once() -> None:
    groups = np.repeat(list("abcdef"), 5)
    folds = make_folds(30, 3, groups)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(30))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
    with pytest.raises(LeakageError, match="a is in both"):
        make_folds(30, [(np.arange(2), np.arange(2, 30))], groups)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(rng: np.random.Generator) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    X, _, Y = planted(rng, 200, 300, 50, 1.0)
    cpu, gpu = (ridge_cv(X, Y, ALPHAS, 5, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.weights, cpu.weights, atol=1e-4)
