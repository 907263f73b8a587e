"""Principal components of targets that are far more numerous than stimuli, in the dual form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg

from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report

from .columns import Matrix, Rows, column_blocks


class Components(NamedTuple):
    """Principal components: mean (p,), orthonormal rows `basis` (k, p), share of variance of each (k,); float32."""

    mean: np.ndarray
    basis: np.ndarray
    explained_variance_ratio: np.ndarray

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Coordinates (n, k) float32 of values (n, p)."""
        return (values - self.mean) @ self.basis.T


def gram_matrix(
    matrix: Matrix | Rows, mean: np.ndarray, on_event: OnEvent | None = None, stop: Stop | None = None
) -> np.ndarray:
    """Inner products of the rows less `mean` (p,), float64 (n, n), summed over blocks of columns."""
    gram = np.zeros((matrix.shape[0], matrix.shape[0]))
    for columns in column_blocks(matrix):
        report(on_event, stop, "gram", columns.start, matrix.shape[1])
        # Less their mean, rows of float32 lose nothing that matters in a product of single precision.
        block = matrix[:, columns] - mean[columns]
        gram += block @ block.T
    return gram


def fit_components(
    matrix: Matrix | Rows, gram: np.ndarray, k: int, on_event: OnEvent | None = None, stop: Stop | None = None
) -> tuple[Components, np.ndarray]:
    """The first k principal components of the rows, exact, and the rows' scores (n, k) float32.

    With the Gram matrix of the centred rows G = U S^2 U', the scores are U S and the components S^-1 U' Y (Jolliffe,
    Principal Component Analysis, 2nd ed., section 3.5): the p x p covariance is never formed, and the components are
    computed by blocks of columns. At most n - 1 components have variance; of k, those without are left out.

    Parameters
    ----------
    gram : (n, n), inner products of the rows about any common origin; centred here.

    Raises
    ------
    InputError : k below 1, or no variance at all.
    """
    if k < 1:
        raise InputError(f"{k} components", where="components", remedy="Ask for at least one, or for None")
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    n = len(gram)
    first = max(n - k, 1)
    eigenvalues, vectors = scipy.linalg.eigh(centred, subset_by_index=(min(first, n - 1), n - 1))
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    # Single precision in the products leaves a floor of this height.
    vary = eigenvalues > max(eigenvalues[0], 0) * 1e-6
    if not vary.any():
        raise InputError("the targets do not vary over the stimuli", where="components")
    eigenvalues, vectors = eigenvalues[vary], vectors[:, vary]
    deviations = np.sqrt(eigenvalues)
    mean = np.empty(matrix.shape[1], np.float32)
    basis = np.empty((len(deviations), matrix.shape[1]), np.float32)
    to_basis = (vectors / deviations).T.astype(np.float32)
    for columns in column_blocks(matrix):
        report(on_event, stop, "components", columns.start, matrix.shape[1])
        block = matrix[:, columns]
        mean[columns] = block.mean(0, dtype=np.float64)
        basis[:, columns] = to_basis @ (block - mean[columns])
    ratio = eigenvalues / centred.trace()
    return Components(mean, basis, ratio.astype(np.float32)), (vectors * deviations).astype(np.float32)
