"""PixCorr and SSIM against fixed cases, numpy, scikit-image and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from decoders.evaluation import pix_corr, ssim
from decoders.evaluation.pixels import as_unit_tensor, at_full_size, pixel_scores, scale
from recordings.errors import Cancelled, ShapeError


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


def test_identical_and_inverted(pictures: np.ndarray) -> None:
    assert pix_corr(pictures, pictures) == pytest.approx(np.ones(5), abs=1e-6)
    assert ssim(pictures, pictures) == pytest.approx(np.ones(5), abs=1e-6)
    assert pix_corr(255 - pictures, pictures) == pytest.approx(-np.ones(5), abs=1e-6)
    assert (ssim(255 - pictures, pictures) < 0.3).all()


def test_pix_corr_is_over_all_colours_of_one_picture(pictures: np.ndarray) -> None:
    made = np.roll(pictures, 1, axis=0)
    a, b = (at_full_size(side).numpy().reshape(5, -1) for side in (made, pictures))
    assert a.shape[1] == 541875
    assert pix_corr(made, pictures) == pytest.approx(
        [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)], abs=1e-5
    )


def test_flat_pictures(pictures: np.ndarray) -> None:
    levels = np.array([0.2, 0.8])
    a, b = (np.full((2, 8, 8, 3), 255 * level, np.uint8) for level in levels)
    assert np.isnan(pix_corr(a, b)).all()
    assert np.isnan(pix_corr(np.full_like(pictures, 77), pictures)).all()
    # Without variance only the luminance term of SSIM is left.
    x, y = a[0, 0, 0, 0] / 255, b[0, 0, 0, 0] / 255
    assert ssim(a, b) == pytest.approx((2 * x * y + 1e-4) / (x**2 + y**2 + 1e-4), abs=1e-5)


def test_ssim_agrees_with_torchmetrics(pictures: np.ndarray) -> None:
    made = np.clip(pictures.astype(int) + 40 * (np.arange(16) % 2)[:, None, None], 0, 255).astype(np.uint8)
    weights = torch.tensor([0.2125, 0.7154, 0.0721])[:, None, None]
    grey = [(at_full_size(side[:2]) * weights).sum(1, keepdim=True) for side in (made, pictures)]
    _, peer = structural_similarity_index_measure(*grey, sigma=1.5, data_range=1.0, return_full_image=True)
    # The mean of torchmetrics runs over a border as well that scikit-image leaves out, as do published numbers.
    expected = peer[..., 5:-5, 5:-5].mean((1, 2, 3)).numpy()
    assert ssim(made[:2], pictures[:2]) == pytest.approx(expected, abs=1e-5)


def test_scaling_never_crops() -> None:
    wide = np.zeros((1, 8, 16, 3), np.uint8)
    wide[0, :, -1] = 255
    assert as_unit_tensor(wide).shape == (1, 3, 256, 256)
    assert as_unit_tensor(wide)[0, :, :, -1].min() == 1
    assert scale(torch.zeros(1, 3, 20, 40), 10).shape == (1, 3, 10, 20)


def test_samples_and_batches_are_scored_one_by_one(pictures: np.ndarray) -> None:
    made = np.stack([pictures, np.roll(pictures, 1, axis=0)], 1)
    correlation, structure = pixel_scores(made, pictures)
    assert correlation[:, 1] == pytest.approx(pix_corr(made[:, 1], pictures))
    assert structure[4:, 1] == pytest.approx(ssim(made[4:, 1], pictures[4:]))
    with pytest.raises(Cancelled):
        pixel_scores(made, pictures, stop=lambda: True)


def test_bad_input(pictures: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="reconstructed"):
        pix_corr(pictures / 255, pictures)
    with pytest.raises(ShapeError, match="4 reconstructions for 5"):
        ssim(pictures[:4], pictures)
    with pytest.raises(ShapeError, match="shown"):
        ssim(pictures, pictures[..., :1])
