"""The generator of pictures from deep features through which deep image reconstruction looks for its pictures."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from recordings.errors import FormatError, MissingWeightsError, ShapeError

# Blue, green and red of Caffe's mean picture, which the network's output is the difference from.
_CAFFE_MEAN = (104.0, 117.0, 123.0)
_SLOPE = 0.3
_GRID = 4


class UpconvolutionalGenerator(nn.Module):
    """From a code of AlexNet's layer fc7 to a picture of 256 x 256 (Dosovitskiy & Brox 2016, NeurIPS).

    Three fully connected layers, then six upconvolutions of stride 2, leaky ReLUs of slope .3 between them. Names of
    parameters are those of the published network, ``defc7`` to ``deconv0``.

    Parameters
    ----------
    code : numbers in a code. width : units of the fully connected layers, a multiple of 16. The published network has
        4,096 of each; channels shrink with `width`.
    """

    def __init__(self, code: int = 4096, width: int = 4096):
        super().__init__()
        c = width // _GRID**2
        self.code_shape = (code,)
        self.size = (_GRID * 2**6,) * 2
        self.defc7, self.defc6, self.defc5 = nn.Linear(code, width), nn.Linear(width, width), nn.Linear(width, width)
        self.deconv5, self.conv5_1 = _double(c, c), _same(c, 2 * c)
        self.deconv4, self.conv4_1 = _double(2 * c, c), _same(c, c)
        self.deconv3, self.conv3_1 = _double(c, c // 2), _same(c // 2, c // 2)
        self.deconv2, self.deconv1 = _double(c // 2, c // 4), _double(c // 4, c // 8)
        self.deconv0 = _double(c // 8, 3)
        self.register_buffer("mean", torch.tensor(_CAFFE_MEAN)[:, None, None], persistent=False)

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Self:
        """The network whose weights a file holds, safetensors or a torch file of tensors alone.

        Raises
        ------
        MissingWeightsError : no such file. FormatError : it cannot be read, or holds more than tensors.
        ShapeError : the weights of another network.
        """
        weights = _read(Path(path))
        known = [name for name in cls(16, 128).state_dict() if name not in weights]
        if known:
            raise ShapeError(f"no {known[0]} in it", where=path, remedy="Give weights of the fc7 generator")
        width, code = weights["defc7.weight"].shape
        network = cls(code, width)
        try:
            network.load_state_dict({name: weights[name].float() for name in network.state_dict()})
        except RuntimeError as error:
            raise ShapeError(str(error).splitlines()[1].strip(), where=path) from error
        return network.eval().requires_grad_(False)

    def forward(self, code: Tensor) -> Tensor:
        """Red, green and blue, float32 (n, 3, 256, 256), near [0, 1], of codes (n, code)."""
        x = code
        for full in (self.defc7, self.defc6, self.defc5):
            x = nn.functional.leaky_relu(full(x), _SLOPE)
        x = x.unflatten(1, (-1, _GRID, _GRID))
        for layer in (
            self.deconv5, self.conv5_1, self.deconv4, self.conv4_1, self.deconv3, self.conv3_1, self.deconv2,
            self.deconv1,
        ):  # fmt: skip
            x = nn.functional.leaky_relu(layer(x), _SLOPE)
        return ((self.deconv0(x) + self.mean) / 255).flip(1)


def _double(n_in: int, n_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)


def _same(n_in: int, n_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(n_in, n_out, 3, padding=1)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingWeightsError("no such file", where=path, remedy="Give the published weights of the generator")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, TypeError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # torch raises pickle's own error for anything but tensors.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FormatError:
    return FormatError(
        f"no file of tensors ({str(error).splitlines()[0]})",
        where=path,
        remedy="Give safetensors, or a torch file that holds tensors alone",
    )
