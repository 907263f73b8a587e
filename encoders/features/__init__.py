"""Features of foundation models: any model by URI, any layer by module path, kept in a resumable store."""

from __future__ import annotations

from .extraction import extract
from .extractor import FeatureExtractor
from .features import Features, layers_of
from .readouts import READOUTS, TokenLayout
from .reduction import Reduction
from .weights import WeightsStatus, fetch, verify, weights_status

__all__ = [
    "READOUTS",
    "FeatureExtractor",
    "Features",
    "Reduction",
    "TokenLayout",
    "WeightsStatus",
    "extract",
    "fetch",
    "layers_of",
    "verify",
    "weights_status",
]
