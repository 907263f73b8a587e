"""Feature inversion: from decoded features of a deep network to pictures that have them."""

from __future__ import annotations

from .generator import UpconvolutionalGenerator
from .inverter import FeatureInverter, Inversion
from .network import VGG19_LAYERS
from .priors import ImagePrior, fourier_prior, generator_prior, latent_prior

__all__ = [
    "VGG19_LAYERS",
    "FeatureInverter",
    "ImagePrior",
    "Inversion",
    "UpconvolutionalGenerator",
    "fourier_prior",
    "generator_prior",
    "latent_prior",
]
