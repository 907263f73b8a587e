"""Baselines that a model must beat: pixels, and a pyramid of Gabor energies."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .backbone import Backbone
from .uris import ExtractorURI, unknown_name


class Pixels(nn.Module):
    """Red, green and blue in [0, 1], flattened: (n, 3 * size**2)."""

    size = 32

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)


class GaborPyramid(nn.Module):
    """Energy of quadrature pairs of Gabor filters on luminance, an octave apart, each sampled once a wavelength.

    Energy is the root of the summed squares of the even and the odd filter (E. H. Adelson & J. R. Bergen, J. Opt. Soc.
    Am. A 2, 1985, eq. 5; a pyramid of these encodes V1 in K. N. Kay et al., Nature 452, 2008). The even filter has no
    mean. Output (n, feature), feature = orientations x sum of positions over wavelengths.
    """

    size = 64

    def __init__(self, wavelengths: tuple[int, ...] = (4, 8, 16, 32), n_orientations: int = 6):
        super().__init__()
        self.wavelengths = wavelengths
        for wavelength in wavelengths:
            self.register_buffer(f"filters_{wavelength}", gabor_pairs(wavelength, n_orientations))

    def forward(self, image: Tensor) -> Tensor:
        luminance = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        return torch.cat([self._energy(luminance, wavelength) for wavelength in self.wavelengths], 1)

    def _energy(self, luminance: Tensor, wavelength: int) -> Tensor:
        filters = self.get_buffer(f"filters_{wavelength}").to(luminance.dtype)
        reach = filters.shape[-1] // 2
        padded = F.pad(luminance, (reach,) * 4, mode="replicate")
        start = wavelength // 2
        even, odd = F.conv2d(padded[..., start:, start:], filters, stride=wavelength).chunk(2, 1)
        return torch.sqrt(even**2 + odd**2).flatten(1)


def gabor_pairs(wavelength: int, n_orientations: int) -> Tensor:
    """Even then odd filters, float32 (2 * orientations, 1, width, width); the envelope's SD is half a wavelength."""
    sigma = wavelength / 2
    reach = math.ceil(2.5 * sigma)
    grid = torch.arange(-reach, reach + 1, dtype=torch.float64)
    angle = math.pi * torch.arange(n_orientations, dtype=torch.float64)[:, None, None] / n_orientations
    phase = 2 * math.pi / wavelength * (torch.cos(angle) * grid + torch.sin(angle) * grid[:, None])
    envelope = torch.exp(-(grid**2 + grid[:, None] ** 2) / (2 * sigma**2))
    envelope = envelope / envelope.sum()
    even = envelope * torch.cos(phase)
    even = even - envelope * even.sum((1, 2), keepdim=True)
    return torch.cat([even, envelope * torch.sin(phase)])[:, None].float()


_BASELINES = {"pixels": Pixels, "gabor": GaborPyramid}


def load(uri: ExtractorURI) -> Backbone:
    """The baseline of that name on images scaled (bicubic) to its size."""
    if uri.name not in _BASELINES:
        raise unknown_name("baseline", uri.name, _BASELINES)
    module = _BASELINES[uri.name]()
    size = module.size

    def preprocess(image: np.ndarray) -> dict[str, Tensor]:
        scaled = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        return {"image": torch.as_tensor(np.array(scaled)).movedim(-1, 0).float() / 255}

    return Backbone(
        module=module,
        preprocess=preprocess,
        forward=lambda inputs: module(inputs["image"]),
        preprocessing=f"scaled to {size} x {size}, bicubic",
    )
