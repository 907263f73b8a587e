"""Linear support vector machines for few presentations of many neuroids, one class against the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve
from sklearn.preprocessing import StandardScaler

_MAX_STEPS = 200


class LinearMap(NamedTuple):
    """Decision values are ``responses @ coef + intercept``; coef (neuroid, class), intercept (class,)."""

    coef: np.ndarray
    intercept: np.ndarray


class Design:
    """Standardised training responses and their inner products, on which any labels can be fitted.

    Solves the same problem as scikit-learn's ``LinearSVC(C)`` behind a `StandardScaler`: squared hinge loss, the
    intercept penalised like a weight. Its coordinate descent needs thousands of sweeps where neuroids outnumber
    presentations and the classes are separable; Newton's method on the inner products needs a handful of small linear
    systems (Keerthi & DeCoste, JMLR 6, 2005; Chapelle, Neural Computation 19, 2007), and shuffled labels reuse them.
    Memory grows with the square of the presentations.

    Parameters
    ----------
    values : (presentation, neuroid) float64. Constant neuroids get no weight.
    """

    def __init__(self, values: np.ndarray):
        self.scaler = StandardScaler().fit(values)
        self.scaled = self.scaler.transform(values)
        self.kernel = self.scaled @ self.scaled.T + 1

    def fit(self, codes: np.ndarray, C: float) -> LinearMap:
        """Machines for the classes coded 0, 1, ..., as a map from responses as recorded."""
        signs = np.where(codes[:, None] == np.arange(codes.max() + 1), 1.0, -1.0)
        dual = np.stack([newton(self.kernel, y, C) for y in signs.T], axis=1)
        coef = (self.scaled.T @ dual) / self.scaler.scale_[:, None]
        return LinearMap(coef, dual.sum(0) - self.scaler.mean_ @ coef)


def newton(kernel: np.ndarray, signs: np.ndarray, C: float) -> np.ndarray:
    """Coefficients a that minimise a'Ka / 2 + C sum(max(0, 1 - y Ka)^2), (presentation,).

    Parameters
    ----------
    kernel : (presentation, presentation). signs : (presentation,) +1 or -1.
    """
    dual, decision = np.zeros(len(signs)), np.zeros(len(signs))
    active = np.ones(len(signs), bool)
    for _ in range(_MAX_STEPS):
        rows = np.flatnonzero(active)
        target = np.zeros(len(signs))
        ridge = kernel[np.ix_(rows, rows)] + np.eye(len(rows)) / (2 * C)
        target[rows] = solve(ridge, signs[rows], assume_a="pos")
        size = _step(dual, decision, target, kernel @ target, signs, C)
        dual, decision = dual + size * (target - dual), decision + size * (kernel @ target - decision)
        before, active = active, signs * decision < 1
        if (size == 1 and (before == active).all()) or size < 1e-10:
            break
    return dual


def _step(
    dual: np.ndarray, decision: np.ndarray, target: np.ndarray, wanted: np.ndarray, signs: np.ndarray, C: float
) -> float:
    # The loss is quadratic only in pieces: halve the step until the objective falls.
    def objective(a: np.ndarray, f: np.ndarray) -> float:
        return float(a @ f / 2 + C * (np.maximum(0, 1 - signs * f) ** 2).sum())

    now, size = objective(dual, decision), 1.0
    while size >= 1e-10 and objective(dual + size * (target - dual), decision + size * (wanted - decision)) > now:
        size /= 2
    return size
