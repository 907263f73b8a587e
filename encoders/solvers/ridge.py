"""Ridge regression of many targets on one design, one penalty a target, chosen by cross-validation.

The eigen-decomposition of the smaller Gram matrix is done once a fold in float64; targets stream through it in chunks,
and an alpha costs one matrix product over the test rows. Neither the responses nor the coefficients need to fit in
memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report

from .cross_validation import Folds, Scoring, plan_folds
from .folds import Fold
from .spectrum import Design, Spectrum, centred_features, centred_kernel, compute_dtype
from .targets import (
    ArrayLike2D,
    Sink2D,
    check_samples,
    check_sink,
    chunk_size,
    read_targets,
    warn_constant,
)

Solver = Literal["auto", "primal", "kernel"]
EDGE_FRACTION = 0.05
# Larger chunks fall out of the caches of a CPU; a GPU wants fewer, larger products.
CPU_CHUNK_BYTES = 32 * 2**20
GPU_CHUNK_BYTES = 512 * 2**20


class AlphaEdgeWarning(UserWarning):
    """Many targets chose an alpha on the edge of the grid."""


@dataclass(frozen=True)
class RidgeFit:
    """Result of `ridge_cv`, for t targets.

    weights : (n_features, t) coefficients where `solver` is "primal"; (n_samples, t) dual coefficients where it is
        "kernel"; `coefficients` gives the former from the latter.
    intercept : (t,), prediction for X = 0 (and nuisance regressors at their training mean).
    alphas : (t,), chosen penalties; NaN for constant targets.
    cv_scores : (t,), cross-validated score at the chosen alpha; NaN for constant targets.
    constant : (t,) bool, targets that do not vary; their weights are 0 and their intercept is their value.
    nuisance_mean, nuisance_coef : (q,) and (q, t), None without nuisance regressors; add
        ``(nuisance - nuisance_mean) @ nuisance_coef`` to include their part in a prediction.
    solver : "primal" or "kernel".
    """

    weights: Sink2D
    intercept: NDArray[np.floating]
    alphas: NDArray[np.floating]
    cv_scores: NDArray[np.floating]
    constant: NDArray[np.bool_]
    nuisance_mean: NDArray[np.floating] | None
    nuisance_coef: NDArray[np.floating] | None
    solver: str

    def coefficients(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Coefficients of the features, (n_features, t), in memory; X are the features of the fit."""
        weights: NDArray[np.floating] = np.asarray(self.weights)
        return weights if self.solver == "primal" else (X - X.mean(0)).T @ weights


