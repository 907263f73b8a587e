"""TAEF2: published weights give the published reconstructions, and only those weights are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from decoders.taef2 import Taef2
from recordings.errors import MissingWeightsError, NotFiniteError, ShapeError, TruncatedFileError


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names of the published files: the decoder's numbers count its clamp."""
    folder = tmp_path_factory.mktemp("taef2")
    torch.manual_seed(0)
    model = Taef2()
    save_file(model.encoder.layers.half().state_dict(), folder / "encoder.safetensors")
    named = {tuple(name.split(".", 1)): value for name, value in model.decoder.layers.half().state_dict().items()}
    save_file({f"{int(place) + 1}.{rest}": v for (place, rest), v in named.items()}, folder / "decoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def taef2(published: Path) -> Taef2:
    return Taef2.from_folder(published)


def test_shapes_and_batches(taef2: Taef2, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (3, 16, 24, 3), np.uint8)
    latents = taef2.encode_images(images)
    assert latents.shape == (3, 32, 2, 3) and latents.dtype == np.float32
    decoded = taef2.decode_latents(latents)
    assert decoded.shape == images.shape and decoded.dtype == np.uint8
    np.testing.assert_allclose(taef2.encode_images(images, batch_size=1), latents, atol=1e-5)
    assert taef2.encode_images(images[:0]).shape == (0, 32, 2, 3)
    assert taef2.decode_latents(latents[:0]).shape == (0, 16, 24, 3)


def test_pooled_branch_counts(taef2: Taef2, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (1, 16, 16, 3), np.uint8)
    before = taef2.encode_images(images)
    weight = taef2.encoder.layers[12].pool[3].weight
    kept = weight.clone()
    try:
        weight.zero_()
        assert np.abs(taef2.encode_images(images) - before).max() > 1e-4
    finally:
        weight.copy_(kept)


def test_saved_and_loaded_by_diffusers(taef2: Taef2, tmp_path: Path, rng: np.random.Generator) -> None:
    taef2.save_pretrained(tmp_path / "vae")
    assert not list((tmp_path / "vae").glob("*.bin"))
    again = Taef2.from_pretrained(tmp_path / "vae")
    images = rng.integers(0, 256, (1, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(again.encode_images(images), taef2.encode_images(images))


def test_wrong_arrays_are_refused(taef2: Taef2) -> None:
    with pytest.raises(ShapeError, match="uint8"):
        taef2.encode_images(np.zeros((1, 16, 16, 3)))
    with pytest.raises(ShapeError, match="multiples of 8"):
        taef2.encode_images(np.zeros((1, 15, 16, 3), np.uint8))
    with pytest.raises(ShapeError, match="32"):
        taef2.decode_latents(np.zeros((1, 4, 2, 2)))
    with pytest.raises(NotFiniteError, match="latent 1"):
        taef2.decode_latents(np.stack([np.zeros((32, 2, 2)), np.full((32, 2, 2), np.nan)]))


def test_absent_truncated_and_foreign_weights(published: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="taef2_encoder"):
        Taef2.from_folder(tmp_path)
    encoder = (published / "encoder.safetensors").read_bytes()
    (tmp_path / "decoder.safetensors").write_bytes((published / "decoder.safetensors").read_bytes())
    (tmp_path / "encoder.safetensors").write_bytes(encoder[: len(encoder) // 2])
    with pytest.raises(TruncatedFileError, match=r"encoder\.safetensors"):
        Taef2.from_folder(tmp_path)
    # Without the pooled branch the rest fits diffusers' own modules, and the pictures would be wrong.
    plain = {name: v for name, v in load_file(published / "encoder.safetensors").items() if ".pool." not in name}
    save_file(plain, tmp_path / "encoder.safetensors")
    with pytest.raises(ShapeError, match="pool"):
        Taef2.from_folder(tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(("name", "decibels"), [("china.jpg", 24.0), ("flower.jpg", 30.2)])
def test_published_weights_give_the_measured_quality(real_data: Path, name: str, decibels: float) -> None:
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image(name))
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((256, 256), Image.Resampling.LANCZOS)
    image = np.asarray(square)[None]
    model = Taef2.from_folder(real_data / "taef2")
    latents = model.encode_images(image)
    assert 0.7 < latents.std() < 1.0
    error = (image.astype(float) - model.decode_latents(latents)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) == pytest.approx(decibels, abs=0.1)
