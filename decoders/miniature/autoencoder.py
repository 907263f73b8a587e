"""The miniature generator's autoencoder: pictures of 64 x 64 pixels as 4 x 8 x 8 latents (Rombach et al. 2022)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from recordings.events import OnEvent, Stop, report

from .pictures import Pictures, as_tensor, batches

ARCHITECTURE = {
    "block_out_channels": (16, 32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
# The object covers a tenth of the picture and is what is looked at.
OBJECT_WEIGHT = 4.0
KL_WEIGHT = 1e-5
_GRADIENT = 1.0


def train_autoencoder(
    pictures: Pictures,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> AutoencoderKL:
    """An autoencoder of the pictures, its `scaling_factor` such that scaled latents have unit s.d.

    Raises `Cancelled` if `stop` answers True; nothing is kept then.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**ARCHITECTURE).to(device=device, memory_format=torch.channels_last).train()
    generator = torch.Generator(device).manual_seed(seed)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.05)
    for step, rows in enumerate(batches(len(pictures), steps, batch_size, seed)):
        image = as_tensor(pictures.image[rows]).to(device=device, memory_format=torch.channels_last)
        weight = _weight(torch.as_tensor(pictures.nearness[rows] > 0).to(device))
        posterior = vae.encode(image).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        losses = {"pixels": _distance(decoded, image, weight), "kl": posterior.kl().mean() / posterior.mean[0].numel()}
        optimiser.zero_grad()
        (losses["pixels"] + KL_WEIGHT * losses["kl"]).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        report(on_event, stop, "autoencoder", step + 1, steps, **{k: v.item() for k, v in losses.items()})
    vae.eval()
    vae.register_to_config(scaling_factor=1 / float(encode(vae, pictures.image[:2000]).std()))
    return vae


@torch.inference_mode()
def encode(vae: AutoencoderKL, image: np.ndarray, batch_size: int = 100) -> Tensor:
    """Means of the posterior, not scaled: float32 (n, 4, 8, 8), of uint8 (n, 64, 64, 3)."""
    parts = (image[k : k + batch_size] for k in range(0, len(image), batch_size))
    return torch.cat([vae.encode(as_tensor(part).to(vae.device)).latent_dist.mean.cpu() for part in parts])


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor, batch_size: int = 100) -> np.ndarray:
    """Pictures, uint8 (n, 64, 64, 3), of latents that are not scaled (n, 4, 8, 8)."""
    pixels = torch.cat([vae.decode(part.to(vae.device)).sample.cpu() for part in latents.split(batch_size)])
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()


def psnr(image: np.ndarray, decoded: np.ndarray) -> float:
    """Mean peak signal-to-noise ratio in decibels of pictures uint8 (n, H, W, 3)."""
    error = ((image.astype(np.float32) - decoded) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def _weight(silhouette: Tensor) -> Tensor:
    # Dilated, since an outline is where a shape is told.
    near = F.max_pool2d(silhouette[:, None].float(), 5, stride=1, padding=2)
    weight = 1 + OBJECT_WEIGHT * near
    return weight / weight.mean()


def _distance(decoded: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    error = decoded - image
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    edges = (across.abs() * weight[..., 1:]).mean() + (down.abs() * weight[..., 1:, :]).mean()
    return (error.abs() * weight).mean() + (error.square() * weight).mean() + _GRADIENT * edges
