"""From stimuli to features of foundation models, and from features to predicted brain responses."""

from __future__ import annotations

from .banded import BandedRidgeEncoder
from .features import FeatureExtractor, Features, Reduction, extract, layers_of
from .ridge import RidgeEncoder

__all__ = [
    "BandedRidgeEncoder",
    "FeatureExtractor",
    "Features",
    "Reduction",
    "RidgeEncoder",
    "extract",
    "layers_of",
]
