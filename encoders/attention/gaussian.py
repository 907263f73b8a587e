"""Centre and spread of a map: a Gaussian on a floor fitted to it, or its moments."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

from .position import token_centres

_LARGEST = 2.0
# A map that varies less than this about its mean is flat: float32 softmax over some thousand tokens is no better.
_FLAT = 1e-4


def fit_gaussians(maps: np.ndarray) -> pd.DataFrame:
    """A round Gaussian on an even floor, fitted to each map by least squares.

    map = floor + height exp(-|place - centre|^2 / (2 sigma^2)), at the centres of the places. The fit starts from the
    peak of the smoothed map, with a robust loss (soft L1, at a tenth of the peak's height), so that further bumps count
    as outliers; unlike moments, it is not drawn inwards by the border. Coordinates: x right, y up, units of half
    the image.

    Parameters
    ----------
    maps : (n, row, column), not negative, each summing to 1.

    Returns
    -------
    One row a map: x, y (within the picture), sigma (from a quarter of a place to the whole picture), floor (its share
    of the map's sum), r2 (share of the map's variance that the fit explains). A flat map has NaN, and a floor of 1.
    """
    centres = token_centres(maps.shape[-2:]).astype(np.float64)
    rows = [_fit(np.asarray(m, np.float64), centres) for m in maps]
    return pd.DataFrame(np.array(rows).reshape(-1, 5), columns=["x", "y", "sigma", "floor", "r2"])


def map_moments(maps: np.ndarray) -> pd.DataFrame:
    """First two moments of maps (n, row, column) that sum to 1: x, y, and sigma, the root of their mean variance."""
    places = token_centres(maps.shape[-2:]).astype(np.float64)
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    centre = flat @ places
    variance = flat @ places**2 - centre**2
    return pd.DataFrame({"x": centre[:, 0], "y": centre[:, 1], "sigma": np.sqrt(variance.mean(1).clip(0))})


def _fit(grid: np.ndarray, centres: np.ndarray) -> tuple[float, ...]:
    observed = grid.ravel() / grid.mean()
    if np.ptp(observed) < _FLAT:
        return np.nan, np.nan, np.nan, 1.0, np.nan
    smooth = gaussian_filter(grid / grid.mean(), 1, mode="nearest").ravel()
    low, patch, n = np.quantile(observed, 0.1), 2 / min(grid.shape), len(observed)
    top = smooth.argmax()
    bounds = np.array([[-1, -1, np.log(patch / 4), 0, 0], [1, 1, np.log(_LARGEST), 10 * n, n]])
    start = np.array([*centres[top], np.log(1.5 * patch), max(smooth[top] - low, 1e-3), low])
    inside = np.clip(start, bounds[0] + 1e-6, bounds[1] - 1e-6)

    def bump(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        offset = centres - p[:2]
        square, precision = (offset**2).sum(1), np.exp(-2 * p[2])
        return offset, square, np.exp(-0.5 * square * precision), precision

    def residual(p: np.ndarray) -> np.ndarray:
        return p[4] + p[3] * bump(p)[2] - observed

    def jacobian(p: np.ndarray) -> np.ndarray:
        offset, square, g, precision = bump(p)
        slope = p[3] * precision * g[:, None]
        return np.column_stack([slope * offset, slope[:, 0] * square, g, np.ones(n)])

    scale = 0.1 * (observed.max() - low)
    fitted = least_squares(residual, inside, jacobian, bounds=bounds, loss="soft_l1", f_scale=scale).x
    r2 = 1 - (residual(fitted) ** 2).sum() / ((observed - 1) ** 2).sum()
    return fitted[0], fitted[1], float(np.exp(fitted[2])), fitted[4], r2
