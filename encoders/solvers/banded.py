"""Banded ridge regression: one penalty a feature space (band), weighed against each other for every target.

Penalising band b by alpha / gamma_b is ridge regression on features scaled by sqrt(gamma_b), or on the kernel
sum_b gamma_b K_b (Nunez-Elizalde, Huth and Gallant 2019; Dupré la Tour et al. 2022). Random search over gamma on the
simplex, with the eigenvalue form of `ridge_cv` for every draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recordings.errors import InputError, ShapeError
from recordings.events import OnEvent, Stop, report

from .cross_validation import Folds, Scorer, Scoring, plan_folds
from .folds import Fold
from .ridge import (
    RidgeFit,
    Solver,
    bytes_per_target,
    check_alphas,
    choose_solver,
    chunk_bytes,
    decompose_all,
    decompose_folds,
    empty_fit,
    refit,
    warn_edge,
)
from .spectrum import Design, centred_features, centred_kernel, compute_dtype
from .targets import ArrayLike2D, Sink2D, check_samples, chunk_size, chunks, read_targets, warn_constant

# Every block of targets repeats the decompositions, so blocks are large.
BLOCK_BYTES = 512 * 2**20


@dataclass(frozen=True)
class BandedRidgeFit(RidgeFit):
    """Result of `banded_ridge_cv`, for t targets and b bands: a `RidgeFit` of all bands side by side.

    gammas : (b, t), weights of the bands; band b is penalised by ``alphas / gammas[b]``.

    In kernel form the coefficients of band b are ``(X_b - X_b.mean(0)).T @ weights * gammas[b]``.
    """

    gammas: NDArray[np.floating]

    def coefficients(self, X: NDArray[np.floating] | Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """Coefficients of the features, (n_features, t), bands stacked; X are the bands of the fit."""
        weights: NDArray[np.floating] = np.asarray(self.weights)
        if self.solver == "primal":
            return weights
        return np.vstack([(band - band.mean(0)).T @ weights * g for band, g in zip(X, self.gammas, strict=True)])


def banded_ridge_cv(
    Xs: Sequence[ArrayLike2D],
    Y: ArrayLike2D,
    alphas: ArrayLike,
    folds: Folds = 5,
    *,
    gammas: int | ArrayLike = 100,
    seed: int = 0,
    groups: ArrayLike | None = None,
    nuisance: NDArray[np.floating] | None = None,
    solver: Solver = "auto",
    scoring: Scoring = "r2",
    out: Sink2D | None = None,
    target_ids: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> BandedRidgeFit:
    """Fit banded ridge regressions with an unpenalised intercept; weights of the bands and alpha chosen a target.

    Bring the bands to one scale before: gammas weigh them as they come. Of draws that score alike, the first wins.

    Parameters
    ----------
    Xs : one (n_samples, n_features) array a band.
    gammas : number of draws, or the draws themselves, (n_draws, n_bands), not negative. Draws are: all bands alike,
        each band alone, then Dirichlet with concentrations .1 and 1 in turns.
    seed : of the draws; draw i depends on (seed, i) alone.
    Y, alphas, folds, groups, nuisance, solver, scoring, out, target_ids, device : as in `ridge_cv`; "auto" takes the
        kernel form when all features together outnumber the samples. Targets are read once.

    Raises
    ------
    InputError : no bands, negative gammas, alphas that are not positive.
    ShapeError, NotFiniteError, LeakageError : as in `ridge_cv`.

    Warns
    -----
    AlphaEdgeWarning, ConstantTargetWarning : as in `ridge_cv`.
    """
    grid = check_alphas(alphas)
    n_samples, n_features = _check_bands(Xs)
    draws = _check_gammas(gammas, len(Xs), seed)
    check_samples(Y, n_samples)
    pairs, score = plan_folds(n_samples, folds, groups, scoring)
    bands = _Bands(Xs, nuisance, choose_solver(solver, n_samples, n_features), torch.device(device))
    fit = _empty_banded_fit(bands.design(draws[0]), len(Xs), Y.shape[1], out)
    size = chunk_size(2 * (n_samples + bands.n_weights) * bands.dtype.itemsize, BLOCK_BYTES, fit.weights)
    for columns, values, mean, constant in read_targets(Y, size, target_ids):
        report(on_event, stop, "fit targets", columns.start, Y.shape[1])
        targets = torch.as_tensor(values, dtype=bands.dtype, device=bands.device)
        cv_scores, draw, alpha = _search(targets, bands, draws, grid, pairs, score, on_event, stop)
        fit.gammas[:, columns] = draws[draw].T
        fit.alphas[columns] = np.where(constant, np.nan, grid[alpha])
        fit.cv_scores[columns] = np.where(constant, np.nan, cv_scores)
        fit.constant[columns] = constant
        weights, unpenalised = _refit_best(targets, bands, draws, draw, fit.alphas[columns])
        fit.weights[:, columns] = weights
        fit.intercept[columns] = mean + unpenalised[0]
        if fit.nuisance_coef is not None:
            fit.nuisance_coef[:, columns] = unpenalised[1:]
    report(on_event, None, "fit targets", Y.shape[1], Y.shape[1])
    warn_constant(fit.constant)
    warn_edge(fit.alphas, grid)
    return fit


class _Bands:
    """Centred features, or kernels, of every band, weighed on demand."""

    def __init__(
        self,
        Xs: Sequence[ArrayLike2D],
        nuisance: NDArray[np.floating] | None,
        solver: Literal["primal", "kernel"],
        device: torch.device,
    ) -> None:
        read = centred_features if solver == "primal" else centred_kernel
        self.samples, self.mean_rows = zip(*(read(X, device) for X in Xs), strict=True)
        self.nuisance, self.solver, self.device = nuisance, solver, device
        self.dtype = max((compute_dtype(X) for X in Xs), key=lambda dtype: dtype.itemsize)
        self.n_weights = sum(X.shape[1] for X in Xs) if solver == "primal" else Xs[0].shape[0]

    def design(self, gamma: NDArray[np.floating]) -> Design:
        """The design in which band b has weight gamma[b]."""
        if self.solver == "primal":
            scales = np.sqrt(gamma).tolist()
            samples = torch.cat([X.to(self.dtype) * s for X, s in zip(self.samples, scales, strict=True)], dim=1)
            mean_row = torch.cat([row * s for row, s in zip(self.mean_rows, scales, strict=True)])
        else:
            samples, mean_row = torch.zeros_like(self.samples[0]), torch.zeros_like(self.mean_rows[0])
            for kernel, row, g in zip(self.samples, self.mean_rows, gamma.tolist(), strict=True):
                samples.add_(kernel, alpha=g)
                mean_row.add_(row, alpha=g)
        return Design(samples, mean_row, self.nuisance, self.solver, self.device, self.dtype)

    def weight_scale(self, gamma: NDArray[np.floating]) -> NDArray[np.floating]:
        """Factor, (n_weights, 1), from the weights of a weighed design to those of the features as given."""
        if self.solver == "kernel":
            return np.ones((self.n_weights, 1), np.float32)
        return np.repeat(np.sqrt(gamma), [X.shape[1] for X in self.samples])[:, None]


def _search(
    Y: Tensor,
    bands: _Bands,
    draws: NDArray[np.floating],
    grid: NDArray[np.floating],
    pairs: Sequence[Fold],
    score: Scorer,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> tuple[NDArray[np.floating], NDArray[np.intp], NDArray[np.intp]]:
    """Best cross-validated score of every target, (t,), with the draw and the alpha that reach it."""
    best = np.full(Y.shape[1], -np.inf)
    best_draw, best_alpha = np.zeros(Y.shape[1], np.intp), np.zeros(Y.shape[1], np.intp)
    for i, gamma in enumerate(draws):
        report(on_event, stop, "search band weights", i, len(draws))
        design = bands.design(gamma)
        spectra = decompose_folds(design, pairs, None, stop)
        size = chunk_size(bytes_per_target(design, pairs), chunk_bytes(bands.device))
        for columns in chunks(Y.shape[1], size):
            scores, alpha = score(Y[:, columns], spectra, torch.as_tensor(grid)).max(0)
            found = scores.cpu().numpy()
            better = found > best[columns]
            best[columns][better] = found[better]
            best_draw[columns][better] = i
            best_alpha[columns][better] = alpha.cpu().numpy()[better]
    return best, best_draw, best_alpha


def _refit_best(
    Y: Tensor, bands: _Bands, draws: NDArray[np.floating], chosen: NDArray[np.intp], alphas: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Weights, (n_weights, t), and unpenalised coefficients, (1 + q, t), at each target's own draw and alpha."""
    n_unpenalised = 1 if bands.nuisance is None else 1 + bands.nuisance.shape[1]
    weights = np.empty((bands.n_weights, Y.shape[1]), alphas.dtype)
    unpenalised = np.empty((n_unpenalised, Y.shape[1]), alphas.dtype)
    for draw in np.unique(chosen):
        design = bands.design(draws[draw])
        full, to_weights = decompose_all(design)
        targets = np.flatnonzero(chosen == draw)
        part, unpenalised[:, targets] = refit(Y[:, targets], design, full, to_weights, alphas[targets])
        weights[:, targets] = part * bands.weight_scale(draws[draw]).astype(part.dtype)
    return weights, unpenalised


