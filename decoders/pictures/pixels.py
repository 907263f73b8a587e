"""Pictures as arrays: uint8 (n, H, W, 3) RGB, and depth maps as what conditions a generator."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from recordings.errors import InputError, ShapeError

# Below this a depth map is as good as flat.
_FLAT = 1e-6


def check_images(images: np.ndarray, where: str = "images") -> None:
    """Raise `ShapeError` unless pictures are uint8 (n, H, W, 3)."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        kind = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ShapeError(
            f"pictures are {kind}, not uint8 (n, H, W, 3)",
            where=where,
            remedy="Convert grayscale, RGBA or floating-point pictures to 8-bit RGB",
        )


def resize(images: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Pictures uint8 (n, H, W, 3) at a size (height, width), or of `size` pixels a side, by Lanczos' filter."""
    height, width = (size, size) if isinstance(size, int) else size
    if images.shape[1:3] == (height, width):
        return images
    resized = (Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS) for image in images)
    return np.stack([np.asarray(image) for image in resized]) if len(images) else images.reshape(0, height, width, 3)


def relative_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Depth maps as a depth-to-image UNet sees them: (n, 1, *size), each scaled to [-1, 1].

    Parameters
    ----------
    depth : float (n, H, W), larger is nearer, of any scale.

    Raises
    ------
    InputError : a map that is flat, which would be divided by zero.
    """
    small = _shrink(depth, size)
    low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
    flat = (high - low < _FLAT).flatten()
    if flat.any():
        raise InputError(f"depth map {int(flat.int().argmax())} is constant", remedy="Leave depth out for it")
    return 2 * (small - low) / (high - low) - 1


def absolute_depth(depth: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """Depth maps as a ControlNet sees them: (n, channels, *size), nearness in [0, 1], what lies beyond cut."""
    maps = depth[:, None].float().clamp(0, 1)
    if maps.shape[-2:] != size:
        maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps.expand(-1, channels, -1, -1)


def flat_maps(depth: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """bool (n,), which depth maps (n, H, W) do not vary as a depth-to-image UNet sees them at `size`.

    Without a size, as a ControlNet sees them: nearness in [0, 1].
    """
    seen = depth.clip(0, 1) if size is None else _shrink(torch.as_tensor(depth), size).numpy()
    return np.ptp(seen.reshape(len(depth), -1), axis=1) < _FLAT


def _shrink(depth: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(depth[:, None].float(), size=size, mode="bicubic", align_corners=False)


def spread(values: np.ndarray) -> float:
    """S.d. of the finite values, in float64; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.std(dtype=np.float64)) if len(finite) else float("nan")
