"""The transformer brain encoder: queries of regions or neuroids attend to a frozen model's tokens."""

from __future__ import annotations

from .encoder import TransformerEncoder
from .maps import AttentionMaps
from .predictor import ROUTINGS

__all__ = ["ROUTINGS", "AttentionMaps", "TransformerEncoder"]
