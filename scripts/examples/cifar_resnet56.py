"""ResNet-56 for CIFAR-10 as a ``python:`` model: ``python:scripts.examples.cifar_resnet56:build``.

He, Zhang, Ren & Sun (CVPR 2016), section 4.2: three stages of nine blocks with 16, 32 and 64 channels, shortcuts
without parameters (option A). Its layers for ``penfield score``: pixels, conv1, layer1, layer2, layer3, logits.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from recordings.errors import MissingWeightsError

# The statistics of ImageNet, with which these weights were trained.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
SIZE = 32
WEIGHTS = Path("cifar-resnet56", "model.safetensors")


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut that, where the stage changes, skips pixels and pads channels."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(residual + F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


class ResNet56(nn.Module):
    """The network; ``pixels`` and ``logits`` name its input and its output as layers."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Identity()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1)
        self.layer2 = _stage(16, 32, 2)
        self.layer3 = _stage(32, 64, 2)
        self.logits = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of normalised images (n, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(self.pixels(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.logits(x.mean((2, 3)))


def build() -> tuple[nn.Module, object]:
    """The trained network in evaluation mode, and its preprocessing.

    Raises
    ------
    MissingWeightsError : no weights below PENFIELD_DATA or beside the repository.
    """
    network = ResNet56()
    tensors = load_file(find_weights())
    network.load_state_dict({name.replace("linear.", "logits."): value for name, value in tensors.items()})
    return network.eval(), preprocess


def preprocess(image: np.ndarray) -> Tensor:
    """An image (H, W, 3) uint8, resized to 32 x 32 (bicubic) and normalised, (3, 32, 32) float32."""
    small = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    values = (np.asarray(small, np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def find_weights() -> Path:
    """The weights file below PENFIELD_DATA, or below ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("PENFIELD_DATA", beside)) / WEIGHTS
    if not path.is_file():
        raise MissingWeightsError(
            "weights of CIFAR-10 ResNet-56 are not here", where=path, remedy="Set PENFIELD_DATA to the folder above"
        )
    return path


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(8)))
