"""Banded ridge encoder: feature spaces (layers, models) weighed against each other for every neuroid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recordings import Recording

from .features import Features
from .linear import DEFAULT_ALPHAS, LinearEncoder
from .responses import run_labels
from .solvers import RidgeFit, banded_ridge_cv
from .solvers.cross_validation import Folds, Scoring
from .solvers.ridge import Solver
from .solvers.targets import ArrayLike2D


class BandedRidgeEncoder(LinearEncoder):
    """Linear map from several feature spaces, each with a weight of its own for every neuroid.

    Bands are scaled to one total variance first. After the fit ``gammas_``, (band, neuroid), holds their weights.

    Parameters
    ----------
    alphas, cv, solver, scoring, standardise, delays, group_by, device, pool : as in `RidgeEncoder`.
    n_draws : random draws of band weights to try.
    seed : of the draws.

    See `encoders.solvers.banded_ridge_cv` for the equations.
    """

    _bands_share_scale = True

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
        n_draws: int = 100,
        seed: int = 0,
        pool: bool = False,
    ) -> None:
        super().__init__(alphas, cv, solver, scoring, standardise, delays, group_by, device, pool)
        self.n_draws = n_draws
        self.seed = seed

    def _solve(self, Xs: list[np.ndarray], Y: ArrayLike2D, **options: Any) -> RidgeFit:
        return banded_ridge_cv(Xs, Y, gammas=self.n_draws, seed=self.seed, **options)

    def variance_split(
        self,
        features: Mapping[str, Features],
        recording: Recording,
        *,
        nuisance: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Each band's share of R2 on held-out stimuli, (neuroid,) float64 a band; NaN where responses are constant.

        Product measure (Pratt 1987; Dupré la Tour et al. 2022): sum(yhat_b (2 y - yhat)) / sum(y^2), of
        responses y and predictions yhat = sum_b yhat_b, all centred over stimuli. Shares add up to the R2 of the
        centred prediction; that of a band that only hurts is negative. Takes and raises what `score` does.
        """
        test = self.held_out(recording, nuisance)
        runs = run_labels(test) if self.delays else None
        spaces, ids = self._spaces(features), test.stimulus_ids.astype(str)
        designs = [band.design(spaces[band.name], ids, runs) for band in self.bands_]
        shares = np.empty((len(designs), test.n_neuroids))
        for columns, parts in self._parts(designs):
            y = _centred(test.read(neuroid=columns))
            by_band = np.stack([_centred(part) for part in parts])
            total = (y**2).sum(0)
            product = (by_band * (2 * y - by_band.sum(0))).sum(1)
            shares[:, columns] = product / np.where(total > 0, total, np.nan)
        return {band.name: share for band, share in zip(self.bands_, shares, strict=True)}

    def _parameters(self) -> dict[str, Any]:
        return super()._parameters() | {"n_draws": self.n_draws, "seed": self.seed}


def _centred(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values - values.mean(0)
