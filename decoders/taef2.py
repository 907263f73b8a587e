"""TAEF2: a real autoencoder of photographs, small enough to run anywhere: 32 latent channels at an eighth of the side.

Weights: madebyollin/taesd (MIT, Copyright 2023 Ollin Boer Bohan), distilled from the autoencoder of FLUX.2.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from encoders.features.extractor import torch_device
from recordings.errors import MissingWeightsError, NotFiniteError, ShapeError, TruncatedFileError

WIDTH, LATENT_CHANNELS, REDUCTION = 64, 32, 8
# Positions of the middle blocks in diffusers' encoder and decoder.
_POOLED = {"encoder": (11, 12, 13), "decoder": (2, 3, 4)}
# The published decoder counts its clamp as a layer, diffusers' does not.
_SHIFT = {"encoder": 0, "decoder": -1}


class PooledBlock(AutoencoderTinyBlock):
    """A block of diffusers' tiny autoencoder whose input first goes through a branch normalised over the picture."""

    def __init__(self, width: int, groups: int = 4):
        super().__init__(width, width, "relu")
        wide = width * groups
        self.pool = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.GroupNorm(groups, wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) to the same shape."""
        return super().forward(x + self.pool(x))


class Taef2(AutoencoderTiny):
    """diffusers' `AutoencoderTiny` with 32 latent channels and three pooled blocks in the middle of each half.

    As with any autoencoder of diffusers, `encode` and `decode` take tensors in [-1, 1]; `encode_images` and
    `decode_latents` take and give pictures. Latents are near unit variance as they are: `scaling_factor` is 1.
    """

    def __init__(self) -> None:
        super().__init__(latent_channels=LATENT_CHANNELS)
        for half, positions in _POOLED.items():
            for position in positions:
                getattr(self, half).layers[position] = PooledBlock(WIDTH)

    @classmethod
    def from_folder(cls, folder: str | PathLike[str], device: str = "cpu") -> Self:
        """The published weights, ``encoder.safetensors`` and ``decoder.safetensors``, in float32.

        Raises
        ------
        MissingWeightsError : one of the two is absent. TruncatedFileError : one cannot be read.
        ShapeError : they are of another autoencoder.
        """
        model = cls()
        for half in _POOLED:
            path = Path(folder) / f"{half}.safetensors"
            if not path.is_file():
                raise MissingWeightsError(
                    "no weights of TAEF2 here",
                    where=path,
                    remedy="Save the tensors of taef2_encoder.pth and taef2_decoder.pth of madebyollin/taesd as "
                    "encoder.safetensors and decoder.safetensors",
                )
            _load(getattr(model, half).layers, path, _SHIFT[half])
        return model.to(torch_device(device)).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode_images(self, images: np.ndarray, batch_size: int = 16) -> np.ndarray:
        """Latents, float32 (n, 32, H/8, W/8), of pictures uint8 (n, H, W, 3).

        Raises
        ------
        ShapeError : not such pictures, or sides that 8 does not divide.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ShapeError(f"pictures of shape {images.shape}, {images.dtype}", remedy="Give uint8 (n, H, W, 3)")
        if images.shape[1] % REDUCTION or images.shape[2] % REDUCTION:
            raise ShapeError(f"pictures of {images.shape[1]} x {images.shape[2]}", remedy="Cut sides to multiples of 8")
        parts = [np.empty((0, LATENT_CHANNELS, images.shape[1] // REDUCTION, images.shape[2] // REDUCTION), np.float32)]
        for start in range(0, len(images), batch_size):
            pixels = torch.tensor(images[start : start + batch_size], device=self.device).movedim(-1, 1)
            parts.append(self.encode(pixels / 127.5 - 1).latents.cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def decode_latents(self, latents: np.ndarray, batch_size: int = 16) -> np.ndarray:
        """Pictures, uint8 (n, H, W, 3), of latents float32 (n, 32, H/8, W/8).

        Raises
        ------
        ShapeError : not such latents. NotFiniteError : NaN or infinity; the row is named.
        """
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 4 or latents.shape[1] != LATENT_CHANNELS:
            raise ShapeError(f"latents of shape {latents.shape}", remedy=f"Give (n, {LATENT_CHANNELS}, h, w)")
        finite = np.isfinite(latents).all((1, 2, 3))
        if not finite.all():
            raise NotFiniteError(f"latent {int(np.argmin(finite))} is NaN or infinite ({(~finite).sum()} are)")
        parts = [np.empty((0, latents.shape[2] * REDUCTION, latents.shape[3] * REDUCTION, 3), np.uint8)]
        for start in range(0, len(latents), batch_size):
            pixels = self.decode(torch.tensor(latents[start : start + batch_size], device=self.device)).sample
            parts.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy())
        return np.concatenate(parts)


def _load(layers: nn.Module, path: Path, shift: int) -> None:
    try:
        published = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TruncatedFileError(f"cannot be read ({error})", where=path, remedy="Fetch the file again") from error
    split = {name: name.partition(".") for name in published}
    renamed = {f"{int(place) + shift}.{rest}": published[name] for name, (place, _, rest) in split.items()}
    try:
        layers.load_state_dict(renamed)
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()
        raise ShapeError(f"weights of another autoencoder ({what})", where=path) from error
