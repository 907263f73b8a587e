"""Where inverted pictures are looked for: what a network draws, what an autoencoder decodes, or all smooth ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recordings.errors import ShapeError


@dataclass(frozen=True)
class ImagePrior:
    """A code, and the picture of it, with gradients.

    Attributes
    ----------
    code_shape : of one picture's code. size : height and width of the picture.
    render : codes (n, *code_shape) to red, green and blue, float32 (n, 3, H, W); what leaves [0, 1] is clipped after.
    learning_rate : first size of a step, in units of the code, at a gradient of mean magnitude 1.
    adaptive : divide each number's gradient by its own running size (Adam), not all by their mean magnitude; where
        numbers of a code differ in scale.
    decay : part of the code that is lost a step, which pulls it to 0.
    start : s.d. of the code that the search begins with.
    lower, upper : bounds of each number of the code, or of all.
    penalty : of rendered pictures, (n, 3, H, W) to (n,), added to the relative error of the features.
    """

    code_shape: tuple[int, ...]
    size: tuple[int, int]
    render: Callable[[Tensor], Tensor]
    learning_rate: float
    adaptive: bool = False
    decay: float = 0.0
    start: float = 1.0
    lower: float | np.ndarray | None = None
    upper: float | np.ndarray | None = None
    penalty: Callable[[Tensor], Tensor] | None = None


def generator_prior(
    generator: nn.Module,
    code_shape: tuple[int, ...] = (4096,),
    *,
    crop: int | None = 224,
    upper: float | np.ndarray | None = None,
    learning_rate: float = 2.0,
    decay: float = 0.01,
) -> ImagePrior:
    """Pictures of a generator, searched as published (Shen et al. 2019, PLoS Comput. Biol. 15, e1006633).

    Parameters
    ----------
    generator : codes (n, *code_shape) to red, green and blue (n, 3, H, W) in about [0, 1]; see
        `UpconvolutionalGenerator`.
    crop : side of the square that is cut from the middle; None for the whole picture.
    upper : bound of each number of the code, which is never negative; published: three times the range of AlexNet's
        fc7. None leaves the code free.

    Raises
    ------
    ShapeError : the generator gives no such pictures, or smaller ones than `crop`.
    """
    generator.eval().requires_grad_(False)
    device = next(generator.parameters()).device
    with torch.inference_mode():
        drawn = generator(torch.zeros((1, *code_shape), device=device))
    if drawn.ndim != 4 or drawn.shape[1] != 3 or (crop is not None and min(drawn.shape[2:]) < crop):
        raise ShapeError(f"the generator gives {tuple(drawn.shape)}", remedy="Give (n, 3, H, W), no smaller than crop")
    height, width = (crop, crop) if crop is not None else drawn.shape[2:]
    top, left = (drawn.shape[2] - height) // 2, (drawn.shape[3] - width) // 2

    def render(code: Tensor) -> Tensor:
        return generator(code)[:, :, top : top + height, left : left + width]

    lower = None if upper is None else 0.0
    return ImagePrior(tuple(code_shape), (height, width), render, learning_rate, decay=decay, lower=lower, upper=upper)


def latent_prior(
    vae: Any, latent_shape: tuple[int, int, int], *, learning_rate: float = 0.1, decay: float = 0.01
) -> ImagePrior:
    """Pictures that an autoencoder of diffusers decodes; the code is a latent, scaled to unit variance.

    From the last block of miniature:backbone it draws scenes of the miniature world as whole objects, where those of
    `fourier_prior` dissolve into coloured specks: nearness r .98 against .96 over ten scenes, .97 against .94 over six
    with white noise of .7 s.d. on the features. PixCorr says less, .74 against .71 and with noise .60 against .66, as
    neither finds the colour of more than 40 % of them in that block. A step takes twice the time.

    Parameters
    ----------
    vae : such as `AutoencoderKL` or `Taef2`. latent_shape : (channel, h, w).
    """
    vae.eval().requires_grad_(False)
    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0

    def render(code: Tensor) -> Tensor:
        return (vae.decode(code / scale + shift).sample + 1) / 2

    with torch.inference_mode():
        size = render(torch.zeros((1, *latent_shape), device=vae.device)).shape[2:]
    return ImagePrior(tuple(latent_shape), (size[0], size[1]), render, learning_rate, decay=decay)


def fourier_prior(
    size: tuple[int, int], *, total_variation: float = 0.05, learning_rate: float = 0.05, decay: float = 0.0
) -> ImagePrior:
    """All pictures, smooth ones first: Fourier coefficients over frequency, and a penalty on total variation.

    Steps along coefficients divided by their frequency keep to the spectrum of natural pictures (Olah et al. 2017,
    Feature Visualization); total variation is that of Mahendran & Vedaldi 2015 with exponent 1.

    Parameters
    ----------
    size : height and width. total_variation : weight of the mean absolute difference of neighbouring pixels.
    """
    height, width = size
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    envelope = 1 / (rows**2 + columns**2).sqrt().clamp(min=1 / max(size))
    shape = (3, height, width // 2 + 1, 2)

    def render(code: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(code.contiguous()) * envelope.to(code.device)
        return torch.fft.irfft2(spectrum, s=size, norm="ortho").sigmoid()

    def variation(pixels: Tensor) -> Tensor:
        across, down = pixels.diff(dim=3).abs(), pixels.diff(dim=2).abs()
        return total_variation * (across.mean((1, 2, 3)) + down.mean((1, 2, 3)))

    return ImagePrior(shape, size, render, learning_rate, adaptive=True, decay=decay, start=0.01, penalty=variation)
