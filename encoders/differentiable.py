"""Fitted encoders as differentiable functions of their features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from recordings.errors import InputError

from .attention.encoder import NEUROIDS, TransformerEncoder
from .encoder import Encoder
from .features.extractor import torch_device
from .linear import LinearEncoder

_COEFFICIENT_BYTES = 256 * 2**20
Neuroids = slice | Sequence[int] | np.ndarray


def summed_response(encoder: Encoder, weights: np.ndarray) -> Callable[..., Tensor]:
    """A fitted encoder as a differentiable function: features, a tensor (B, ...) a space, to (B,).

    Parameters
    ----------
    weights : (neuroid,) by which predicted responses are added up, such as 1 for some neuroids and 0 for others.

    Raises
    ------
    InputError : an encoder with delays, or of a kind that is no function of tensors.
    """
    if encoder.delays:
        raise InputError(
            "an encoder with delays looks at several stimuli at a time", remedy="Attribute with one fitted without"
        )
    if isinstance(encoder, LinearEncoder):
        return _linear(encoder, weights)
    if isinstance(encoder, TransformerEncoder):
        return _transformer(encoder, weights)
    raise InputError(f"{type(encoder).__name__} is no function of tensors", remedy="Attribute with its members")


def _linear(encoder: LinearEncoder, weights: np.ndarray) -> Callable[..., Tensor]:
    columns = sum(len(band.mean) for band in encoder.bands_)
    parts = _runs(weights, max(1, _COEFFICIENT_BYTES // (4 * columns)))
    direction = sum(encoder.coefficients(part) @ weights[part].astype(np.float32) for part in parts)
    mean = np.concatenate([band.mean for band in encoder.bands_])
    offset = float(weights @ encoder.intercept_ - mean @ direction)
    slope = torch.as_tensor(direction, dtype=torch.float32, device=device_of(encoder))
    pooled = [band.pool for band in encoder.bands_]

    def respond(*features: Tensor) -> Tensor:
        parts = [f.mean(1) if pool else f.flatten(1) for f, pool in zip(features, pooled, strict=True)]
        return torch.cat(parts, 1) @ slope + offset

    return respond


def _transformer(encoder: TransformerEncoder, weights: np.ndarray) -> Callable[..., Tensor]:
    module = encoder.module_.to(device_of(encoder)).eval()
    # Regions' queries answer for all neuroids at once.
    parts = list(_runs(weights)) if module.by_neuroid else [slice(None)]
    offset = float(weights @ encoder.target_mean_)
    slope = torch.as_tensor(weights * encoder.target_scale_, dtype=torch.float32, device=device_of(encoder))

    def respond(*features: Tensor) -> Tensor:
        memory = module.memory(features)
        found = [module.respond(memory, part) @ slope[part] for part in parts]
        return torch.stack(found).sum(0) + offset

    return respond


def _runs(weights: np.ndarray, longest: int = NEUROIDS) -> Iterator[slice]:
    """Stretches of neuroids that count, none longer than `longest`."""
    used = np.flatnonzero(weights)
    for run in np.split(used, np.flatnonzero(np.diff(used) > 1) + 1):
        for start in range(run[0], run[-1] + 1, longest):
            yield slice(int(start), int(min(start + longest, run[-1] + 1)))


def indicator(encoder: Encoder, neuroids: Neuroids) -> np.ndarray:
    """(neuroid,) 1 for the given positions and 0 for others; `InputError` for none, or one out of range."""
    encoder._check_fitted()
    n = len(encoder.recording_["neuroid_ids"])
    weights = np.zeros(n)
    chosen = neuroids if isinstance(neuroids, slice) else np.asarray(neuroids)
    try:
        weights[chosen if isinstance(chosen, slice) or chosen.dtype == bool else chosen.astype(int)] = 1
    except IndexError as error:
        raise InputError(f"not positions among {n} neuroids ({error})", where="neuroids") from error
    if not weights.any():
        raise InputError("no neuroid chosen", where="neuroids", remedy="Give positions or a boolean array")
    return weights


def device_of(encoder: Encoder) -> torch.device:
    """Where the encoder computes."""
    return torch_device(getattr(encoder, "device", "cpu"))


def means_of(encoder: Encoder) -> list[Tensor]:
    """What the encoder has learnt to be the mean of each space: (n_features,), or (channel,) for tokens."""
    if isinstance(encoder, TransformerEncoder):
        return [getattr(encoder.module_, f"mean{number}") for number in range(len(encoder.sources_))]
    assert isinstance(encoder, LinearEncoder)
    return [torch.as_tensor(band.mean) for band in encoder.bands_]
