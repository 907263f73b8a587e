"""A model's preprocessing as a differentiable function of pixels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from encoders import FeatureExtractor
from recordings.errors import InputError

# At the border a resized ramp is flattened, so that only the middle tells where pixels come from.
_MARGIN = 0.15
_TOLERANCE = 0.03
_MODES = ("bicubic", "bilinear")


class Preprocessing:
    """Resizing, cropping and normalisation of a model for pictures of one size, with gradients.

    Libraries preprocess files, not tensors. What they do is found by showing the model's own preprocessing plain
    colours, which give normalisation and order of channels, and two ramps, which give size and place of the crop; the
    result is then compared with theirs on a picture.

    Parameters
    ----------
    extractor : of an image model. size : height and width of the pictures.

    Raises
    ------
    InputError : not an image model, or preprocessing of another kind, such as padding.
    """

    def __init__(self, extractor: FeatureExtractor, size: tuple[int, int]):
        if extractor.modality != "image":
            raise InputError(f"{extractor.uri} reads {extractor.modality}", remedy="Take an image model")
        self.size = size
        self._extractor = extractor
        black = self._shown(np.zeros((*size, 3)))
        self.shape = tuple(black.shape[1:])
        self.mean = black.mean((1, 2))
        colours = [self._shown(np.ones((*size, 1)) * np.eye(3)[k]).mean((1, 2)) - self.mean for k in range(3)]
        self.matrix = torch.stack(colours, 1)
        self.resized, self.corner = self._geometry()
        self.mode = self._mode()

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Input tensors of the model from pixels, float32 (n, 3, height, width) in [0, 1]."""
        return {self._name: self._apply(pixels, self.mode)}

    def _apply(self, pixels: Tensor, mode: str) -> Tensor:
        if self.resized != self.size:
            # As files are: after resizing, colours are in [0, 1] again.
            resized = F.interpolate(pixels, self.resized, mode=mode, antialias=True, align_corners=False)
            pixels = resized.clamp(0, 1)
        (top, left), (height, width) = self.corner, self.shape
        cut = pixels[:, :, top : top + height, left : left + width]
        matrix, mean = self.matrix.to(pixels), self.mean.to(pixels)
        return torch.einsum("oc,nchw->nohw", matrix, cut) + mean[:, None, None]

    def _shown(self, picture: np.ndarray) -> Tensor:
        """What the model's preprocessing makes of a picture, (H, W, 3) in [0, 1]."""
        inputs = self._extractor.backbone.preprocess((picture * 255).round().astype(np.uint8))
        (self._name, shown), *rest = inputs.items()
        if rest or shown.ndim != 3 or len(shown) != 3:
            raise InputError("its input is not one picture of three channels", where=self._extractor.uri)
        return shown.float()

    def _geometry(self) -> tuple[tuple[int, int], tuple[int, int]]:
        inverse = torch.linalg.inv(self.matrix)
        sides = []
        for axis in (0, 1):
            n, n_out = self.size[axis], self.shape[axis]
            # Whole levels a pixel, or pixels a level: rounding would otherwise bend the ramp.
            levels, pixels = max(1, 255 // (n - 1)), max(1, -((1 - n) // 255))
            ramp = np.arange(n) // pixels * levels / 255
            picture = np.broadcast_to(np.expand_dims(ramp, 1 - axis)[..., None], (*self.size, 3))
            shown = self._shown(picture)
            colours = torch.einsum("co,ohw->chw", inverse, shown - self.mean[:, None, None])
            source = colours.mean((0, 2 - axis)).numpy() * 255 / levels * pixels + (pixels - 1) / 2
            middle = slice(int(n_out * _MARGIN), n_out - int(n_out * _MARGIN))
            step, start = np.polyfit(np.arange(n_out)[middle], source[middle], 1)
            if not 0 < step < n:
                raise self._refusal()
            # Pixel centres: source + 1/2 = (out + corner + 1/2) * step.
            sides.append((round(n / step), round((start + 0.5) / step - 0.5)))
        (height, top), (width, left) = sides
        inside = top >= 0 and left >= 0 and top + self.shape[0] <= height and left + self.shape[1] <= width
        if not inside:
            raise self._refusal()
        return (height, width), (top, left)

    def _mode(self) -> str:
        """The interpolation nearest to the model's own."""
        rng = np.random.default_rng(0)
        coarse = torch.as_tensor(rng.random((1, 3, 6, 6), np.float32))
        picture = F.interpolate(coarse, self.size, mode="bilinear")[0].movedim(0, -1).numpy()
        picture = ((picture * 255).round() / 255).astype(np.float32)
        own = self._shown(picture)
        pixels = torch.as_tensor(picture).movedim(-1, 0)[None]
        errors = {mode: float((self._apply(pixels, mode)[0] - own).std() / own.std()) for mode in _MODES}
        best = min(errors, key=lambda mode: errors[mode])
        if not errors[best] < _TOLERANCE:
            raise self._refusal()
        return best

    def _refusal(self) -> InputError:
        return InputError(
            "its preprocessing is not resizing, cropping and normalisation alone",
            where=self._extractor.uri,
            remedy="Take a model of another preprocessing",
        )
