"""Scores of pixels, as MindEye defines them (Scotti et al. 2023): PixCorr and SSIM at 425 x 425."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from recordings.errors import ShapeError
from recordings.events import OnEvent, Stop, report

SIZE = 425
COMMON_SIZE = 256
_BATCH = 4


def pix_corr(reconstructed: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Pearson r between the RGB values of each reconstruction and its original, (n,) float64; NaN for a flat picture.

    Both are scaled to 256 x 256 and then to 425 x 425, bilinear.

    Parameters
    ----------
    reconstructed, shown : uint8 (n, H, W, 3); sizes may differ.
    """
    check_pairs(reconstructed, shown)
    parts = [
        _pix_corr(at_full_size(reconstructed[rows]), at_full_size(shown[rows])) for rows in row_batches(len(shown))
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def ssim(reconstructed: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Structural similarity of each reconstruction with its original (Wang et al. 2004), (n,) float64.

    On grey pictures of 425 x 425 in [0, 1], Gaussian window of s.d. 1.5, covariances of the population.

    Parameters
    ----------
    reconstructed, shown : uint8 (n, H, W, 3); sizes may differ.
    """
    check_pairs(reconstructed, shown)
    parts = [_ssim(at_full_size(reconstructed[rows]), at_full_size(shown[rows])) for rows in row_batches(len(shown))]
    return np.concatenate(parts) if parts else np.empty(0)


def pixel_scores(
    reconstructed: np.ndarray, shown: np.ndarray, on_event: OnEvent | None = None, stop: Stop | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """PixCorr and SSIM of several samples of each picture, each (n, sample) float64.

    Parameters
    ----------
    reconstructed : uint8 (n, sample, H, W, 3). shown : uint8 (n, H, W, 3).
    """
    correlation, structure = np.empty(reconstructed.shape[:2]), np.empty(reconstructed.shape[:2])
    for rows in row_batches(len(shown)):
        report(on_event, stop, "pixels", rows.start, len(shown))
        original = at_full_size(shown[rows])
        for k in range(reconstructed.shape[1]):
            sample = at_full_size(reconstructed[rows, k])
            correlation[rows, k], structure[rows, k] = _pix_corr(sample, original), _ssim(sample, original)
    return correlation, structure


def row_batches(n: int) -> Iterator[slice]:
    """Rows in batches that bound the memory of pictures at full size."""
    return (slice(start, min(start + _BATCH, n)) for start in range(0, n, _BATCH))


def at_full_size(pictures: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) as float32 (n, 3, 425, 425) in [0, 1]."""
    return scale(as_unit_tensor(pictures), (SIZE, SIZE))


def as_unit_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) as float32 (n, 3, 256, 256) in [0, 1], where all of MindEye's scores start."""
    tensor = torch.as_tensor(np.ascontiguousarray(pictures)).movedim(-1, 1).float() / 255
    return scale(tensor, (COMMON_SIZE, COMMON_SIZE))


def scale(tensor: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Scale (n, 3, H, W), bilinear with anti-aliasing: to (rows, columns), or the shorter side to a number."""
    wanted = [size] if isinstance(size, int) else list(size)
    return resize(tensor, wanted, InterpolationMode.BILINEAR, antialias=True)


def _pix_corr(a: Tensor, b: Tensor) -> np.ndarray:
    a, b = (side.flatten(1) - side.mean((1, 2, 3), dtype=torch.float64)[:, None].float() for side in (a, b))
    covariance, *variances = ((x * y).sum(1, dtype=torch.float64).numpy() for x, y in ((a, b), (a, a), (b, b)))
    # Below this a picture of one colour differs from its mean by rounding alone.
    flat = np.minimum(*variances) <= 1e-12 * a.shape[1]
    return covariance / np.sqrt(np.where(flat, np.nan, variances[0] * variances[1]))


def _ssim(a: Tensor, b: Tensor) -> np.ndarray:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    grey = (rgb2gray(side.movedim(1, -1).numpy()) for side in (a, b))
    return np.array([structural_similarity(x, y, **options) for x, y in zip(*grey, strict=True)], np.float64)


def check_pairs(reconstructed: np.ndarray, shown: np.ndarray) -> None:
    """Raise `ShapeError` unless both are uint8 (n, H, W, 3), as many of one as of the other."""
    for name, side in (("reconstructed", reconstructed), ("shown", shown)):
        if side.dtype != np.uint8 or side.ndim != 4 or side.shape[-1] != 3:
            raise ShapeError(
                f"pictures of shape {side.shape} and dtype {side.dtype}",
                where=name,
                remedy="Give uint8 RGB pictures (n, height, width, 3)",
            )
    if len(reconstructed) != len(shown):
        raise ShapeError(f"{len(reconstructed)} reconstructions for {len(shown)} originals")
