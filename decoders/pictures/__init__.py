"""Pictures from decoded latents, text embeddings, captions, depth maps and image embeddings, by latent diffusion."""

from __future__ import annotations

from .diffusion import Step, denoise
from .generator import Generator
from .inputs import DecodedInputs
from .presets import PRESETS, Preset
from .reconstructions import Reconstructions
from .reconstructor import ImageReconstructor
from .tuning import StrengthChoice, choose_strength

__all__ = [
    "PRESETS",
    "DecodedInputs",
    "Generator",
    "ImageReconstructor",
    "Preset",
    "Reconstructions",
    "Step",
    "StrengthChoice",
    "choose_strength",
    "denoise",
]
