"""Folders of diffusers both ways, what is refused, and what the parts do alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from decoders.pictures import PRESETS, Generator, ImageReconstructor, Reconstructions
from decoders.pictures.generator import torch_generator
from recordings.errors import ArtifactError, InputError, MissingWeightsError, NotFiniteError, ShapeError

from .tiny import EMBEDDING, TOKENS, WIDTH, make_adapter, make_inputs, make_unet

Make = Callable[..., Generator]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_what_a_generator_takes(make: Make) -> None:
    plain, depth, both = make(), make("depth2img"), make("controlnet", "adapter")
    assert plain.latent_shape == depth.latent_shape == (4, 8, 8)
    assert plain.context_shape == (TOKENS, WIDTH) and plain.image_size == (64, 64)
    assert (plain.takes_depth, depth.takes_depth, both.takes_depth) == (None, "depth2img", "controlnet")
    assert (plain.embedding_width, both.embedding_width) == (None, EMBEDDING)
    assert make(text_encoder=None, tokenizer=None).context_shape == (None, WIDTH)


def test_latents_are_scaled_and_pictures_are_their_decoding(make: Make) -> None:
    generator, images = make(), pixels(3, 64, 64, 3)
    latents = generator.encode_images(images)
    tensor = torch.tensor(images).movedim(-1, 1) / 127.5 - 1
    with torch.no_grad():
        raw = generator.vae.encode(tensor).latent_dist.mean
        back = generator.vae.decode(raw).sample
    np.testing.assert_allclose(latents, 0.7 * raw, atol=1e-5)
    expected = ((back.clamp(-1, 1) + 1) * 127.5).round().movedim(1, -1).numpy()
    assert np.abs(generator.decode_latents(latents).astype(int) - expected).max() <= 1
    # Of another size than the generator's own.
    assert generator.decode_latents(np.zeros((1, 4, 4, 6), np.float32)).shape == (1, 32, 48, 3)


def test_samples_of_the_posterior_are_keyed_by_seed_and_picture(make: Make) -> None:
    generator, images = make(), pixels(3, 64, 64, 3)
    drawn = generator.encode_images(images, sample=True, seed=1)
    np.testing.assert_allclose(generator.encode_images(images[::-1], sample=True, seed=1)[::-1], drawn, atol=1e-5)
    assert np.abs(generator.encode_images(images, sample=True, seed=2) - drawn).max() > 1e-3
    assert np.abs(generator.encode_images(images) - drawn).max() > 1e-3


def test_text_embeddings_are_those_of_the_pipeline(make: Make) -> None:
    generator = make()
    texts = ["a red mug", "", "a chair"]
    pipeline = diffusers.StableDiffusionPipeline(
        vae=generator.vae, unet=generator.unet, scheduler=generator.scheduler, text_encoder=generator.text_encoder,
        tokenizer=generator.tokenizer, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    expected = pipeline.encode_prompt(texts, "cpu", 1, False)[0]
    found = generator.encode_text(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.warns(UserWarning, match="is cut to 12"):
        generator.encode_text(["a red mug a blue mug a red chair"])


def test_what_the_parts_refuse(make: Make) -> None:
    generator = make()
    for images in (pixels(2, 64, 64), pixels(2, 64, 64, 4), pixels(2, 64, 64, 3) / 255):
        with pytest.raises(ShapeError, match="8-bit RGB"):
            generator.encode_images(images)
    with pytest.raises(ShapeError, match="latents of shape"):
        generator.decode_latents(np.zeros((1, 3, 8, 8)))
    spoilt = np.zeros((3, 4, 8, 8), np.float32)
    spoilt[1, 0, 0, 0] = np.nan
    with pytest.raises(NotFiniteError, match="latents 1"):
        generator.decode_latents(spoilt)
    with pytest.raises(InputError, match="no text encoder"):
        make(text_encoder=None, tokenizer=None).encode_text(["a mug"])


def test_parts_that_do_not_fit_each_other_are_refused(make: Make) -> None:
    for parts, words in (
        ({"unet": make_unet(6)}, "6 input channels"),
        ({"unet": make_unet(4, 3)}, "3 output channels"),
        ({"unet": make_unet(cross_attention_dim=16)}, "text encoder of width 8 for cross-attention of 16"),
        ({"tokenizer": None}, "without its tokenizer"),
    ):
        with pytest.raises(ArtifactError, match=words):
            make(**parts)
    with pytest.raises(ArtifactError, match="ControlNet"):
        make("depth2img", controlnet=make("controlnet").controlnet)
    wrong = make_adapter(make_unet())
    wrong["ip_adapter"]["1.to_k_ip.weight"] = torch.zeros(3, 3)
    with pytest.raises(ArtifactError, match="IP-Adapter does not fit"):
        make(ip_adapter=wrong)


def test_a_folder_of_ours_loads_in_plain_diffusers_and_the_reverse(make: Make, tmp_path: Path) -> None:
    generator, inputs = make(), make_inputs(2)
    generator.save_pretrained(tmp_path / "ours")
    plain = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(
        tmp_path / "ours", safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    plain.save_pretrained(tmp_path / "theirs")
    back = Generator.from_pretrained(tmp_path / "theirs", device="cpu")
    made = [
        ImageReconstructor(which, "takagi-text", steps=3, samples=1).reconstruct(inputs).images
        for which in (generator, Generator(**{p: getattr(plain, p) for p in _PARTS}), back)
    ]
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])
    assert back.fingerprint == generator.fingerprint != make(unet=make_unet()).fingerprint
    suffixes = {file.suffix for file in (tmp_path / "ours").rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt"}
    with pytest.raises(InputError, match="exists already"):
        generator.save_pretrained(tmp_path / "ours")


_PARTS = ("vae", "unet", "scheduler", "text_encoder", "tokenizer")


@pytest.mark.parametrize(
    "takes",
    [
        ("controlnet", "adapter"),
        pytest.param(("depth2img",), marks=pytest.mark.slow),
        pytest.param(("adapter",), marks=pytest.mark.slow),
    ],
)
def test_depth_and_adapters_come_back_from_their_folder(make: Make, tmp_path: Path, takes: tuple[str, ...]) -> None:
    generator = make(*takes)
    before = generator.fingerprint
    generator.save_pretrained(tmp_path / "saved")
    back = Generator.from_pretrained(tmp_path / "saved", device="cpu")
    assert (back.takes_depth, back.embedding_width) == (generator.takes_depth, generator.embedding_width)
    assert back.fingerprint == before
    # Saving has left the adapter where it was.
    del generator.__dict__["fingerprint"]
    assert generator.fingerprint == before
    if "adapter" in takes:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
        pipeline.load_ip_adapter(
            tmp_path / "saved", subfolder="ip_adapter", weight_name="ip_adapter.safetensors", image_encoder_folder=None
        )
        theirs, ours = pipeline.unet.state_dict(), generator.unet.state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[k], ours[k]) for k in ours)


@pytest.mark.slow
def test_parts_from_elsewhere(make: Make, tmp_path: Path) -> None:
    both = make("controlnet", "adapter")
    make().save_pretrained(tmp_path / "plain")
    both.save_pretrained(tmp_path / "both")
    generator = Generator.from_pretrained(
        tmp_path / "plain", controlnet=tmp_path / "both" / "controlnet", ip_adapter=tmp_path / "both" / "ip_adapter",
        device="cpu", dtype=torch.float16,
    )  # fmt: skip
    assert (generator.takes_depth, generator.embedding_width) == ("controlnet", EMBEDDING)
    assert {model.dtype for model in (generator.unet, generator.vae, generator.text_encoder)} == {torch.float16}


def test_a_pipeline_saved_without_text_loads(make: Make, tmp_path: Path) -> None:
    generator, inputs = make(text_encoder=None, tokenizer=None), make_inputs(2)
    generator.save_pretrained(tmp_path / "saved")
    back = Generator.from_pretrained(tmp_path / "saved", device="cpu")
    options: dict[str, Any] = {"guidance": 1, "steps": 3, "samples": 1}
    made = [ImageReconstructor(g, "takagi-cvpr", **options).reconstruct(inputs).images for g in (generator, back)]
    assert np.array_equal(*made)
    with pytest.raises(InputError, match="no text encoder"):
        ImageReconstructor(back, "takagi-cvpr", steps=3).reconstruct(inputs)


def test_folders_that_cannot_or_must_not_be_loaded(make: Make, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "saved")
    weights = next((tmp_path / "saved" / "unet").glob("*.safetensors"))
    good = weights.read_bytes()

    def load() -> None:
        Generator.from_pretrained(tmp_path / "saved", device="cpu")

    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n")
    with pytest.raises(ArtifactError, match=r"git-lfs pointer") as caught:
        load()
    assert weights.name in str(caught.value)
    for cut in (good[: len(good) // 2], good[:100], b""):
        weights.write_bytes(cut)
        with pytest.raises(ArtifactError, match="cut short") as caught:
            load()
        assert weights.name in str(caught.value)
    weights.unlink()
    (weights.parent / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ArtifactError, match=r"pickled weights \(diffusion_pytorch_model.bin\)"):
        load()
    (weights.parent / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(ArtifactError, match="no weights"):
        load()
    weights.write_bytes(good)
    load()


@pytest.mark.parametrize("part", ["vae", "unet", "scheduler"])
def test_a_missing_part_is_named(make: Make, tmp_path: Path, part: str) -> None:
    make().save_pretrained(tmp_path / "saved")
    index = tmp_path / "saved" / "model_index.json"
    whole = json.loads(index.read_text())
    index.write_text(json.dumps(whole | {part: [None, None]}))
    with pytest.raises(ArtifactError, match=f"no {part}"):
        Generator.from_pretrained(tmp_path / "saved", device="cpu")
    index.write_text(json.dumps(whole | {part: ["os", "system"]}))
    with pytest.raises(ArtifactError, match="system of os"):
        Generator.from_pretrained(tmp_path / "saved", device="cpu")
    index.write_text(json.dumps(whole))
    (tmp_path / "saved" / part).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=f"no {part}"):
        Generator.from_pretrained(tmp_path / "saved", device="cpu")


def test_absent_generators_and_adapters_are_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="penfield models fetch diffusers:nobody/nothing"):
        Generator.from_pretrained("nobody/nothing")
    with pytest.raises(MissingWeightsError, match=r"decoders\.miniature"):
        Generator.from_pretrained("miniature:nothing")
    with pytest.raises(ArtifactError, match="model_index"):
        Generator.from_pretrained(tmp_path)
    make().save_pretrained(tmp_path / "saved")
    with pytest.raises(MissingWeightsError, match="no IP-Adapter"):
        Generator.from_pretrained(tmp_path / "saved", ip_adapter=tmp_path / "no.safetensors")
    (tmp_path / "adapter.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ArtifactError, match="pickled"):
        Generator.from_pretrained(tmp_path / "saved", ip_adapter=tmp_path / "adapter.bin")
    with pytest.raises(ArtifactError, match="not an IP-Adapter"):
        unet = next((tmp_path / "saved" / "unet").glob("*.safetensors"))
        Generator.from_pretrained(tmp_path / "saved", ip_adapter=unet)


def test_no_warning_where_all_is_well(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().encode_text(["a red mug"])


@pytest.mark.parametrize("takes", [("controlnet", "adapter"), ("depth2img",)])
def test_pictures_need_not_be_square(make: Make, tmp_path: Path, takes: tuple[str, ...]) -> None:
    unet = make_unet(5 if "depth2img" in takes else 4, sample_size=(4, 8))
    generator = make(*takes, unet=unet, **_conditioned(unet, takes))
    if "depth2img" in takes:
        with pytest.raises(InputError, match="not square"):
            generator.save_pretrained(tmp_path / "wide")
    else:
        generator.save_pretrained(tmp_path / "wide")
        generator = Generator.from_pretrained(tmp_path / "wide", device="cpu")
    assert generator.latent_shape == (4, 4, 8) and generator.image_size == (32, 64)
    images = pixels(2, 30, 70, 3)
    assert generator.encode_images(images).shape == (2, 4, 4, 8)
    inputs = make_inputs(2)
    assert inputs.z is not None
    wide = replace(inputs, z=inputs.z[:, :, :4], image=images)
    preset = replace(PRESETS["penfield" if "controlnet" in takes else "takagi-depth"], samples=1, steps=3)
    made = ImageReconstructor(generator, preset).reconstruct(wide)
    assert made.images.shape == (2, 1, 32, 64, 3)
    # Latents on their side are those of another picture.
    with pytest.raises(ShapeError, match=r"z of shape \(4, 8, 4\), the generator's latents are \(4, 4, 8\)"):
        replace(wide, z=inputs.z[:, :, :, :4]).check(generator)
    made.save(tmp_path / "made")
    assert np.array_equal(Reconstructions.load(tmp_path / "made").images, made.images)


def test_reprojection_of_wide_pictures_is_that_of_the_pipeline(make: Make) -> None:
    generator, inputs = make(unet=make_unet(sample_size=(4, 8))), make_inputs(1)
    assert inputs.z is not None
    inputs.z = inputs.z[:, :, :2, :4]
    found = ImageReconstructor(generator, "takagi-cvpr", steps=5, samples=1).reconstruct(inputs, seed=4)
    shown = Image.fromarray(generator.decode_latents(inputs.z)[0]).resize((64, 32), Image.Resampling.LANCZOS)
    # The pipeline follows the picture's size, but takes no UNet that says it is not square.
    unet = make_unet().eval()
    unet.load_state_dict(generator.unet.state_dict())
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        generator.vae, generator.text_encoder, generator.tokenizer, unet, generator.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        image=shown, prompt_embeds=torch.tensor(inputs.c),
        negative_prompt_embeds=torch.tensor(generator.encode_text([""])), strength=0.8, guidance_scale=5.0,
        num_inference_steps=5, generator=[torch_generator(4, "scene-0", 0)], output_type="np",
    )  # fmt: skip
    assert np.abs(found.images[0, 0] - 255 * theirs.images[0]).max() < 2


def _conditioned(unet: Any, takes: tuple[str, ...]) -> dict[str, Any]:
    if "controlnet" not in takes:
        return {}
    settings: dict[str, Any] = {"conditioning_channels": 1, "conditioning_embedding_out_channels": (4, 8, 8, 8)}
    controlnet = diffusers.ControlNetModel.from_unet(unet, **settings)
    return {"controlnet": controlnet, "ip_adapter": make_adapter(unet)}
