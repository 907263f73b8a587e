"""Cleaning of one run's time series before it is averaged or fitted."""

from __future__ import annotations

import numpy as np


def clean_run(
    values: np.ndarray, *, detrend: bool = False, scale: bool = False, confounds: np.ndarray | None = None
) -> np.ndarray:
    """Take a linear trend and confounds out of a run and scale each voxel to unit variance (nilearn's `clean`).

    Parameters
    ----------
    values : (volume, neuroid) of one run. confounds : (volume, regressor), finite.

    Returns
    -------
    (volume, neuroid) float32. Detrending and scaling remove the mean, confounds alone keep it; a constant voxel
    that is scaled becomes 0.
    """
    if not (detrend or scale or confounds is not None):
        return values
    from nilearn.signal import clean

    cleaned = clean(
        values.astype(np.float64),
        detrend=detrend,
        standardize="zscore_sample" if scale else None,
        confounds=confounds,
        filter=False,
    )
    return np.asarray(cleaned, np.float32)
