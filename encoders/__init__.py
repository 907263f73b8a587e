"""From stimuli to features of foundation models, and from features to predicted brain responses."""

from __future__ import annotations

from .features import FeatureExtractor, Features, Reduction, extract, layers_of

__all__ = [
    "FeatureExtractor",
    "Features",
    "Reduction",
    "extract",
    "layers_of",
]
