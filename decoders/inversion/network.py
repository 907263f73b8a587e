"""Layers of an image model as differentiable functions of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from encoders import FeatureExtractor
from encoders.features.extractor import OUTPUT, PROJECTED
from encoders.features.readouts import first_tensor, read_out
from recordings.errors import InputError

from .preprocessing import Preprocessing

# Names of Caffe's VGG19, in which deep image reconstruction was published, as module paths of torchvision.
VGG19_LAYERS = {
    "conv1_2": "features.2",
    "conv2_2": "features.7",
    "conv3_4": "features.16",
    "conv4_4": "features.25",
    "conv5_4": "features.34",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}


class DifferentiableLayers:
    """Features of some layers from pixels, with gradients; the same numbers as the extractor's.

    Parameters
    ----------
    extractor : of an image model, computing in float32.
    layers : module paths, and "output". readout : how layers become features, see `encoders.features.READOUTS`.
    size : height and width of the pictures.

    Raises
    ------
    UnknownNameError : no such layer. InputError : not an image model in float32.
    """

    def __init__(self, extractor: FeatureExtractor, layers: Sequence[str], readout: str, size: tuple[int, int]):
        if extractor.dtype != "float32":
            raise InputError(f"gradients need float32, not {extractor.dtype}", where=extractor.uri)
        self.extractor = extractor
        self.layers = extractor.resolve_layers(layers, readout)
        self.readout = readout
        self.preprocess = Preprocessing(extractor, size)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Features by layer, float32 (n, feature) or (n, token, channel), of pixels (n, 3, H, W) in [0, 1]."""
        backbone, inputs = self.extractor.backbone, self.preprocess(pixels)
        if self.readout == PROJECTED and backbone.project is not None:
            return {PROJECTED: backbone.project(inputs)}
        caught: dict[str, Tensor] = {}
        handles = [
            backbone.module.get_submodule(layer).register_forward_hook(_keep(caught, layer))
            for layer in self.layers
            if layer != OUTPUT
        ]
        try:
            output = first_tensor(backbone.forward(inputs))
        finally:
            for handle in handles:
                handle.remove()
        if OUTPUT in self.layers and output is not None:
            caught[OUTPUT] = output
        return {layer: read_out(caught[layer], self.readout, backbone.layout) for layer in self.layers}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's features of one picture."""
        blank = torch.full((1, 3, *self.preprocess.size), 0.5, device=self.extractor.device)
        with torch.inference_mode():
            return {layer: tuple(values.shape[1:]) for layer, values in self(blank).items()}

    def channel_axis(self, layer: str) -> int | None:
        """Axis of channels in one picture's features, whole maps unfolded by `unfold`; None where all are channels."""
        shape = self.unfolded(layer)
        if len(shape) == 1:
            return None
        return 0 if len(shape) == 3 and not self.extractor.backbone.layout.channels_last else len(shape) - 1

    def unfolded(self, layer: str) -> tuple[int, ...]:
        """Shape in which channels have an axis: that of the layer's output where the read-out is "flat"."""
        if self.readout == "flat":
            return self.extractor.layer_shapes()[layer]
        return self.extractor.readout_shapes([layer], self.readout)[layer]


def _keep(caught: dict[str, Tensor], layer: str) -> Any:
    def receive(module: nn.Module, arguments: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            # The next layer may work in place, as many ReLUs do.
            caught[layer] = tensor.clone()

    return receive
