"""The eigenvalue form of ridge regression that every alpha and every target shares.

With the training rows residualised on the unpenalised columns (the intercept and any nuisance regressors), ridge
predictions at penalty a are ``right @ diag(1 / (s + a)) @ left.T @ Y``, where s are the eigenvalues of the smaller of
the two Gram matrices (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., sections 3.4.1
and 18.3.5). Only the diagonal depends on a, and nothing depends on Y.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from recordings.errors import NotFiniteError, ShapeError

from .folds import Fold
from .targets import ArrayLike2D, read_columns

GRAM_BLOCK = 2048


class Spectrum(NamedTuple):
    """One training part in eigen-coordinates, and the rows to predict from it.

    left : (n_train, k), maps targets to eigen-coordinates.
    right : (n_test, k), maps eigen-coordinates to predictions for the test rows.
    eigenvalues : (k,), positive, float64.
    nuisance_test : (n_test, q), unpenalised columns (the first is ones).
    nuisance_fit : (q, n_train), pseudo-inverse of the unpenalised columns of the training rows.
    train, test : rows.
    """

    left: Tensor
    right: Tensor
    eigenvalues: Tensor
    nuisance_test: Tensor
    nuisance_fit: Tensor
    train: Tensor
    test: Tensor


class Design:
    """Features and unpenalised columns of all samples, ready to be decomposed for any training part.

    Parameters
    ----------
    samples : centred features, (n_samples, n_features), or their linear kernel in float64, (n_samples, n_samples).
    mean_row : (n_weights,), the features' mean, or the kernel between that mean and every centred sample.
    nuisance : (n_samples, q) or None, unpenalised regressors beside the intercept.
    solver : "primal" or "kernel", which of the two `samples` are.
    device, dtype : of the matrix products.

    Attributes
    ----------
    n_weights : number of coefficients a target, n_features (primal) or n_samples (dual).
    nuisance_row : (1 + q, n_weights), regression of the centred features on the unpenalised columns.
    """

    def __init__(
        self,
        samples: Tensor,
        mean_row: Tensor,
        nuisance: NDArray[np.floating] | None,
        solver: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.samples, self.solver, self.device, self.dtype = samples, solver, device, dtype
        self.n_samples, self.n_weights = samples.shape
        self.nuisance_mean, columns = _unpenalised(self.n_samples, nuisance)
        self.Z = torch.as_tensor(columns, device=eigh_device(device))
        self.nuisance_row = (torch.linalg.pinv(self.Z).to(samples) @ samples).to(device, dtype)
        self.mean_row = mean_row.to(device, dtype)

    def decompose(self, fold: Fold) -> tuple[Spectrum, Tensor]:
        """Eigen-decompose the training rows of `fold`.

        The second result, (n_weights, k), maps eigen-coordinates to primal or dual coefficients.
        """
        train, test = (torch.as_tensor(rows, device=self.device) for rows in fold)
        Z_train, Z_test = (self.Z[rows.to(self.Z.device)] for rows in (train, test))
        Z_pinv = torch.linalg.pinv(Z_train)
        eigen = self._primal if self.solver == "primal" else self._kernel
        eigenvalues, vectors, left, right = eigen(train, test, Z_train, Z_test, Z_pinv)
        right, Z_test, Z_pinv = (part.to(self.device, self.dtype) for part in (right, Z_test, Z_pinv))
        return Spectrum(left, right, eigenvalues, Z_test, Z_pinv, train, test), vectors

    def _primal(
        self, train: Tensor, test: Tensor, Z_train: Tensor, Z_test: Tensor, Z_pinv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        X_train, X_test = self.samples[train], self.samples[test]
        on_nuisance = Z_pinv.to(X_train) @ X_train
        X_train -= Z_train.to(X_train) @ on_nuisance
        X_test -= Z_test.to(X_test) @ on_nuisance
        eigenvalues, vectors = _eigh(_gram(X_train, eigh_device(self.device)))
        vectors = vectors.to(X_train)
        return eigenvalues, vectors, X_train @ vectors, X_test @ vectors

    def _kernel(
        self, train: Tensor, test: Tensor, Z_train: Tensor, Z_test: Tensor, Z_pinv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train, test = train.to(self.samples.device), test.to(self.samples.device)
        K_train, K_test = self.samples[train[:, None], train], self.samples[test[:, None], train]
        on_nuisance = Z_pinv @ K_train
        K_train -= Z_train @ on_nuisance
        K_test -= Z_test @ on_nuisance
        for K in (K_train, K_test):
            K -= (K @ Z_pinv.T) @ Z_train.T
        eigenvalues, vectors = _eigh(K_train)
        left = vectors.to(self.device, self.dtype)
        return eigenvalues, left, left, K_test @ vectors


def compute_dtype(X: ArrayLike2D) -> torch.dtype:
    """float64 for float64 features, float32 for anything else."""
    return torch.float64 if X.dtype == np.float64 else torch.float32


def eigh_device(device: torch.device) -> torch.device:
    """Where float64 is available: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _unpenalised(
    n_samples: int, nuisance: NDArray[np.floating] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the nuisance regressors, (q,), and the columns [1, nuisance - mean], (n_samples, 1 + q)."""
    extra = np.zeros((n_samples, 0)) if nuisance is None else np.asarray(nuisance, dtype=np.float64)
    if extra.ndim != 2 or len(extra) != n_samples:
        raise ShapeError(
            f"shape {extra.shape} where ({n_samples}, n_regressors) is needed",
            where="nuisance",
            remedy="give one row a sample",
        )
    if not np.isfinite(extra).all():
        raise NotFiniteError("NaN or infinite values", where="nuisance", remedy="fill or drop these samples")
    mean = extra.mean(0)
    return mean, np.hstack([np.ones((n_samples, 1)), extra - mean])


def _gram(X: Tensor, device: torch.device) -> Tensor:
    """X'X in float64, by blocks of rows so that no second copy of X is made."""
    gram = torch.zeros(X.shape[1], X.shape[1], dtype=torch.float64, device=device)
    for block in X.split(GRAM_BLOCK):
        block = block.to(device, torch.float64)
        gram.addmm_(block.T, block)
    return gram


def centred_features(X: ArrayLike2D, device: torch.device) -> tuple[Tensor, Tensor]:
    """A centred copy of the features, (n, p), float64 if they are and else float32, and their mean, (p,) float64."""
    block = read_columns(X, slice(None), "feature")
    mean = block.mean(0, dtype=np.float64)
    block -= mean.astype(block.dtype)
    return torch.as_tensor(block, device=device), torch.as_tensor(mean)


def centred_kernel(X: ArrayLike2D, device: torch.device) -> tuple[Tensor, Tensor]:
    """Linear kernel of the centred features, (n, n) float64, features read in blocks.

    The second result is the kernel between the features' mean and every centred sample, (n,) float64.
    """
    n_samples, n_features = X.shape
    kernel = torch.zeros(n_samples, n_samples, dtype=torch.float64, device=eigh_device(device))
    mean_kernel = torch.zeros(n_samples, dtype=torch.float64, device=kernel.device)
    for start in range(0, n_features, GRAM_BLOCK):
        block = torch.as_tensor(read_columns(X, slice(start, start + GRAM_BLOCK), "feature"))
        block = block.to(kernel)
        mean = block.mean(0)
        block -= mean
        mean_kernel += block @ mean
        kernel.addmm_(block, block.T)
    return kernel, mean_kernel


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of a symmetric matrix, without its numerical null space; overwrites the matrix."""
    if gram.is_cuda:
        eigenvalues, vectors = torch.linalg.eigh(gram)
    else:
        # Measured a third faster than torch.linalg.eigh on one AMD EPYC thread, at 768 to 2,000 rows.
        solved = scipy.linalg.eigh(gram.numpy(), driver="evd", overwrite_a=True, check_finite=False)
        eigenvalues, vectors = (torch.as_tensor(part) for part in solved)
    floor = eigenvalues[-1].clamp(min=0) * len(gram) * torch.finfo(gram.dtype).eps
    first = int((eigenvalues <= floor).sum())
    return eigenvalues[first:], vectors[:, first:]
