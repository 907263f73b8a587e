"""Regression at array level: ridge in primal and kernel form, banded ridge, delays, folds."""

from __future__ import annotations

from .banded import BandedRidgeFit, banded_ridge_cv
from .delays import delay
from .folds import make_folds
from .ridge import AlphaEdgeWarning, RidgeFit, ridge_cv
from .targets import ConstantTargetWarning

__all__ = [
    "AlphaEdgeWarning",
    "BandedRidgeFit",
    "ConstantTargetWarning",
    "RidgeFit",
    "banded_ridge_cv",
    "delay",
    "make_folds",
    "ridge_cv",
]
