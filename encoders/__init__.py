"""From stimuli to features of foundation models, and from features to predicted brain responses."""

from __future__ import annotations

from .attention import AttentionMaps, TransformerEncoder
from .banded import BandedRidgeEncoder
from .encoder import Encoder, load_encoder
from .ensemble import Ensemble
from .features import FeatureExtractor, Features, Reduction, extract, layers_of
from .ridge import RidgeEncoder
from .routings import ROUTINGS, make_routing

__all__ = [
    "ROUTINGS",
    "AttentionMaps",
    "BandedRidgeEncoder",
    "Encoder",
    "Ensemble",
    "FeatureExtractor",
    "Features",
    "Reduction",
    "RidgeEncoder",
    "TransformerEncoder",
    "extract",
    "layers_of",
    "load_encoder",
    "make_routing",
]
