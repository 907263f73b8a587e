"""Cross-validated scores of every alpha for a chunk of targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recordings.errors import InputError, LeakageError

from .folds import Fold, make_folds
from .spectrum import Spectrum

Scoring = Literal["r2", "r"]
Folds = int | Literal["loo"] | Sequence[Fold]
Scorer = Callable[[Tensor, Sequence[Spectrum], Tensor], Tensor]


def plan_folds(n_samples: int, folds: Folds, groups: ArrayLike | None, scoring: Scoring) -> tuple[list[Fold], Scorer]:
    """The (train, test) rows to decompose and the function that scores them.

    Leave-one-out needs one decomposition, of all rows.

    Raises
    ------
    InputError : unknown folds or scoring, or folds too small to correlate.
    LeakageError : a row or a group on both sides.
    """
    if scoring not in ("r2", "r"):
        raise InputError(f"unknown scoring {scoring!r}", where="scoring", remedy='choose "r2" or "r"')
    if isinstance(folds, str):
        _check_leave_one_out(folds, scoring, groups)
        everything = np.arange(n_samples)
        return [(everything, everything)], leave_one_out_r2
    pairs = make_folds(n_samples, folds, groups)
    fewest = min(len(test) for _, test in pairs)
    if scoring == "r" and fewest < 3:
        raise InputError(
            f"a fold with {fewest} test samples has no meaningful correlation",
            where="folds",
            remedy='use larger folds, or scoring="r2"',
        )
    return pairs, pooled_r2 if scoring == "r2" else mean_r


def _check_leave_one_out(folds: str, scoring: Scoring, groups: ArrayLike | None) -> None:
    if folds != "loo":
        raise InputError(f"unknown folds {folds!r}", where="folds", remedy='give a number, a list of folds, or "loo"')
    if scoring == "r":
        raise InputError(
            "one left-out sample has no correlation", where="scoring", remedy='use scoring="r2" with folds="loo"'
        )
    labels, counts = np.unique([] if groups is None else np.asarray(groups), return_counts=True)
    if (counts > 1).any():
        raise LeakageError(
            f"{labels[counts.argmax()]!s} has {counts.max()} samples, of which only one would be left out",
            where="folds",
            remedy="give a number of folds, which keeps groups together",
        )


def pooled_r2(Y: Tensor, folds: Sequence[Spectrum], alphas: Tensor) -> Tensor:
    """1 - squared error over variance about the training mean, both summed over folds.

    Parameters
    ----------
    Y : (n_samples, t), centred targets.
    folds : decomposed folds.
    alphas : (n_alphas,).

    Returns
    -------
    (n_alphas, t); with folds of one size it ranks alphas as the mean squared error does.
    """
    error = Y.new_zeros(len(alphas), Y.shape[1])
    total = Y.new_zeros(Y.shape[1])
    for fold in folds:
        projected, target = _project(Y, fold)
        total += _sum_of_squares(target)
        for i, alpha in enumerate(alphas):
            residual = torch.addmm(target, _scaled(fold, alpha), projected, alpha=-1)
            error[i] += _sum_of_squares(residual)
    return 1 - error / total


def mean_r(Y: Tensor, folds: Sequence[Spectrum], alphas: Tensor) -> Tensor:
    """Pearson correlation of prediction and target over the test rows, averaged over folds; (n_alphas, t).

    A fold where either side is constant counts as 0.
    """
    scores = Y.new_zeros(len(alphas), Y.shape[1])
    for fold in folds:
        projected, target = _project(Y, fold)
        target -= target.mean(0)
        target_norm = _sum_of_squares(target).sqrt_()
        for i, alpha in enumerate(alphas):
            to_test = _scaled(fold, alpha)
            prediction = (to_test - to_test.mean(0)) @ projected
            covariance = torch.linalg.vecdot(prediction, target, dim=0)
            scores[i] += (covariance / (_sum_of_squares(prediction).sqrt_() * target_norm)).nan_to_num_(0, 0, 0)
    return scores / len(folds)


def leave_one_out_r2(Y: Tensor, folds: Sequence[Spectrum], alphas: Tensor) -> Tensor:
    """`pooled_r2` with one sample left out at a time, from one fit on all of them; (n_alphas, t)."""
    (full,) = folds
    _, deviation = _project(Y, full)
    deviation /= 1 - (full.nuisance_test * full.nuisance_fit.T).sum(1, keepdim=True)
    error = torch.stack([_sum_of_squares(leave_one_out_residuals(Y, full, alpha)) for alpha in alphas])
    return 1 - error / _sum_of_squares(deviation)


def leave_one_out_residuals(Y: Tensor, full: Spectrum, alpha: Tensor) -> Tensor:
    """Errors of predicting each sample from all the others, (n_samples, t).

    e_i = (y_i - yhat_i) / (1 - h_ii), with h the diagonal of the hat matrix, unpenalised columns included
    (Allen 1974; Golub, Heath and Wahba 1979).
    """
    projected, target = _project(Y, full)
    to_test = _scaled(full, alpha)
    leverage = (full.nuisance_test * full.nuisance_fit.T).sum(1) + (to_test * full.left).sum(1)
    return torch.addmm(target, to_test, projected, alpha=-1) / (1 - leverage[:, None])


def _project(Y: Tensor, fold: Spectrum) -> tuple[Tensor, Tensor]:
    """Training targets in eigen-coordinates, (k, t), and test targets less the unpenalised part, (n_test, t)."""
    training = Y[fold.train]
    return fold.left.T @ training, Y[fold.test] - fold.nuisance_test @ (fold.nuisance_fit @ training)


def _scaled(fold: Spectrum, alpha: Tensor) -> Tensor:
    return fold.right * (1 / (fold.eigenvalues + alpha)).to(fold.right)


def _sum_of_squares(values: Tensor) -> Tensor:
    return torch.linalg.vecdot(values, values, dim=0)