def _check_bands(Xs: Sequence[ArrayLike2D]) -> tuple[int, int]:
    """Number of samples, and of features in all bands together."""
    if not len(Xs):
        raise InputError("no bands", where="Xs", remedy="give one array of features a band")
    for i, X in enumerate(Xs):
        if len(X.shape) != 2 or X.shape[0] != Xs[0].shape[0] or X.shape[1] == 0:
            raise ShapeError(
                f"shape {tuple(X.shape)} beside {tuple(Xs[0].shape)}",
                where=f"band {i}",
                remedy="give every band as (n_samples, n_features)",
            )
    return Xs[0].shape[0], sum(X.shape[1] for X in Xs)


def draw_gammas(n_draws: int, n_bands: int, seed: int) -> NDArray[np.float64]:
    """Weights of the bands to try, (n_draws, n_bands), each row on the simplex.

    All bands alike, each band alone, then Dirichlet draws with concentration .1 (few bands matter) and 1 (uniform) in
    turns.
    """
    fixed = np.vstack([np.full(n_bands, 1 / n_bands), np.eye(n_bands)])
    drawn = [
        np.random.default_rng((seed, i)).dirichlet(np.full(n_bands, 0.1 if i % 2 else 1.0))
        for i in range(len(fixed), n_draws)
    ]
    return np.vstack([fixed, *drawn])[:n_draws]


def _check_gammas(gammas: int | ArrayLike, n_bands: int, seed: int) -> NDArray[np.float64]:
    if isinstance(gammas, (int, np.integer)):
        draws = draw_gammas(int(gammas), n_bands, seed)
    else:
        draws = np.asarray(gammas, dtype=np.float64)
    if draws.ndim != 2 or draws.shape[1] != n_bands or not len(draws):
        raise ShapeError(
            f"band weights of shape {draws.shape} for {n_bands} bands",
            where="gammas",
            remedy="give a positive number of draws, or an array (n_draws, n_bands)",
        )
    if not np.isfinite(draws).all() or (draws < 0).any() or (draws.sum(1) == 0).any():
        raise InputError("band weights must be finite, not negative, and not all zero", where="gammas")
    return draws


def _empty_banded_fit(design: Design, n_bands: int, n_targets: int, out: Sink2D | None) -> BandedRidgeFit:
    fit = empty_fit(design, n_targets, out)
    return BandedRidgeFit(**vars(fit), gammas=np.empty((n_bands, n_targets), fit.alphas.dtype))
