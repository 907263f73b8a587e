"""`miniature:backbone`: a small vision transformer trained on the miniature world, in timm's own layout.

``timm.create_model(f"local-dir:{BACKBONE}", pretrained=True)`` loads it; `encoders.miniature.train` made it.
"""

from __future__ import annotations

from pathlib import Path

BACKBONE = Path(__file__).parent / "backbone"

__all__ = ["BACKBONE"]
