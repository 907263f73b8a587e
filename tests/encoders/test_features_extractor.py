"""Extractors against their own libraries: layers, read-outs, preprocessing, towers, clips and captions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from encoders.features import FeatureExtractor, extract
from encoders.features.readouts import TokenLayout, grid_of, patch_tokens, read_out
from recordings import Stimuli
from recordings.errors import InputError, ShapeError, UnknownNameError

from .tiny import (
    save_bert,
    save_clip,
    save_dinov2,
    save_open_clip,
    save_timm,
    save_videomae,
    save_vjepa2,
)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (5, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def clips(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (2, 7, 40, 48, 3), dtype=np.uint8)


def load(uri: str) -> FeatureExtractor:
    return FeatureExtractor.from_uri(uri, device="cpu")


# timm ------------------------------------------------------------------------------------------------------------


def timm_inputs(folder: Path, images: np.ndarray) -> tuple[nn.Module, torch.Tensor]:
    """The peer: timm alone."""
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return model, torch.stack([transform(Image.fromarray(image)) for image in images])


@pytest.mark.parametrize(
    ("architecture", "changes", "n_prefix"),
    [
        ("vit_tiny_patch16_224", {}, 1),
        ("vit_small_patch14_reg4_dinov2", {"patch_size": 8}, 5),
        ("vit_base_patch16_siglip_224", {}, 0),
    ],
)
def test_timm_read_outs_are_those_of_timm(
    tmp_path: Path, images: np.ndarray, architecture: str, changes: dict, n_prefix: int
) -> None:
    folder = save_timm(tmp_path / "vit", architecture, **changes)
    extractor = load(f"timm:{folder}")
    model, inputs = timm_inputs(folder, images)
    with torch.inference_mode():
        blocks = model.forward_intermediates(
            inputs, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        projected = model.forward_head(model.forward_features(inputs), pre_logits=True)
    patches, prefix = blocks[1] if isinstance(blocks[1], tuple) else (blocks[1], None)
    assert extractor.backbone.layout.n_prefix == n_prefix
    assert extractor.default_layer == "blocks.2"
    assert extractor.grid("blocks.1") == (4, 4)

    tokens = extractor(images, ["blocks.1"], "tokens")["blocks.1"]
    np.testing.assert_allclose(tokens, patches.numpy(), atol=1e-5)
    np.testing.assert_allclose(extractor(images, ["blocks.1"])["blocks.1"], tokens.mean(1), atol=1e-5)
    np.testing.assert_allclose(extractor(images, readout="projected")["projected"], projected.numpy(), atol=1e-5)
    assert extractor(images, ["blocks.1"], "flat")["blocks.1"].shape == (5, (16 + n_prefix) * 24)
    if n_prefix:
        cls = extractor(images, ["blocks.1"], "cls")["blocks.1"]
        np.testing.assert_allclose(cls, prefix[:, 0].numpy(), atol=1e-5)
        # The patch embedding comes before the class token.
        assert extractor(images, ["patch_embed"], "tokens")["patch_embed"].shape == (5, 16, 24)
        with pytest.raises(InputError, match="no class token"):
            extractor(images, ["patch_embed"], "cls")
    else:
        with pytest.raises(InputError, match="no class token"):
            extractor(images, ["blocks.1"], "cls")


def test_all_layers_at_once_equal_one_by_one(tmp_path: Path, images: np.ndarray) -> None:
    extractor = load(f"timm:{save_timm(tmp_path / 'vit')}")
    layers = ["patch_embed", "blocks.0", "blocks.2.mlp.fc1", "norm", "output"]
    together = extractor(images, layers, "flat")
    for layer in layers:
        np.testing.assert_array_equal(together[layer], extractor(images, [layer], "flat")[layer])


def test_layers_before_a_relu_in_place_are_what_they_put_out(images: np.ndarray) -> None:
    extractor = load("untrained:timm:test_resnet")
    alone = extractor(images[:1], ["bn1"], "flat")["bn1"]
    together = extractor(images[:1], ["bn1", "layer1"], "flat")["bn1"]
    assert alone.min() < 0
    np.testing.assert_array_equal(together, alone)


def test_model_runs_no_further_than_the_last_layer(tmp_path: Path, images: np.ndarray) -> None:
    extractor = load(f"timm:{save_timm(tmp_path / 'vit')}")
    extractor.layers()
    ran: list[str] = []
    for name in ("blocks.0", "blocks.1"):
        module = extractor.backbone.module.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    extractor(images, ["blocks.0"])
    assert ran in ([], ["blocks.0"])


def test_blocks_stand_for_a_vision_transformer_and_stages_for_a_resnet(tmp_path: Path) -> None:
    vit = load(f"timm:{save_timm(tmp_path / 'vit')}").main_layers()
    assert [n for n in vit if "blocks" in n] == ["blocks.0", "blocks.1", "blocks.2"]
    assert vit.index("patch_embed") < vit.index("blocks.0") and vit.index("blocks.2") < vit.index("norm")
    assert not any(n.startswith("blocks.0.") for n in vit)
    resnet = load("untrained:timm:test_resnet").main_layers()
    assert {"conv1", "layer1", "layer2", "layer3", "layer4"} < set(resnet) and not any("." in n for n in resnet)
    # The stack may lie deeper, and only one of two towers is read.
    within = load(f"transformers:{save_dinov2(tmp_path / 'dinov2')}").main_layers()
    assert [n for n in within if "." in n] == ["encoder.layer.0", "encoder.layer.1"] and "encoder" not in within
    tower = load(f"open_clip:{save_open_clip(tmp_path / 'clip')}").main_layers()
    assert tower == ["visual.transformer.resblocks.0", "visual.transformer.resblocks.1"]
    assert load("baseline:gabor").main_layers() == ["output"]


def test_layers_are_listed_with_shapes_and_mistyped_ones_told(tmp_path: Path, images: np.ndarray) -> None:
    extractor = load(f"timm:{save_timm(tmp_path / 'vit')}")
    shapes = extractor.layer_shapes()
    assert list(shapes) == extractor.layers()
    assert shapes["blocks.1"] == (17, 24) and shapes["output"] == (5,)
    assert extractor.readout_shapes(["blocks.1"], "tokens") == {"blocks.1": (16, 24)}
    with pytest.raises(UnknownNameError, match=r"blocks\.1"):
        extractor(images, ["block.1"])
    with pytest.raises(UnknownNameError, match="pooled"):
        extractor(images, ["blocks.1"], "mean")


@pytest.mark.parametrize(
    ("architecture", "layer", "grid", "channels"),
    [
        ("test_resnet", "layer3", None, None),
        ("test_convnext", "stages.1", None, None),
        ("swin", "layers.1", None, None),
    ],
)
def test_maps_become_tokens(architecture: str, layer: str, grid: None, channels: None, images: np.ndarray) -> None:
    import timm

    if architecture == "swin":
        options = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}
        model = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, **options).eval()
    else:
        model = timm.create_model(architecture, pretrained=False).eval()
    layout = TokenLayout(channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC")
    seen: list[torch.Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model(torch.randn(2, 3, 64, 64))
    output = seen[0]
    channels_first = output.permute(0, 3, 1, 2) if architecture == "swin" else output
    tokens = patch_tokens(output, layout)
    np.testing.assert_array_equal(tokens.numpy(), channels_first.flatten(2).transpose(1, 2).numpy())
    assert grid_of(tuple(output.shape), layout) == tuple(channels_first.shape[2:])
    np.testing.assert_allclose(read_out(output, "pooled", layout), channels_first.mean((2, 3)), atol=1e-5)


def test_unexpected_token_count_is_refused() -> None:
    layout = TokenLayout(n_prefix=1, has_class_token=True, grid=(4, 4))
    with pytest.raises(ShapeError, match="20 tokens"):
        read_out(torch.zeros(2, 20, 3), "tokens", layout)
    assert read_out(torch.zeros(2, 20, 3), "flat", layout).shape == (2, 60)


def test_autocast_is_close_and_recorded(tmp_path: Path, images: np.ndarray) -> None:
    folder = save_timm(tmp_path / "vit")
    full = load(f"timm:{folder}")
    half = FeatureExtractor.from_uri(f"timm:{folder}", device="cpu", dtype="bfloat16")
    a, b = full(images)["blocks.2"], half(images)["blocks.2"]
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    stored = extract(half, Stimuli.from_arrays(images), tmp_path / "f.zarr")["blocks.2"]
    assert stored.attrs["compute_dtype"] == "bfloat16"
    with pytest.raises(InputError, match="float64"):
        FeatureExtractor.from_uri("baseline:pixels", dtype="float64")
    with pytest.raises(InputError, match="device"):
        FeatureExtractor.from_uri("baseline:pixels", device="abacus")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-3), ("bfloat16", 0.05)])
def test_cuda_agrees_with_cpu(tmp_path: Path, images: np.ndarray, dtype: str | None, tolerance: float) -> None:
    folder = save_timm(tmp_path / "vit")
    cpu = load(f"timm:{folder}")(images)["blocks.2"]
    cuda = FeatureExtractor.from_uri(f"timm:{folder}", device="cuda", dtype=dtype)(images)["blocks.2"]
    assert np.abs(cpu - cuda).max() < tolerance * np.abs(cpu).max()


def test_untrained_is_fixed_and_not_the_trained(tmp_path: Path, images: np.ndarray) -> None:
    folder = save_timm(tmp_path / "vit")
    trained, untrained = load(f"timm:{folder}"), load(f"untrained:timm:{folder}")
    torch.manual_seed(99)
    assert untrained.weights == load(f"untrained:timm:{folder}").weights != trained.weights
    assert untrained.backbone.preprocessing == trained.backbone.preprocessing
    assert untrained.uri.startswith("untrained:timm:")


# open_clip -------------------------------------------------------------------------------------------------------


def test_open_clip_towers(tmp_path: Path, images: np.ndarray) -> None:
    import open_clip

    folder = save_open_clip(tmp_path / "clip")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    inputs = torch.stack([transform(Image.fromarray(image)) for image in images])
    captions = ["a red mug", "a blue chair on the left of the picture"]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    with torch.inference_mode():
        image, text = model.encode_image(inputs), model.encode_text(tokens)
        last = model.visual.forward_intermediates(inputs, indices=1, normalize_intermediates=False)
    extractor, reader = load(f"open_clip:{folder}"), load(f"open_clip:{folder}#text")
    np.testing.assert_allclose(extractor(images, readout="projected")["projected"], image.numpy(), atol=1e-5)
    np.testing.assert_allclose(reader(captions, readout="projected")["projected"], text.numpy(), atol=1e-5)
    layer = extractor.default_layer
    assert layer == "visual.transformer.resblocks.1"
    maps = last["image_intermediates"][-1].flatten(2).transpose(1, 2)
    np.testing.assert_allclose(extractor(images, readout="tokens")[layer], maps.numpy(), atol=1e-5)
    # Padding after the end of a text takes no part in its mean.
    tokens = reader(captions, readout="tokens")["transformer.resblocks.1"]
    assert (tokens[0, 5:] == 0).all() and (tokens[0, :5] != 0).any(1).all()
    pooled = reader(captions)["transformer.resblocks.1"]
    np.testing.assert_allclose(pooled[0], tokens[0, :5].mean(0), atol=1e-5)
    with pytest.raises(InputError, match="reads text"):
        reader(images)


# transformers ----------------------------------------------------------------------------------------------------


def test_transformers_image_model(tmp_path: Path, images: np.ndarray) -> None:
    from transformers import AutoImageProcessor, AutoModel

    folder = save_dinov2(tmp_path / "dinov2")
    extractor = load(f"transformers:{folder}")
    inputs = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")
    with torch.inference_mode():
        output = AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True)
    hidden = output.hidden_states[1].numpy()
    # One class token and four registers stand before 16 patches.
    np.testing.assert_allclose(
        extractor(images, ["encoder.layer.0"], "tokens")["encoder.layer.0"], hidden[:, 5:], atol=1e-5
    )
    np.testing.assert_allclose(
        extractor(images, ["encoder.layer.0"], "cls")["encoder.layer.0"], hidden[:, 0], atol=1e-5
    )
    projected = extractor(images, readout="projected")["projected"]
    np.testing.assert_allclose(projected, output.pooler_output.numpy(), atol=1e-5)


def test_transformers_text_model_reads_captions(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = save_bert(tmp_path / "bert")
    captions = {"s1": "a red mug", "s2": "a blue chair on the left"}
    inputs = AutoTokenizer.from_pretrained(folder)(list(captions.values()), padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state.numpy()
    mask = inputs["attention_mask"].numpy()[..., None]
    extractor = load(f"transformers:{folder}")
    stored = extract(extractor, Stimuli.from_captions(captions), tmp_path / "f.zarr")[extractor.default_layer]
    np.testing.assert_allclose(stored.read(), (hidden * mask).sum(1) / mask.sum(1), atol=1e-5)
    cls = extractor(list(captions.values()), readout="cls")[extractor.default_layer]
    np.testing.assert_allclose(cls, hidden[:, 0], atol=1e-5)
    with pytest.warns(UserWarning, match="cut after 16"):
        extractor(["a red mug " * 20])
    with pytest.raises(UnknownNameError, match="caption"):
        extract(extractor, Stimuli.from_arrays(np.zeros((1, 8, 8, 3), np.uint8)), tmp_path / "g.zarr")


def test_transformers_clip_image_tower(tmp_path: Path, images: np.ndarray) -> None:
    from transformers import AutoImageProcessor, CLIPModel

    folder = save_clip(tmp_path / "clip")
    inputs = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model.visual_projection(model.vision_model(**inputs).pooler_output)
    extractor = load(f"transformers:{folder}")
    np.testing.assert_allclose(extractor(images, readout="projected")["projected"], expected.numpy(), atol=1e-5)
    assert extractor(images, readout="tokens")["vision_model.encoder.layers.1"].shape == (5, 16, 24)


def test_transformers_video_models(tmp_path: Path, clips: np.ndarray, images: np.ndarray) -> None:
    from transformers import AutoModel, AutoVideoProcessor

    folder = save_vjepa2(tmp_path / "vjepa2")
    extractor = load(f"transformers:{folder}")
    frames = clips[:, [0, 2, 4, 6]]
    processor = AutoVideoProcessor.from_pretrained(folder)
    inputs = processor(list(frames), return_tensors="pt", do_sample_frames=False)
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**inputs, output_hidden_states=True).hidden_states[1]
    tokens = extractor(clips, ["encoder.layer.0"], "tokens")["encoder.layer.0"]
    np.testing.assert_allclose(tokens, hidden.numpy(), atol=1e-5)
    assert extractor.grid("encoder.layer.0") == (2, 4, 4)
    with pytest.raises(InputError, match="reads clips"):
        extractor(images)
    with pytest.raises(InputError, match="4 frames, not 6"):
        extractor(clips, n_frames=6)

    videomae = load(f"transformers:{save_videomae(tmp_path / 'videomae')}")
    stored = extract(videomae, Stimuli.from_arrays(clips), tmp_path / "f.zarr", batch_size=2)["encoder.layer.1"]
    np.testing.assert_array_equal(stored.read(), videomae(clips)["encoder.layer.1"])


def test_broken_transformers_folder_is_told(tmp_path: Path) -> None:
    folder = save_bert(tmp_path / "bert")
    (folder / "config.json").write_text('{"model_type": "never_heard_of"}')
    with pytest.raises(InputError, match="transformers cannot load it"):
        load(f"transformers:{folder}")


# Clips through image models --------------------------------------------------------------------------------------


def test_image_models_read_clips_frame_by_frame(tmp_path: Path, clips: np.ndarray) -> None:
    extractor = load(f"timm:{save_timm(tmp_path / 'vit')}")
    stimuli = Stimuli.from_arrays(clips)
    stored = extract(extractor, stimuli, tmp_path / "f.zarr", batch_size=2)["blocks.2"]
    assert stored.shape == (2, 7, 24)
    by_frame = np.stack([extractor(clip)["blocks.2"] for clip in clips])
    np.testing.assert_allclose(stored.read(), by_frame, atol=1e-5)
    fewer = extractor(clips, n_frames=3)["blocks.2"]
    np.testing.assert_allclose(fewer, by_frame[:, [0, 3, 6]], atol=1e-5)
    with pytest.raises(ShapeError, match="n_frames"):
        extractor([clips[0], clips[1][:4]])


def test_tokens_of_a_clip_keep_the_time_axis(tmp_path: Path, clips: np.ndarray) -> None:
    extractor = load(f"timm:{save_timm(tmp_path / 'vit')}")
    rows, columns = extractor.grid("blocks.2")
    stimuli = Stimuli.from_arrays(clips)
    stored = extract(extractor, stimuli, tmp_path / "f.zarr", readout="tokens", batch_size=2, n_frames=3)["blocks.2"]
    assert stored.attrs["grid"] == [3, rows, columns]
    frames = np.stack([extractor(clip[[0, 3, 6]], readout="tokens")["blocks.2"] for clip in clips])
    np.testing.assert_allclose(stored.read().reshape(frames.shape), frames, atol=1e-5)

    images = Stimuli.from_arrays(np.ascontiguousarray(clips[:, 0]))
    stills = extract(extractor, images, tmp_path / "stills.zarr", readout="tokens")["blocks.2"]
    assert stills.attrs["grid"] == [rows, columns]
    assert stills.fingerprint() != stored.fingerprint()


# python: and baselines -------------------------------------------------------------------------------------------

FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

def with_preprocess():
    return nn.Conv2d(3, 4, 3), lambda image: torch.as_tensor(image[:8, :8].copy()).movedim(-1, 0).float()

def number():
    return 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine_for_test.py").write_text(FACTORY.replace("nn.LazyLinear(2)", "nn.Linear(4 * 62 * 62, 2)"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_for_test", raising=False)
    return "python:mine_for_test"


def test_python_modules(package: str, rng: np.random.Generator) -> None:
    images = rng.integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    extractor = load(f"{package}:build")
    assert extractor.layers() == ["0", "1", "2", "3", "output"]
    assert extractor(images)["output"].shape == (2, 2)
    assert extractor(images, ["1"], "tokens")["1"].shape == (2, 62 * 62, 4)
    assert load(f"{package}:with_preprocess").layer_shapes()["output"] == (4, 6, 6)
    assert load(f"untrained:{package}:build").weights != extractor.weights
    with pytest.raises(InputError, match="not allowed"):
        FeatureExtractor.from_uri(f"{package}:build", allow_python=False)
    with pytest.raises(InputError, match="returned int"):
        load(f"{package}:number")
    with pytest.raises(UnknownNameError, match="cannot import"):
        load(f"{package}:nothing")


def test_pixels(images: np.ndarray) -> None:
    values = load("baseline:pixels")(images)["output"]
    scaled = np.asarray(Image.fromarray(images[0]).resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(values[0], np.moveaxis(scaled, -1, 0).ravel() / 255, atol=1e-6)


@pytest.mark.parametrize("wavelength", [4, 8, 16])
@pytest.mark.parametrize("orientation", range(6))
def test_gabor_pyramid_finds_planted_gratings(wavelength: int, orientation: int) -> None:
    extractor = load("baseline:gabor")
    angle = np.pi * orientation / 6
    y, x = np.mgrid[:64, :64]
    energies = []
    for phase in (0, 1, 2):
        wave = np.sin(2 * np.pi / wavelength * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        image = np.repeat((127 + 100 * wave).astype(np.uint8)[..., None], 3, -1)
        energies.append(extractor([image])["output"][0])
    sizes = [6 * (64 // w) ** 2 for w in (4, 8, 16, 32)]
    levels = [e.reshape(6, -1).mean(1) for e in np.split(energies[0], np.cumsum(sizes)[:-1])]
    strongest = np.unravel_index(np.argmax(levels), (4, 6))
    assert strongest == ((4, 8, 16, 32).index(wavelength), orientation)
    # Energy does not depend on phase, and is none where nothing is to be seen.
    np.testing.assert_allclose(energies[1].mean(), energies[0].mean(), rtol=0.05)
    blank = extractor([np.full((64, 64, 3), 90, np.uint8)])["output"]
    assert np.abs(blank).max() < 1e-5 < energies[0].max()
