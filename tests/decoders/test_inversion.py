"""Feature inversion: a picture's own features give the picture back, and other features do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from decoders.inversion import (
    VGG19_LAYERS,
    FeatureInverter,
    ImagePrior,
    UpconvolutionalGenerator,
    fourier_prior,
    generator_prior,
    latent_prior,
)
from decoders.inversion.network import DifferentiableLayers
from decoders.inversion.preprocessing import Preprocessing
from encoders import FeatureExtractor, Features
from encoders.features.backbone import Backbone
from recordings.errors import (
    Cancelled,
    ConstantUnitError,
    FormatError,
    InputError,
    MismatchedIdsError,
    MissingWeightsError,
    NotFiniteError,
    ShapeError,
)
from recordings.events import Event
from recordings.miniature import Scenes, render

LAYERS = ["patch_embed", "blocks.1", "blocks.3"]


class Convolutions(nn.Module):
    """Two convolutions with a ReLU in place between them, and a fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.second, self.fc = nn.Conv2d(6, 8, 3, stride=2), nn.Linear(8 * 7 * 7, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.relu(self.first(x))).flatten(1))


class Drawing(nn.Module):
    """A generator whose code is a small picture."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        small = (self.gain * code).unflatten(1, (3, 4, 4)).sigmoid()
        return nn.functional.interpolate(small, scale_factor=4)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)

    def preprocess(image: np.ndarray) -> dict[str, torch.Tensor]:
        # Blue first, as Caffe.
        return {"x": (torch.as_tensor(image[:16, :16, ::-1].copy()).movedim(-1, 0).float() - 110) / 60}

    network = Convolutions().requires_grad_(False).eval()
    return FeatureExtractor(Backbone(network, preprocess, lambda i: network(i["x"]), "plain"), "test:plain", "cpu")


@pytest.fixture(scope="module")
def miniature() -> FeatureExtractor:
    return FeatureExtractor.from_uri("miniature:backbone", device="cpu")


def smooth(n: int, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = torch.as_tensor(rng.random((n, 3, 4, 4)))
    pixels = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (pixels * 255).round().to(torch.uint8).movedim(1, -1).numpy()


def pixcorr(shown: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(shown, found, strict=True)])


def inverter(
    extractor: FeatureExtractor, layers: Sequence[str] = ("first", "second"), **options: int
) -> FeatureInverter:
    prior = fourier_prior((16, 16), total_variation=0.0)
    return FeatureInverter(extractor, prior, layers, "flat", **({"steps": 40} | options))


# Features of pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["flat", "tokens", "cls", "projected"])
def test_layers_are_those_of_the_extractor(miniature: FeatureExtractor, readout: str) -> None:
    images = smooth(2, 64)
    layers = ["blocks.1", "blocks.5"]
    expected = miniature(list(images), None if readout == "projected" else layers, readout)
    read = DifferentiableLayers(miniature, layers, readout, (64, 64))
    pixels = torch.as_tensor(images).movedim(-1, 1).float().div(255).requires_grad_()
    found = read(pixels)
    for layer, values in expected.items():
        np.testing.assert_allclose(found[layer].detach().numpy(), values, atol=2e-4)
    sum(values.sum() for values in found.values()).backward()
    assert pixels.grad is not None and pixels.grad.abs().max() > 0


def test_layer_before_a_relu_in_place(extractor: FeatureExtractor) -> None:
    images = smooth(1)
    read = DifferentiableLayers(extractor, ["first", "output"], "flat", (16, 16))
    found = read(torch.as_tensor(images).movedim(-1, 1).float() / 255)
    expected = extractor(list(images), ["first", "output"], "flat")
    for layer, values in expected.items():
        np.testing.assert_allclose(found[layer].numpy(), values, atol=1e-5)
    assert found["first"].min() < 0


@pytest.mark.parametrize("size", [(64, 64), (90, 70), (200, 160), (300, 400)])
@pytest.mark.parametrize("uri", ["miniature:backbone", "untrained:timm:test_vit", "untrained:timm:test_resnet"])
def test_preprocessing_is_the_models_own(uri: str, size: tuple[int, int]) -> None:
    extractor = FeatureExtractor.from_uri(uri, device="cpu")
    image = smooth(1, 400)[0, : size[0], : size[1]]
    expected = extractor.backbone.preprocess(image)["x"]
    found = Preprocessing(extractor, size)(torch.as_tensor(image.copy()).movedim(-1, 0)[None].float() / 255)["x"][0]
    assert found.shape == expected.shape
    assert float((found - expected).std() / expected.std()) < 0.02


def test_preprocessing_that_pads_is_refused(extractor: FeatureExtractor) -> None:
    own = extractor.backbone

    def padded(image: np.ndarray) -> dict[str, torch.Tensor]:
        return {"x": nn.functional.pad(own.preprocess(image)["x"], (4, 4, 4, 4))}

    other = FeatureExtractor(Backbone(own.module, padded, own.forward, "pads"), "test:pads", "cpu")
    with pytest.raises(InputError, match="not resizing"):
        Preprocessing(other, (16, 16))


# Inversion -------------------------------------------------------------------------------------------------------


def test_own_features_give_the_picture_back_and_others_do_not(extractor: FeatureExtractor) -> None:
    images, ids = smooth(3), ["a", "b", "c"]
    features = extractor(list(images), ["first", "second"], "flat")
    found = inverter(extractor).invert(features, ids)
    assert found.images.shape == images.shape and found.images.dtype == np.uint8
    assert found.layers == ["first", "second"] and found.error.shape == (3, 2) and found.error.max() < 0.1
    assert pixcorr(images, found.images).min() > 0.9
    rng = np.random.default_rng(0)
    noise = {layer: rng.permuted(values, axis=1) for layer, values in features.items()}
    shuffled = inverter(extractor).invert(noise, ids)
    assert np.abs(pixcorr(images, shuffled.images)).max() < 0.5
    assert shuffled.error.min() > 3 * found.error.max()


@pytest.mark.slow
def test_scenes_come_back_from_the_backbone(miniature: FeatureExtractor) -> None:
    images = render(Scenes.sample(4, seed=5)).image
    features = miniature(list(images), LAYERS, "tokens")
    search = FeatureInverter(miniature, fourier_prior((64, 64)), LAYERS, "tokens", steps=60)
    assert pixcorr(images, search.invert(features, list("abcd")).images).min() >= 0.8
    rng = np.random.default_rng(0)
    noise = {layer: rng.permuted(values, axis=1) for layer, values in features.items()}
    assert pixcorr(images, search.invert(noise, list("abcd")).images).mean() < 0.5


def test_batches_seeds_events_and_stop(extractor: FeatureExtractor) -> None:
    images, ids = smooth(3), ["a", "b", "c"]
    features = extractor(list(images), ["first"], "flat")
    search = inverter(extractor, ["first"], steps=5)
    events: list[Event] = []
    together = search.invert(features, ids, on_event=events.append)
    assert [e.done for e in events] == [1, 2, 3, 4, 5] and {e.total for e in events} == {5}
    assert events[-1].payload["error"] < events[0].payload["error"]
    np.testing.assert_array_equal(search.invert(features, ids).images, together.images)
    alone = search.invert({"first": features["first"][2:]}, ["c"])
    np.testing.assert_allclose(alone.codes[0], together.codes[2], atol=1e-4)
    pairs = search.invert(features, ids, batch_size=2)
    np.testing.assert_allclose(pairs.codes, together.codes, atol=1e-4)
    assert np.abs(search.invert(features, ids, seed=1).codes - together.codes).max() > 1e-3
    assert search.invert({"first": features["first"][:0]}, []).images.shape == (0, 16, 16, 3)
    steps: list[Event] = []
    with pytest.raises(Cancelled):
        search.invert(features, ids, on_event=steps.append, stop=lambda: len(steps) == 2)
    assert len(steps) == 2


def test_first_steps_are_as_published(extractor: FeatureExtractor) -> None:
    features = extractor(list(smooth(1)), ["first", "fc"], "flat")
    prior = generator_prior(Drawing(), (48,), crop=None, upper=1.5)
    search = FeatureInverter(extractor, prior, ["first", "fc"], "flat", steps=2)
    found = search.invert(features, ["a"])
    # By hand: weights 1 / |f|^2, gradient over its mean magnitude, momentum, decay, clip.
    read = DifferentiableLayers(extractor, ["first", "fc"], "flat", (16, 16))
    code = torch.as_tensor(np.random.default_rng([0, *b"a"]).normal(size=(1, 48)), dtype=torch.float32)
    velocity = torch.zeros_like(code)
    for rate in (2.0, 1.0 + 5e-11):
        code.requires_grad_()
        current = read(prior.render(code))
        targets = {layer: torch.as_tensor(values) for layer, values in features.items()}
        weights = {layer: 1 / values.square().sum() for layer, values in targets.items()}
        total = sum(weights.values())
        loss = sum(weights[k] / total * (current[k] - targets[k]).square().sum() for k in targets)
        (gradient,) = torch.autograd.grad(loss, code)
        velocity = 0.9 * velocity + gradient / gradient.abs().mean()
        code = ((code.detach() - rate * velocity) * 0.99).clamp(0, 1.5)
    np.testing.assert_allclose(found.codes, code.numpy(), atol=1e-4)
    assert found.codes.min() == 0 and found.codes.max() <= 1.5


def test_decoded_features_are_spread_as_real_ones(extractor: FeatureExtractor) -> None:
    images, ids = smooth(4), list("abcd")
    real = {k: Features.from_arrays(v, ids) for k, v in extractor(list(images), ["first", "fc"], "flat").items()}
    search = inverter(extractor, ["first", "fc"]).fit(real)
    maps = real["first"].read().reshape(4, 6, 16, 16)
    assert search.spread_["first"] == pytest.approx(maps.std((2, 3), ddof=1).mean(), rel=1e-5)
    assert search.spread_["fc"] == pytest.approx(real["fc"].read().std(1, ddof=1).mean(), rel=1e-5)
    values = real["first"].read()
    shrunken = 0.3 * (values - values.mean(1, keepdims=True)) + values.mean(1, keepdims=True)
    scaled = search._target("first", shrunken, ids)
    np.testing.assert_allclose(scaled.mean(1), values.mean(1), atol=1e-5)
    assert search._spread("first", scaled) == pytest.approx(search.spread_["first"], rel=1e-5)


def test_contrast_is_stretched_between_extremes(extractor: FeatureExtractor) -> None:
    features = extractor(list(smooth(1)), ["first"], "flat")
    plain = inverter(extractor, ["first"], steps=3).invert(features, ["a"]).images
    stretched = FeatureInverter(
        extractor, fourier_prior((16, 16), total_variation=0), ["first"], "flat", steps=3, clip_extreme=0.04
    )
    images = stretched.invert(features, ["a"]).images
    assert np.ptp(plain) < 240
    assert images.min() == 0 and images.max() == 255
    assert ((images == 0) | (images == 255)).mean() == pytest.approx(0.04, abs=0.01)


def test_bad_features_are_refused_by_name(extractor: FeatureExtractor) -> None:
    features = extractor(list(smooth(2)), ["first", "fc"], "flat")
    search = inverter(extractor, ["first", "fc"])

    def changed(layer: str, row: int, value: float) -> dict[str, np.ndarray]:
        values = features[layer].copy()
        values[row] = value
        return features | {layer: values}

    with pytest.raises(NotFiniteError, match=r"fc.*stimulus 'b'"):
        search.invert(changed("fc", 1, np.nan), ["a", "b"])
    with pytest.raises(ConstantUnitError, match=r"first.*stimulus 'a'"):
        search.invert(changed("first", 0, 0.0), ["a", "b"])
    with pytest.raises(MismatchedIdsError, match="fc"):
        search.invert({"first": features["first"]}, ["a", "b"])
    with pytest.raises(ShapeError, match="2 rows"):
        search.invert(features, ["a"])
    with pytest.raises(ShapeError, match="layer 'fc'"):
        search.invert(features | {"fc": features["fc"][:, 1:]}, ["a", "b"])
    search.fit({k: Features.from_arrays(v, ["a", "b"]) for k, v in features.items()})
    with pytest.raises(ConstantUnitError, match="without spread"):
        search.invert(changed("fc", 0, 1.0), ["a", "b"])
    with pytest.raises(InputError, match="steps"):
        inverter(extractor, steps=0)


def test_search_that_leaves_the_numbers_is_stopped(extractor: FeatureExtractor) -> None:
    features = extractor(list(smooth(1)), ["first"], "flat")
    prior = ImagePrior((3, 16, 16), (16, 16), lambda code: code.exp().exp(), learning_rate=50.0)
    with pytest.raises(NotFiniteError, match=r"step \d.*'a'"):
        FeatureInverter(extractor, prior, ["first"], "flat", steps=20).invert(features, ["a"])


# Priors ----------------------------------------------------------------------------------------------------------


def test_latents_are_scaled_as_the_autoencoder_says() -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2, scaling_factor=0.5,
    )  # fmt: skip
    prior = latent_prior(vae, (4, 8, 8))
    assert prior.size == (16, 16) and prior.code_shape == (4, 8, 8)
    code = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(prior.render(code), (vae.decode(code / 0.5).sample + 1) / 2)


@pytest.mark.slow
@pytest.mark.real
def test_photographs_come_back_through_a_real_autoencoder(real_data: Path, miniature: FeatureExtractor) -> None:
    from sklearn.datasets import load_sample_images

    from decoders.taef2 import Taef2

    images = np.stack([photograph[100:164, 200:264] for photograph in load_sample_images().images])
    layers = ["patch_embed", "blocks.1"]
    prior = latent_prior(Taef2.from_folder(real_data / "taef2"), (32, 8, 8))
    search = FeatureInverter(miniature, prior, layers, "tokens", steps=60)
    found = search.invert(miniature(list(images), layers, "tokens"), ["china", "flower"])
    assert pixcorr(images, found.images).min() >= 0.7


def test_generator_has_the_published_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        published = {name: tuple(v.shape) for name, v in UpconvolutionalGenerator().state_dict().items()}
    assert len(published) == 24
    assert published["defc7.weight"] == published["defc5.weight"] == (4096, 4096)
    assert published["conv5_1.weight"] == (256, 512, 3, 3) and published["deconv4.weight"] == (512, 256, 4, 4)
    assert published["conv3_1.weight"] == (128, 128, 3, 3) and published["deconv0.weight"] == (32, 3, 4, 4)


def test_generator_is_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = UpconvolutionalGenerator(16, 128).eval()
    save_file(small.state_dict(), tmp_path / "generator.safetensors")
    torch.save(small.state_dict(), tmp_path / "generator.pt")
    code = torch.randn(2, 16)
    expected = small(code)
    assert expected.shape == (2, 3, 256, 256)
    # Blue comes first in the network, last in the picture; a mean of Caffe's is added.
    assert expected.detach().mean((0, 2, 3)).numpy() == pytest.approx(np.array([123, 117, 104]) / 255, abs=0.02)
    for name in ("generator.safetensors", "generator.pt"):
        torch.testing.assert_close(UpconvolutionalGenerator.from_file(tmp_path / name)(code), expected)
    prior = generator_prior(small, (16,))
    assert prior.size == (224, 224)
    torch.testing.assert_close(prior.render(code), expected[:, :, 16:240, 16:240])
    with pytest.raises(ShapeError, match="crop"):
        generator_prior(small, (16,), crop=300)


def test_foreign_generator_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError):
        UpconvolutionalGenerator.from_file(tmp_path / "none.pt")
    torch.save({"made": Path("a")}, tmp_path / "objects.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\0\1")
    for name in ("objects.pt", "cut.safetensors"):
        with pytest.raises(FormatError, match="tensors"):
            UpconvolutionalGenerator.from_file(tmp_path / name)
    save_file({"defc7.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ShapeError, match=r"defc7\.bias"):
        UpconvolutionalGenerator.from_file(tmp_path / "other.safetensors")


def test_published_layers_are_those_of_torchvision() -> None:
    import torchvision

    with torch.device("meta"):
        modules = dict(torchvision.models.vgg19(weights=None).named_modules())
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    last = [convolutions[k - 1] for k in (2, 4, 8, 12, 16)]
    assert list(VGG19_LAYERS.values())[:5] == last
    assert all(isinstance(modules[path], nn.Linear) for path in list(VGG19_LAYERS.values())[5:])
