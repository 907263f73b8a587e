"""The published networks: architecture, layer, preprocessing and weights; and any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from decoders.evaluation import PUBLISHED_NETWORKS, PublishedNetwork, fetch_network, load_network
from decoders.evaluation import networks as module
from decoders.evaluation.networks import named_networks, published_network
from recordings.errors import ArtifactError, InputError, MissingWeightsError, UnknownNameError

TORCHVISION = {
    "AlexNet(2)": (192, 31, 31),
    "AlexNet(5)": (256, 15, 15),
    "Inception": (2048, 1, 1),
    "EffNet-B": (1280, 1, 1),
    "SwAV": (2048, 1, 1),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_layers_of_the_published_architectures(name: str) -> None:
    network = PUBLISHED_NETWORKS[name]
    size = network.preprocess(np.zeros((1, 8, 8, 3), np.uint8)).shape[1:]
    assert size == (3, network.size, network.size)
    with torch.device("meta"):
        part = create_feature_extractor(network.build().eval(), [network.layer], suppress_diff_warning=True)
        found = part(torch.zeros(2, *size))[network.layer]
    assert found.shape == (2, *TORCHVISION[name])


def test_relu_is_read_before_pooling() -> None:
    with torch.device("meta"):
        model = PUBLISHED_NETWORKS["AlexNet(2)"].build()
    for name in ("AlexNet(2)", "AlexNet(5)"):
        assert isinstance(model.get_submodule(PUBLISHED_NETWORKS[name].layer), torch.nn.ReLU)


def test_inception_maps_its_inputs_as_its_weights_expect() -> None:
    with torch.device("meta"):
        assert PUBLISHED_NETWORKS["Inception"].build().transform_input


def test_clip_has_the_published_architecture() -> None:
    network = PUBLISHED_NETWORKS["CLIP"]
    name, _, tag = network.architecture.removeprefix("open_clip:").partition("/")
    config = open_clip.get_model_config(name)
    assert config["embed_dim"] == 768 and config["vision_cfg"]["image_size"] == network.size
    assert config["vision_cfg"]["patch_size"] == 14 and config["quick_gelu"]
    weights = open_clip.get_pretrained_cfg(name, tag)
    assert (weights["mean"], weights["std"]) == network.statistics


def test_published_weights_are_those_of_torchvision() -> None:
    for name, weights in (
        ("AlexNet(2)", torchvision.models.AlexNet_Weights.IMAGENET1K_V1),
        ("Inception", torchvision.models.Inception_V3_Weights.DEFAULT),
        ("EffNet-B", torchvision.models.EfficientNet_B1_Weights.DEFAULT),
    ):
        assert PUBLISHED_NETWORKS[name].url == weights.url


def test_preprocessing_keeps_the_border_and_standardises() -> None:
    picture = np.full((1, 16, 16, 3), 51, np.uint8)
    picture[:, :, -1] = 255
    seen = PUBLISHED_NETWORKS["AlexNet(2)"].preprocess(picture)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for column, level in ((0, 0.2), (-1, 1.0)):
        assert seen[0, :, 100, column].numpy() == pytest.approx((level - mean) / deviation, abs=1e-5)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


@pytest.mark.parametrize("name", TORCHVISION)
def test_absent_weights_name_the_command_that_fetches_them(name: str, home: Path) -> None:
    with pytest.raises(MissingWeightsError) as error:
        load_network(name)
    assert f'`penfield models fetch "{name}"`' in str(error.value)
    assert str(home / "hub" / "checkpoints") in str(error.value)


def test_absent_clip_names_its_command() -> None:
    with pytest.raises(MissingWeightsError, match="penfield models fetch open_clip:ViT-L-14-quickgelu/openai"):
        load_network("CLIP")


def small(home: Path, **changes: object) -> PublishedNetwork:
    """A small architecture of torchvision whose weights lie at an address."""
    network = PublishedNetwork("squeezenet1_1", "features.1", 40, "two_way", url=(home / "origin.pth").as_uri())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = network.build().state_dict()
    # As if from a data-parallel training with a head that the architecture lacks, like SwAV's.
    state = {f"module.{name}": values for name, values in state.items()} | {"module.prototypes": torch.ones(2)}
    torch.save(state, home / "origin.pth")
    return replace(network, **changes)


def test_fetch_then_load(home: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setitem(module.PUBLISHED_NETWORKS, "small", small(home))
    fetch_network("small")
    pictures = rng.integers(0, 256, (3, 20, 20, 3)).astype(np.uint8)
    found = load_network("small", "cpu")(pictures)
    model = module.PUBLISHED_NETWORKS["small"].build().eval()
    state = torch.load(home / "origin.pth", weights_only=True)
    model.load_state_dict({name.removeprefix("module."): v for name, v in state.items() if "prototypes" not in name})
    with torch.inference_mode():
        expected = model.features[1](model.features[0](module.PUBLISHED_NETWORKS["small"].preprocess(pictures)))
    assert found.dtype == np.float32 and found == pytest.approx(expected.numpy(), abs=1e-6)


def test_damaged_or_foreign_weights_are_refused(home: Path) -> None:
    network = small(home)
    network.path.parent.mkdir(parents=True)
    network.path.write_bytes((home / "origin.pth").read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="fetch it again") as error:
        published_network(network)
    assert str(network.path) in str(error.value)
    torch.save({"module.features.0.bias": torch.zeros(64)}, network.path)
    with pytest.raises(ArtifactError, match="lacks classifier"):
        published_network(network)
    torch.save([1, 2], network.path)
    with pytest.raises(ArtifactError):
        published_network(network)
    lacking = torch.load(home / "origin.pth", weights_only=True)
    lacking = {name: v for name, v in lacking.items() if "classifier" not in name}
    torch.save(lacking, network.path)
    assert published_network(replace(network, without=("classifier.1.weight", "classifier.1.bias")), "cpu")


def test_weights_with_code_are_refused(home: Path) -> None:
    network = small(home)
    network.path.parent.mkdir(parents=True)
    torch.save({"module.features.0.bias": torch.device("cpu"), "run": print}, network.path)
    with pytest.raises(ArtifactError):
        published_network(network)


def test_extractors_by_uri(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    assert load_network("miniature:backbone", "cpu")(pictures).shape == (3, 192)
    assert load_network("baseline:gabor", "cpu")(pictures).shape[0] == 3


def test_names() -> None:
    assert named_networks(None) == {"miniature:backbone": "miniature:backbone"}
    assert list(named_networks("published")) == list(PUBLISHED_NETWORKS)
    assert named_networks(["CLIP", "baseline:pixels"]) == {"CLIP": "CLIP", "baseline:pixels": "baseline:pixels"}
    assert named_networks({"mine": "baseline:pixels"}) == {"mine": "baseline:pixels"}
    with pytest.raises(UnknownNameError, match=r"AlexNet\(2\)"):
        load_network("AlexNet2")
    with pytest.raises(InputError, match="untrained"):
        load_network("untrained:timm:resnet18")
