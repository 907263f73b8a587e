"""`FeatureInverter`: pictures whose deep features are those decoded from a brain (Shen et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from encoders import FeatureExtractor, Features
from recordings.errors import ConstantUnitError, InputError, MismatchedIdsError, NotFiniteError, ShapeError
from recordings.events import OnEvent, Stop, report

from .network import DifferentiableLayers
from .priors import ImagePrior

_ROWS = 64
# The last step is all but 0, as published.
_LAST_STEP = 1e-10


@dataclass(frozen=True)
class Inversion:
    """Pictures from features.

    Attributes
    ----------
    stimulus_ids : n. images : uint8 (n, H, W, 3). codes : float32 (n, *code_shape), of the prior.
    layers : of the features. error : float32 (n, layer), squared distance of the picture's features from the target
        over the target's squared norm: 0 where they are met.
    """

    stimulus_ids: list[str]
    images: np.ndarray
    codes: np.ndarray
    layers: list[str]
    error: np.ndarray


class FeatureInverter:
    """Search of the picture whose features of several layers come nearest to given ones (Shen et al. 2019, eq. 1-4).

    The squared error of each layer weighs 1 / the squared norm of its target. The code of the picture goes down the
    gradient, divided by its mean magnitude, with momentum, in steps that shrink linearly to 0; it then decays a little
    and is clipped to the prior's bounds. Every brain has a start of its own, drawn by seed and stimulus id, and its
    picture does not depend on what else is in the batch.

    Parameters
    ----------
    extractor : the image model whose features were decoded, in float32.
    prior : where pictures are looked for: `generator_prior`, `latent_prior` or `fourier_prior`.
    layers : as in `FeatureExtractor`. readout : how layers were read.
    steps : of the search; published: 200. momentum : published: .9.
    clip_extreme : this part of the pixels, the darkest and brightest half of it each, is clipped and the rest stretched
        to 0..255, as published with .04; 0 leaves pictures as they are.

    Attributes
    ----------
    spread_ : after `fit`, by layer, how much real features vary within a picture.
    """

    spread_: dict[str, float]

    def __init__(
        self,
        extractor: FeatureExtractor,
        prior: ImagePrior,
        layers: Sequence[str] | None = None,
        readout: str = "flat",
        *,
        steps: int = 200,
        momentum: float = 0.9,
        clip_extreme: float = 0.0,
    ):
        if steps < 1 or not 0 <= momentum < 1 or not 0 <= clip_extreme < 1:
            raise InputError("steps under 1, or momentum or clip_extreme outside [0, 1)", where="FeatureInverter")
        self.extractor = extractor
        self.prior = prior
        self.steps = steps
        self.momentum = momentum
        self.clip_extreme = clip_extreme
        self._read = DifferentiableLayers(extractor, layers or [extractor.default_layer], readout, prior.size)
        self.layers = self._read.layers
        self._shapes = self._read.shapes()

    def fit(self, features: Mapping[str, Features]) -> Self:
        """Learn from real features how much they vary within a picture, for decoded ones vary less.

        `invert` then scales decoded features about their mean to this spread (Shen et al. 2019, Methods). Features are
        read in chunks, and their stimuli should be those of the training.

        Raises
        ------
        MismatchedIdsError : a layer without features. ShapeError : of another shape than the extractor's.
        """
        self._check_names(features)
        spread = {}
        for layer in self.layers:
            self._check_shape(layer, features[layer].shape[1:])
            chunks = range(0, len(features[layer]), _ROWS)
            sds = [self._spread(layer, features[layer].read(slice(start, start + _ROWS))) for start in chunks]
            spread[layer] = float(np.concatenate(sds).mean())
        self.spread_ = spread
        return self

    def invert(
        self,
        features: Mapping[str, np.ndarray],
        stimulus_ids: Sequence[str],
        *,
        seed: int = 0,
        batch_size: int = 8,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Inversion:
        """Pictures of decoded features.

        Parameters
        ----------
        features : by layer, float32 (n, *shape of the layer's features). stimulus_ids : n, for errors and seeds.
        seed : with the stimulus id it fixes the start. batch_size : pictures at a time.
        on_event : told after each step, with the mean relative error. stop : asked after each step.

        Raises
        ------
        MismatchedIdsError : a layer without features. ShapeError : rows or shape of another size.
        NotFiniteError : NaN or infinity, in the features or on the way; stimulus and layer or step are named.
        ConstantUnitError : features all 0, or of no spread where it is to be scaled.
        """
        ids = [str(i) for i in stimulus_ids]
        self._check_names(features)
        targets = {layer: self._target(layer, features[layer], ids) for layer in self.layers}
        codes, images, errors = [], [], []
        total = -(-len(ids) // batch_size) * self.steps
        for start in range(0, len(ids), batch_size):
            rows = slice(start, start + batch_size)
            batch = {layer: torch.as_tensor(t[rows]).to(self.extractor.device) for layer, t in targets.items()}
            code = self._search(batch, ids[rows], seed, start // batch_size * self.steps, total, on_event, stop)
            with torch.inference_mode():
                pixels = self.prior.render(code)
                errors.append(self._errors(pixels.clamp(0, 1), batch).cpu().numpy())
            codes.append(code.cpu().numpy())
            images.append(self._picture(pixels.cpu().numpy()))
        return Inversion(
            ids,
            np.concatenate(images) if ids else np.empty((0, *self.prior.size, 3), np.uint8),
            np.concatenate(codes) if ids else np.empty((0, *self.prior.code_shape), np.float32),
            list(self.layers),
            np.concatenate(errors) if ids else np.empty((0, len(self.layers)), np.float32),
        )

    def _search(
        self,
        targets: Mapping[str, Tensor],
        ids: Sequence[str],
        seed: int,
        done: int,
        total: int,
        on_event: OnEvent | None,
        stop: Stop | None,
    ) -> Tensor:
        prior = self.prior
        drawn = [np.random.default_rng([seed, *i.encode()]).normal(0, prior.start, prior.code_shape) for i in ids]
        code = torch.as_tensor(np.stack(drawn), dtype=torch.float32, device=self.extractor.device)
        code.requires_grad_()
        optimiser: torch.optim.Optimizer = torch.optim.SGD([code], prior.learning_rate, momentum=self.momentum)
        if prior.adaptive:
            optimiser = torch.optim.Adam([code], prior.learning_rate, betas=(self.momentum, 0.999))
        for step in range(self.steps):
            pixels = prior.render(code)
            loss = self._errors(pixels, targets).mean(1)
            if prior.penalty is not None:
                loss = loss + prior.penalty(pixels)
            (code.grad,) = torch.autograd.grad(loss.sum(), code)
            _check_search(loss, code.grad, ids, step)
            size = code.grad.abs().flatten(1).mean(1).clamp(min=torch.finfo(torch.float32).tiny)
            code.grad /= size.view(-1, *[1] * (code.ndim - 1))
            optimiser.param_groups[0]["lr"] = prior.learning_rate + step / self.steps * (
                _LAST_STEP - prior.learning_rate
            )
            optimiser.step()
            with torch.no_grad():
                code.mul_(1 - prior.decay)
                _clip(code, prior.lower, prior.upper)
            report(on_event, stop, "invert", done + step + 1, total, error=float(loss.detach().mean()))
        return code.detach()

    def _errors(self, pixels: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Squared error over the target's squared norm, (n, layer)."""
        found = self._read(pixels)
        parts = [
            (found[layer] - target).flatten(1).square().sum(1) / target.flatten(1).square().sum(1)
            for layer, target in targets.items()
        ]
        return torch.stack(parts, 1)

    def _picture(self, pixels: np.ndarray) -> np.ndarray:
        if self.clip_extreme:
            tails = (50 * self.clip_extreme, 100 - 50 * self.clip_extreme)
            low, high = np.percentile(pixels, tails, axis=(1, 2, 3), keepdims=True)
            pixels = (pixels - low) / np.maximum(high - low, 1e-6)
        return (pixels.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)

    # Targets -----------------------------------------------------------------------------------------------------

    def _target(self, layer: str, values: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        values = np.asarray(values, np.float32)
        if len(values) != len(ids):
            raise ShapeError(f"{len(values)} rows of layer {layer!r} for {len(ids)} stimulus ids")
        self._check_shape(layer, values.shape[1:])
        flat = values.reshape(len(values), math.prod(values.shape[1:]))
        _refuse(np.asarray(~np.isfinite(flat).all(1)), NotFiniteError, "NaN or infinite features", layer, ids)
        _refuse(np.asarray(~flat.any(1)), ConstantUnitError, "features that are all 0", layer, ids)
        if not hasattr(self, "spread_"):
            return values
        spread = self._spread(layer, values)
        _refuse(np.asarray(spread == 0), ConstantUnitError, "features without spread", layer, ids)
        mean = flat.mean(1, keepdims=True)
        return ((flat - mean) * (self.spread_[layer] / spread)[:, None] + mean).reshape(values.shape)

    def _spread(self, layer: str, values: np.ndarray) -> np.ndarray:
        """S.d. over places, mean over channels, (n,); over all units where there are no places."""
        unfolded = values.reshape(len(values), *self._read.unfolded(layer)).astype(np.float64)
        axis = self._read.channel_axis(layer)
        if axis is None:
            return unfolded.std(1, ddof=1)
        places = tuple(k + 1 for k in range(unfolded.ndim - 1) if k != axis)
        return unfolded.std(places, ddof=1).mean(1)

    def _check_names(self, features: Mapping[str, object]) -> None:
        missing = [layer for layer in self.layers if layer not in features]
        if missing:
            raise MismatchedIdsError(
                f"no features of layer {missing[0]!r}", remedy="Decode every layer of the inverter"
            )

    def _check_shape(self, layer: str, shape: tuple[int, ...]) -> None:
        expected = self._shapes[layer]
        if tuple(shape) != expected:
            raise ShapeError(
                f"features of shape {tuple(shape)}, not {expected}",
                where=f"layer {layer!r} of {self.extractor.uri}",
                remedy="Give features of the same model, layer and read-out, without reduction",
            )


def _clip(code: Tensor, lower: float | np.ndarray | None, upper: float | np.ndarray | None) -> None:
    for bound, clip in ((lower, code.clamp_min_), (upper, code.clamp_max_)):
        if bound is not None:
            clip(torch.as_tensor(bound, dtype=code.dtype, device=code.device))


def _refuse(bad: np.ndarray, error: type[InputError], what: str, layer: str, ids: Sequence[str]) -> None:
    if bad.any():
        raise error(f"{what} of stimulus {ids[int(np.argmax(bad))]!r} ({bad.sum()} of {len(bad)})", where=layer)


def _check_search(loss: Tensor, gradient: Tensor, ids: Sequence[str], step: int) -> None:
    finite = torch.isfinite(loss.detach()) & torch.isfinite(gradient).flatten(1).all(1)
    if not finite.all():
        raise NotFiniteError(
            f"the error or its gradient is not finite for stimulus {ids[int((~finite).int().argmax())]!r}",
            where=f"step {step + 1}",
            remedy="Bound the prior's code, or take a smaller learning rate",
        )
