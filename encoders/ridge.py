"""Ridge encoder: one penalty a neuroid over all features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .linear import DEFAULT_ALPHAS, LinearEncoder
from .solvers import RidgeFit, ridge_cv
from .solvers.cross_validation import Folds, Scoring
from .solvers.ridge import Solver
from .solvers.targets import ArrayLike2D


class RidgeEncoder(LinearEncoder):
    """Linear map from features to responses, with an intercept and an alpha of its own for every neuroid.

    Parameters
    ----------
    alphas : penalties to choose from.
    cv : folds by stimulus, a list of (train, test) rows, or "loo".
    solver : "primal", "kernel", or "auto": the kernel form when features outnumber presentations.
    scoring : what cross-validation compares, "r2" or "r".
    standardise : scale features to unit variance, learnt on the training presentations.
    delays : shifts in samples for time series (a finite impulse response), within runs.
    group_by : presentation coordinate that folds keep together; "stimulus_id", or with delays "run", by default.
    device : torch device of the fit.
    pool : average tokens instead of laying them side by side.

    See `encoders.solvers.ridge_cv` for the equations.
    """

    def __init__(
        self,
        alphas: Sequence[float] = DEFAULT_ALPHAS,
        cv: Folds = 5,
        solver: Solver = "auto",
        scoring: Scoring = "r2",
        standardise: bool = True,
        delays: Sequence[int] | None = None,
        group_by: str | None = None,
        device: str = "cpu",
        pool: bool = False,
    ) -> None:
        super().__init__(alphas, cv, solver, scoring, standardise, delays, group_by, device, pool)

    def _solve(self, Xs: list[np.ndarray], Y: ArrayLike2D, **options: Any) -> RidgeFit:
        return ridge_cv(np.hstack(Xs) if len(Xs) > 1 else Xs[0], Y, **options)
