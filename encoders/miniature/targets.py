"""What the miniature backbone learns to read from a scene: patch maps, and attributes of the object."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recordings.miniature import CATEGORIES, Rendered, Scenes

PATCH = 8
FREQUENCIES = (0.08, 0.125, 0.25)
ORIENTATIONS = 4


def gabor_energy(image: np.ndarray, frequency: float, orientations: int = ORIENTATIONS) -> Tensor:
    """Energy of quadrature pairs of Gabor filters on luminance (E. H. Adelson & J. R. Bergen, 1985).

    Parameters
    ----------
    image : uint8 (n, H, W, 3).
    frequency : cycles a pixel; the Gaussian's standard deviation is .4 of a cycle.
    orientations : evenly spaced over half a turn.

    Returns
    -------
    float32 (n, orientations, H, W).
    """
    luminance = torch.as_tensor(image).float().mean(-1)[:, None] / 255
    sigma = 0.4 / frequency
    reach = int(np.ceil(2.5 * sigma))
    grid = torch.arange(-reach, reach + 1, dtype=torch.float32)
    angle = torch.pi * torch.arange(orientations)[:, None, None] / orientations
    phase = 2 * torch.pi * frequency * (torch.cos(angle) * grid + torch.sin(angle) * grid[:, None])
    envelope = torch.exp(-(grid**2 + grid[:, None] ** 2) / (2 * sigma**2))
    even = envelope * torch.cos(phase)
    even = even - envelope * even.sum((1, 2), keepdim=True) / envelope.sum()
    filters = torch.cat([even, envelope * torch.sin(phase)])[:, None] / envelope.sum()
    response = F.conv2d(F.pad(luminance, (reach,) * 4, mode="replicate"), filters)
    return response[:, :orientations] ** 2 + response[:, orientations:] ** 2


def chromaticity(image: np.ndarray) -> Tensor:
    """Red and green shares of the light, minus a third, float32 (n, 2, H, W), of uint8 (n, H, W, 3)."""
    rgb = torch.as_tensor(image).float() + 1
    return (rgb[..., :2] / rgb.sum(-1, keepdim=True) - 1 / 3).movedim(-1, 1)


def patch_targets(scenes: Scenes, pictures: Rendered) -> dict[str, Tensor]:
    """Maps by patch, each float32 (n, patches, channels), in the order of the transformer's tokens.

    ``edges``: square root of Gabor energy in quarters of a patch, at `FREQUENCIES` and `ORIENTATIONS`. ``colour``:
    luminance and chromaticity in quarters. ``form``: silhouette in sixteenths, and relative depth in quarters.
    ``identity``: silhouette by category.
    """
    silhouette = torch.as_tensor(pictures.silhouette).float()[:, None]
    energy = torch.cat([gabor_energy(pictures.image, f) for f in FREQUENCIES], 1)
    luminance = torch.as_tensor(pictures.image).float().mean(-1)[:, None] / 255
    depth = torch.as_tensor(pictures.depth)[:, None]
    nearness = torch.where(depth > 0, 1 + depth.amax((2, 3), keepdim=True) - depth, depth)
    cover = F.avg_pool2d(silhouette, PATCH)
    one_hot = F.one_hot(torch.as_tensor(scenes.category), len(CATEGORIES)).float()
    return {
        "edges": _by_patch(F.avg_pool2d(energy, PATCH // 2).sqrt(), 2),
        "colour": _by_patch(F.avg_pool2d(torch.cat([luminance, chromaticity(pictures.image)], 1), PATCH // 2), 2),
        "form": torch.cat(
            [_by_patch(F.avg_pool2d(silhouette, PATCH // 4), 4), _by_patch(F.avg_pool2d(nearness, PATCH // 2), 2)], -1
        ),
        "identity": _by_patch(one_hot[:, :, None, None] * cover, 1),
    }


def attributes(scenes: Scenes) -> Tensor:
    """Hue (cosine, sine), place, scale, pose and shape of each object, float32 (n, 9)."""
    turn = 2 * np.pi * scenes.hue
    columns = [np.cos(turn), np.sin(turn), scenes.x, scenes.y, scenes.scale, scenes.azimuth, scenes.elevation]
    return torch.as_tensor(np.stack([*columns, scenes.shape_1, scenes.shape_2], 1), dtype=torch.float32)


ATTRIBUTES = ("hue_cos", "hue_sin", "x", "y", "scale", "azimuth", "elevation", "shape_1", "shape_2")


def _by_patch(maps: Tensor, cells: int) -> Tensor:
    """Group maps (n, channels, rows, columns) into patches of `cells` by `cells`: (n, patches, channels * cells**2)."""
    return F.pixel_unshuffle(maps, cells).flatten(2).transpose(1, 2)
