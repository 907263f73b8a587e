"""How a picture looks, as one embedding: what the miniature IP-Adapter is told."""

from __future__ import annotations

import numpy as np

from encoders import FeatureExtractor

EMBEDDING, READOUT = "miniature:backbone", "cls"
_BATCH = 256


def look_of(image: np.ndarray) -> np.ndarray:
    """The class token of `miniature:backbone`, float32 (n, 192), of pictures uint8 (n, 64, 64, 3)."""
    extractor = FeatureExtractor.from_uri(EMBEDDING, device="cpu")
    parts = [extractor(list(image[k : k + _BATCH]), readout=READOUT) for k in range(0, len(image), _BATCH)]
    return np.concatenate([next(iter(part.values())) for part in parts])
