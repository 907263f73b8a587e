"""Training of the miniature generator: losses fall, a seed repeats, stopping keeps nothing, finished parts stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from decoders.miniature import train as training
from decoders.miniature.autoencoder import train_autoencoder
from decoders.miniature.conditioning import (
    Words,
    spoil,
    train_ip_adapter,
    train_on_depth,
)
from decoders.miniature.denoiser import ARCHITECTURE, make_scheduler, train_denoiser
from decoders.miniature.pictures import Pictures, draw_pictures
from decoders.miniature.reader import train_reader
from decoders.miniature.text import make_text_encoder, make_tokenizer
from decoders.pictures.pixels import relative_depth
from recordings.errors import Cancelled


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return draw_pictures(40, 3)


@pytest.fixture(scope="module")
def parts(pictures: Pictures) -> tuple[UNet2DConditionModel, Words, torch.Tensor]:
    tokenizer = make_tokenizer(pictures.captions)
    torch.manual_seed(0)
    unet, text = UNet2DConditionModel(**ARCHITECTURE), make_text_encoder(tokenizer)
    return unet, Words(text, tokenizer, pictures.captions), torch.randn(len(pictures), 4, 8, 8)


def test_noise_ends_without_a_trace_of_the_picture() -> None:
    scheduler = make_scheduler()
    assert scheduler.alphas_cumprod[-1] == 0
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.slow
def test_autoencoder_learns_and_scales_its_latents(pictures: Pictures) -> None:
    losses: list[float] = []
    vae = train_autoencoder(pictures, 25, 16, on_event=lambda event: losses.append(event.payload["pixels"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    again = train_autoencoder(pictures, 25, 16)
    assert vae.config.scaling_factor == again.config.scaling_factor


def test_denoiser_learns_and_a_seed_repeats(pictures: Pictures) -> None:
    latents, tokenizer = torch.randn(len(pictures), 4, 8, 8), make_tokenizer(pictures.captions)
    losses: list[float] = []

    def keep(event: object) -> None:
        losses.append(event.payload["loss"])  # type: ignore[attr-defined]

    first, _ = train_denoiser(latents, pictures.captions, tokenizer, 3, 4, on_event=keep)
    second, _ = train_denoiser(latents, pictures.captions, tokenizer, 3, 4)
    assert len(losses) == 3
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_untrained_additions_change_nothing(
    pictures: Pictures, parts: tuple[UNet2DConditionModel, Words, torch.Tensor]
) -> None:
    unet, words, latents = parts
    controlnet = train_on_depth("controlnet", unet, words, latents, pictures.nearness, 1, 4, learning_rate=0.0)
    deep = train_on_depth("depth_unet", unet, words, latents, pictures.nearness, 1, 4, learning_rate=0.0)
    x, context = torch.randn(2, 4, 8, 8), words.context[:2]
    with torch.inference_mode():
        plain = unet(x, 7, context).sample
        maps = torch.rand(2, 1, 64, 64)
        down, middle = controlnet(x, 7, context, controlnet_cond=maps, return_dict=False)
        told = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        torch.testing.assert_close(unet(x, 7, context, **told).sample, plain)
        torch.testing.assert_close(
            deep(torch.cat([x, relative_depth(maps[:, 0], (8, 8))], 1), 7, context).sample, plain
        )


def test_ip_adapter_is_in_the_layout_of_diffusers(
    parts: tuple[UNet2DConditionModel, Words, torch.Tensor],
) -> None:
    unet, words, latents = parts
    looks = np.random.default_rng(0).normal(size=(len(latents), 12)).astype(np.float32)
    weights = train_ip_adapter(unet, words, latents, looks, 2, 4)
    adapted = UNet2DConditionModel(**ARCHITECTURE)
    adapted.load_state_dict(unet.state_dict())
    adapted._load_ip_adapter_weights([weights])
    with torch.inference_mode():
        told = [torch.as_tensor(looks[:2, None])]
        one, other = (
            adapted(latents[:2], 7, words.context[:2], added_cond_kwargs={"image_embeds": [sign * told[0]]}).sample
            for sign in (1, -1)
        )
    assert (one - other).abs().max() > 1e-4


def test_spoilt_maps_keep_their_shape_and_half_stay_as_they_are() -> None:
    maps = torch.rand(6, 1, 64, 64)
    spoilt = spoil(maps, np.random.default_rng(0))
    assert spoilt.shape == maps.shape
    assert torch.equal(spoilt[3:], maps[3:])
    assert not torch.equal(spoilt[:3], maps[:3])


def test_a_stopped_part_is_not_kept_and_a_finished_one_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "N_SCENES", {"autoencoder": 20, "denoiser": 20, "reader": 20})
    steps = dict.fromkeys(training.STEPS, 1)
    with pytest.raises(Cancelled):
        training.Workshop(tmp_path, steps, None, lambda: True).reader()
    assert not list(tmp_path.iterdir())
    training.Workshop(tmp_path, steps, None, None).reader()
    written = (tmp_path / "reader.safetensors").stat().st_mtime_ns
    training.Workshop(tmp_path, steps, None, lambda: True).reader()
    assert (tmp_path / "reader.safetensors").stat().st_mtime_ns == written


def test_reader_repeats_and_reads_names(pictures: Pictures) -> None:
    first, second = (train_reader(pictures, 2, 8) for _ in range(2))
    assert np.array_equal(first.read(pictures.image).position, second.read(pictures.image).position)