def ridge_cv(
    X: ArrayLike2D,
    Y: ArrayLike2D,
    alphas: ArrayLike,
    folds: Folds = 5,
    *,
    groups: ArrayLike | None = None,
    nuisance: NDArray[np.floating] | None = None,
    solver: Solver = "auto",
    scoring: Scoring = "r2",
    out: Sink2D | None = None,
    target_ids: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    targets_chunk: int | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> RidgeFit:
    """Fit ridge regressions with an unpenalised intercept and one alpha a target.

    W = (Xc'Xc + alpha I)^-1 Xc'Yc (Hoerl and Kennard 1970), centred inside each fold. float64 features are computed in
    float64; any others in float32 with a float64 eigen-decomposition. Working memory: about one copy of X a fold, plus
    one chunk of targets.

    Parameters
    ----------
    X : (n_samples, n_features), array or array-like.
    Y : (n_samples, n_targets), array or lazily read array-like (zarr, h5py, xarray); read once, by slices of targets.
    alphas : penalties to choose from, all positive.
    folds : number of folds, list of (train, test) rows, or "loo" (leave one sample out, by the closed form).
    groups : (n_samples,), stimulus ids or runs: a number of folds keeps them together, a list of folds must not
        split them.
    nuisance : (n_samples, q), regressors fitted without penalty together with the intercept: they are projected out
        of features and targets, by the training part of each fold.
    solver : "primal", "kernel" (dual form), or "auto": kernel when features outnumber samples.
    scoring : what the folds compare. "r2": 1 - squared error over variance about the training mean, both summed over
        folds. "r": Pearson correlation, averaged over folds.
    out : where weights are written, ``out[:, a:b] = ...``, e.g. a zarr array of the shape given in `RidgeFit`;
        by default a new NumPy array.
    target_ids : names used in error messages.
    device : torch device of the matrix products.
    targets_chunk : targets a chunk; by default what fits 32 MB (512 MB on a GPU), in whole storage chunks of `out`.

    Raises
    ------
    InputError : an alpha that is not positive, an unknown solver or scoring.
    NotFiniteError : NaN or infinite values; names the first such target.
    ShapeError : shapes that do not agree.
    LeakageError : a row or group on both sides of a fold.

    Warns
    -----
    AlphaEdgeWarning : more than 5 % of the targets chose the smallest or the largest alpha.
    ConstantTargetWarning : targets that do not vary.
    """
    grid = check_alphas(alphas)
    check_samples(Y, X.shape[0])
    pairs, score = plan_folds(X.shape[0], folds, groups, scoring)
    device = torch.device(device)
    form = choose_solver(solver, *X.shape)
    samples, mean_row = (centred_features if form == "primal" else centred_kernel)(X, device)
    design = Design(samples, mean_row, nuisance, form, device, compute_dtype(X))
    spectra = decompose_folds(design, pairs, on_event, stop)
    full, to_weights = decompose_all(design)
    fit = empty_fit(design, Y.shape[1], out)
    size = targets_chunk or chunk_size(bytes_per_target(design, pairs), chunk_bytes(device), fit.weights)
    for columns, values, mean, constant in read_targets(Y, size, target_ids):
        report(on_event, stop, "fit targets", columns.start, Y.shape[1])
        targets = torch.as_tensor(values, dtype=design.dtype, device=design.device)
        cv_scores, index = score(targets, spectra, torch.as_tensor(grid)).max(0)
        fit.alphas[columns] = np.where(constant, np.nan, grid[index.cpu().numpy()])
        fit.cv_scores[columns] = np.where(constant, np.nan, cv_scores.cpu().numpy())
        fit.constant[columns] = constant
        weights, unpenalised = refit(targets, design, full, to_weights, fit.alphas[columns])
        fit.weights[:, columns] = weights
        fit.intercept[columns] = mean + unpenalised[0]
        if fit.nuisance_coef is not None:
            fit.nuisance_coef[:, columns] = unpenalised[1:]
    report(on_event, None, "fit targets", Y.shape[1], Y.shape[1])
    warn_constant(fit.constant)
    warn_edge(fit.alphas, grid)
    return fit


def check_alphas(alphas: ArrayLike) -> NDArray[np.float64]:
    """The penalties in ascending order; raise `InputError` unless all are positive and finite."""
    grid = np.unique(np.asarray(alphas, dtype=np.float64))
    if grid.size == 0 or not np.isfinite(grid).all() or grid[0] <= 0:
        raise InputError(
            f"alphas must be positive and finite, got {grid.tolist()}",
            where="alphas",
            remedy="for an almost unpenalised fit use a small alpha such as 1e-6",
        )
    return grid


def warn_edge(alphas: NDArray[np.floating], grid: NDArray[np.floating]) -> None:
    """Warn with an `AlphaEdgeWarning` where more than 5 % of targets chose an end of a grid of two or more."""
    chosen = alphas[np.isfinite(alphas)]
    if chosen.size == 0 or grid.size < 2:
        return
    edges = grid[[0, -1]].astype(alphas.dtype)
    low, high = float((chosen <= edges[0]).mean()), float((chosen >= edges[1]).mean())
    if low + high > EDGE_FRACTION:
        warnings.warn(
            f"{low:.1%} of the targets chose the smallest alpha ({grid[0]:g}) and {high:.1%} the largest "
            f"({grid[-1]:g}): widen the grid, or check these targets for signal",
            AlphaEdgeWarning,
            stacklevel=3,
        )


def choose_solver(solver: Solver, n_samples: int, n_features: int) -> Literal["primal", "kernel"]:
    if solver == "auto":
        return "kernel" if n_features > n_samples else "primal"
    if solver not in ("primal", "kernel"):
        raise InputError(f"unknown solver {solver!r}", where="solver", remedy='choose "auto", "primal" or "kernel"')
    return solver


def decompose_folds(
    design: Design, pairs: Sequence[Fold], on_event: OnEvent | None, stop: Stop | None
) -> list[Spectrum]:
    """Every fold in eigen-coordinates."""
    spectra = []
    for i, pair in enumerate(pairs):
        report(on_event, stop, "decompose folds", i, len(pairs))
        spectra.append(design.decompose(pair)[0])
    return spectra


def decompose_all(design: Design) -> tuple[Spectrum, Tensor]:
    """All samples in eigen-coordinates, and the map from these to weights."""
    everything = np.arange(design.n_samples)
    return design.decompose((everything, everything[:0]))


def chunk_bytes(device: torch.device) -> int:
    """Working memory of one chunk of targets."""
    return CPU_CHUNK_BYTES if device.type == "cpu" else GPU_CHUNK_BYTES


def bytes_per_target(design: Design, pairs: Sequence[Fold]) -> int:
    """Working memory of one target: its responses, its eigen-coordinates, its predictions and its weights."""
    largest_test = max(len(test) for _, test in pairs)
    rank = min(design.samples.shape)
    values = 2 * design.n_samples + 2 * rank + 3 * largest_test + design.n_weights
    return values * design.dtype.itemsize


def empty_fit(design: Design, n_targets: int, out: Sink2D | None) -> RidgeFit:
    shape = (design.n_weights, n_targets)
    dtype = str(design.dtype).removeprefix("torch.")
    if out is None:
        out = np.empty(shape, dtype)
    check_sink(out, shape)
    mean = design.nuisance_mean
    return RidgeFit(
        weights=out,
        intercept=np.empty(n_targets, dtype),
        alphas=np.empty(n_targets, dtype),
        cv_scores=np.empty(n_targets, dtype),
        constant=np.empty(n_targets, bool),
        nuisance_mean=mean if mean.size else None,
        nuisance_coef=np.empty((mean.size, n_targets), dtype) if mean.size else None,
        solver=design.solver,
    )


def refit(
    Y: Tensor, design: Design, full: Spectrum, to_weights: Tensor, alphas: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Weights, (n_weights, t), and unpenalised coefficients, (1 + q, t), of centred targets at one alpha each."""
    penalties = torch.as_tensor(np.nan_to_num(alphas, nan=1.0), dtype=Y.dtype, device=Y.device)
    projected = full.left.T @ Y
    projected /= full.eigenvalues.to(Y)[:, None] + penalties
    weights = to_weights @ projected
    unpenalised = full.nuisance_fit @ Y - design.nuisance_row @ weights
    unpenalised[0] -= design.mean_row @ weights
    return weights.cpu().numpy(), unpenalised.cpu().numpy()
