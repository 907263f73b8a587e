"""Networks that compare reconstructions with their originals: those of published tables, and any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.functional import normalize

from encoders import FeatureExtractor
from encoders.features.backbone import load_backbone
from encoders.features.extractor import torch_device
from encoders.features.uris import parse_uri, unknown_name
from encoders.features.weights import url_path
from recordings.errors import ArtifactError, InputError, MissingWeightsError

from ..quiet import quietly
from .features import Network
from .pixels import as_unit_tensor, scale

DEFAULT_NETWORK = "miniature:backbone"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of published tables, with the preprocessing that they share (Scotti et al. 2023, 2024).

    Pictures are scaled to 256 x 256, then to `size` on the shorter side, bilinear, and never cropped.

    Attributes
    ----------
    architecture : name in torchvision, or an extractor URI of open_clip whose image embedding is taken.
    layer : module path whose output is the feature. url : of the weights, in torchvision's format.
    statistics : mean and s.d. of each channel. score : what is published of it, "two_way" or "distance".
    options : of the architecture. without : parameters that the weights lack and the layer does not need.
    """

    architecture: str
    layer: str
    size: int
    score: str
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    url: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def build(self) -> nn.Module:
        """The architecture of torchvision, without weights."""
        return torchvision.models.get_model(self.architecture, weights=None, **self.options)

    def preprocess(self, pictures: np.ndarray) -> Tensor:
        """uint8 (n, H, W, 3) to what the network takes, float32 (n, 3, size, size)."""
        return normalize(scale(as_unit_tensor(pictures), self.size), *self.statistics)

    @property
    def path(self) -> Path:
        """Where the weights of `url` are kept."""
        return url_path(str(self.url))


def _weights_url(name: str) -> str:
    return torchvision.models.get_weight(name).url


_ALEXNET = _weights_url("AlexNet_Weights.IMAGENET1K_V1")
_INCEPTION = _weights_url("Inception_V3_Weights.IMAGENET1K_V1")
_EFFICIENTNET = _weights_url("EfficientNet_B1_Weights.IMAGENET1K_V2")
# The weights that torch.hub's facebookresearch/swav names; its code only builds torchvision's resnet50 around them.
_SWAV = "https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar"

PUBLISHED_NETWORKS: dict[str, PublishedNetwork] = {
    "AlexNet(2)": PublishedNetwork("alexnet", "features.4", 256, "two_way", url=_ALEXNET),
    "AlexNet(5)": PublishedNetwork("alexnet", "features.11", 256, "two_way", url=_ALEXNET),
    # These weights were trained on another scale of inputs, to which the model then maps ImageNet's.
    "Inception": PublishedNetwork(
        "inception_v3", "avgpool", 342, "two_way", url=_INCEPTION,
        options={"transform_input": True, "init_weights": False},
    ),
    "CLIP": PublishedNetwork("open_clip:ViT-L-14-quickgelu/openai", "visual", 224, "two_way", CLIP),
    "EffNet-B": PublishedNetwork("efficientnet_b1", "avgpool", 255, "distance", url=_EFFICIENTNET),
    "SwAV": PublishedNetwork("resnet50", "avgpool", 224, "distance", url=_SWAV, without=("fc.weight", "fc.bias")),
}  # fmt: skip

Networks = Mapping[str, str | Network] | Sequence[str] | str | None


def named_networks(networks: Networks) -> dict[str, str | Network]:
    """Networks by the name under which they are reported.

    Parameters
    ----------
    networks : names of `PUBLISHED_NETWORKS` and extractor URIs, or a mapping of names to such or to functions from
        pictures uint8 (n, H, W, 3) to features (n, ...); "published" for all of those; None for the miniature backbone.
    """
    if networks is None:
        return {DEFAULT_NETWORK: DEFAULT_NETWORK}
    if isinstance(networks, str):
        networks = list(PUBLISHED_NETWORKS) if networks == "published" else [networks]
    return dict(networks) if isinstance(networks, Mapping) else {name: name for name in networks}


def load_network(network: str | Network, device: str = "auto") -> Network:
    """A function from pictures to features; of an extractor, its own embedding, or its pooled last block.

    Raises
    ------
    MissingWeightsError : the weights are not here; the error names the command that fetches them.
    UnknownNameError : no such network. ArtifactError : damaged weights.
    InputError : untrained weights, whose numbers say nothing about a picture, or a model that reads no images.
    """
    if not isinstance(network, str):
        return network
    if network in PUBLISHED_NETWORKS:
        return published_network(PUBLISHED_NETWORKS[network], device, name=network)
    if ":" not in network:
        raise unknown_name("network", network, [*PUBLISHED_NETWORKS, DEFAULT_NETWORK])
    if parse_uri(network).untrained:
        raise InputError("untrained weights say nothing about a picture", where=network, remedy="Leave untrained: out")
    with quietly():
        extractor = FeatureExtractor.from_uri(network, device)
    if extractor.modality != "image":
        raise InputError(f"reads {extractor.modality}, not images", where=network)
    readout = "projected" if extractor.backbone.project is not None else "pooled"

    def features(pictures: np.ndarray) -> np.ndarray:
        (values,) = extractor(list(pictures), readout=readout).values()
        return values

    return features


def published_network(network: PublishedNetwork, device: str = "auto", *, name: str = "") -> Network:
    """The features of a published network as a function, its weights loaded from this machine; see `load_network`."""
    if network.url is None:
        clip: Any = load_backbone(parse_uri(network.architecture)).module
        return as_function(network, clip.encode_image, device, clip)
    if not network.path.exists():
        raise MissingWeightsError(
            f"the weights of {name or network.architecture} are not on this machine",
            where=network.path.parent,
            remedy=f'Fetch them with `penfield models fetch "{name}"`' if name else f"They come from {network.url}",
        )
    model = network.build()
    _load_weights(model, network)
    part = create_feature_extractor(model.eval(), [network.layer], suppress_diff_warning=True)
    return as_function(network, lambda x: part(x)[network.layer], device, part)


def as_function(
    network: PublishedNetwork, forward: Callable[[Tensor], Tensor], device: str, module: nn.Module
) -> Network:
    """From pictures uint8 (n, H, W, 3) to features float32 (n, ...) by the preprocessing of a published network."""
    where = torch_device(device)
    module.eval().requires_grad_(False).to(where)

    @torch.inference_mode()
    def features(pictures: np.ndarray) -> np.ndarray:
        return forward(network.preprocess(pictures).to(where)).float().cpu().numpy()

    return features


def _load_weights(model: nn.Module, network: PublishedNetwork) -> None:
    remedy = "Delete it and fetch it again"
    try:
        state = torch.load(network.path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("module."): value for name, value in state.items()}
        missing, _ = model.load_state_dict(state, strict=False)
    except (RuntimeError, UnpicklingError, EOFError, OSError, AttributeError) as error:
        raise ArtifactError(f"not whole weights ({str(error)[:120]})", where=network.path, remedy=remedy) from error
    lacking = sorted(set(missing) - set(network.without))
    if lacking:
        raise ArtifactError(f"lacks {lacking[0]} ({len(lacking)} such)", where=network.path, remedy=remedy)
