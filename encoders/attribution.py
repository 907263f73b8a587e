"""Attribution: which tokens a prediction comes from, as a check on attention; gradients through captum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import IntegratedGradients
from scipy import stats
from torch import Tensor

from recordings.errors import ShapeError, UnknownNameError
from recordings.events import OnEvent, Stop, report
from recordings.statistics import correlate

from .bands import named
from .differentiable import Neuroids, device_of, indicator, means_of, summed_response
from .encoder import Encoder
from .ensemble import Ensemble
from .features import Features

Baseline = Literal["mean", "zero"]
# Points on the line that are computed at a time.
_TOGETHER = 16


def integrated_gradients(
    encoder: Encoder,
    features: Features | Mapping[str, Features],
    stimulus_ids: Sequence[str] | None = None,
    neuroids: Neuroids = slice(None),
    *,
    baseline: Baseline = "mean",
    n_steps: int = 50,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> np.ndarray | dict[str, np.ndarray]:
    """How much each feature of a stimulus adds to the summed prediction of some neuroids (Sundararajan et al. 2017).

    Gradients along the straight line from a baseline to the stimulus, averaged (Gauss-Legendre), times the distance.
    They add up to f(stimulus) - f(baseline), f the sum of predicted responses, in their units; of a linear encoder
    with coefficients w they are (stimulus - baseline) w.

    Parameters
    ----------
    encoder : fitted, of `encoders`; without delays. Of an ensemble, members' attributions add up with its weights,
        each from its own baseline.
    features : of the fit's feature spaces; of an ensemble's members, what all of them read.
    stimulus_ids : by default all that the (first) features have.
    neuroids : positions, a slice or a boolean array.
    baseline : "mean", what the encoder has learnt to be the mean of a feature (of a channel, for tokens); or "zero".
    n_steps : points on the line; the sum comes closer with more of them.
    on_event, stop : progress and cancellation, a stimulus at a time.

    Returns
    -------
    float32, of the features' shape: (n, feature) or (n, token, channel); a dict by name for a mapping of features.

    Raises
    ------
    ArtifactError : other features than in the fit. InputError : an encoder with delays, or no neuroid.
    """
    watched: dict[str, Any] = {"baseline": baseline, "n_steps": n_steps, "on_event": on_event, "stop": stop}
    weights = indicator(encoder, neuroids)
    first = next(iter(named(features).values()))
    ids = list(first.stimulus_ids) if stimulus_ids is None else list(map(str, stimulus_ids))
    if isinstance(encoder, Ensemble):
        members = zip(encoder.members.values(), encoder.weights_ * weights, strict=True)
        parts = [_integrated(member, features, ids, own, **watched) for member, own in members if own.any()]
        found = {name: np.sum([part[name] for part in parts], 0) for name in parts[0]}
    else:
        found = _integrated(encoder, features, ids, weights, **watched)
    return found if isinstance(features, Mapping) else found[""]


def _integrated(
    encoder: Encoder,
    features: Features | Mapping[str, Features],
    stimulus_ids: Sequence[str],
    weights: np.ndarray,
    *,
    baseline: Baseline,
    n_steps: int,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> dict[str, np.ndarray]:
    spaces, device = encoder._spaces(features), device_of(encoder)
    method = IntegratedGradients(summed_response(encoder, weights))
    origin = tuple(
        _origin(mean, space.shape[1:], baseline).to(device)
        for mean, space in zip(means_of(encoder), spaces.values(), strict=True)
    )
    out = {name: np.empty((len(stimulus_ids), *space.shape[1:]), np.float32) for name, space in spaces.items()}
    for number, stimulus_id in enumerate(stimulus_ids):
        report(on_event, stop, "attribute", number, len(stimulus_ids))
        shown = tuple(torch.as_tensor(s.read(s.rows([stimulus_id])), device=device).float() for s in spaces.values())
        found = method.attribute(shown, origin, n_steps=n_steps, internal_batch_size=_TOGETHER)
        for name, values in zip(out, found, strict=True):
            out[name][number] = values[0].detach().cpu().numpy()
    return out


def by_place(attribution: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Attribution to tokens, (n, token, channel), added up over channels and laid on its grid, (n, *grid)."""
    return attribution.sum(-1).reshape(len(attribution), *grid)


def agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation over places of two sets of maps, (n, query, [frame,] row, column), in float64 (n, query).

    NaN where a map is constant. Attention and attribution need not agree in size, only in order.

    Raises
    ------
    ShapeError : maps of different shape.
    """
    if a.shape != b.shape or a.ndim < 4:
        raise ShapeError(
            f"maps of shape {a.shape} and {b.shape}", remedy="Give two of shape (n, query, [frame,] row, column)"
        )
    ranks = [stats.rankdata(m.reshape(-1, math.prod(m.shape[2:])), axis=1).T for m in (a, b)]
    return correlate(ranks[0], ranks[1]).reshape(a.shape[:2])


def deletion_curve(
    encoder: Encoder,
    features: Features,
    maps: np.ndarray,
    stimulus_ids: Sequence[str] | None = None,
    neuroids: Neuroids = slice(None),
    *,
    insertion: bool = False,
    n_steps: int = 10,
) -> np.ndarray:
    """Summed prediction while tokens give way to the mean token, those of greatest weight first (Petsiuk et al. 2018).

    A map that names the tokens a prediction comes from makes it change early.

    Parameters
    ----------
    features : tokens, (stimulus, token, channel). maps : (n, [frame,] row, column), a weight for each token.
    insertion : start from mean tokens alone and put the picture's in, those of greatest weight first.

    Returns
    -------
    float32 (n, n_steps + 1), after 0, 1 / n_steps, ... of the tokens.
    """
    (space,) = encoder._spaces(features).values()
    ids = list(space.stimulus_ids) if stimulus_ids is None else list(map(str, stimulus_ids))
    weights = np.asarray(maps).reshape(len(maps), -1)
    if len(space.shape) != 3 or weights.shape != (len(ids), space.shape[1]):
        raise ShapeError(
            f"maps of shape {np.shape(maps)} for {len(ids)} stimuli and features of shape {space.shape}",
            remedy="Give a map a stimulus, with a weight for each token",
        )
    device, respond = device_of(encoder), summed_response(encoder, indicator(encoder, neuroids))
    mean = _origin(means_of(encoder)[0], space.shape[1:], "mean").to(device)
    n_changed = torch.linspace(0, space.shape[1], n_steps + 1).round()[:, None]
    out = np.empty((len(ids), n_steps + 1), np.float32)
    with torch.inference_mode():
        for number, stimulus_id in enumerate(ids):
            rank = torch.as_tensor((-weights[number]).argsort(kind="stable").argsort(kind="stable"))
            changed = (rank < n_changed)[:, :, None].to(device)
            tokens = torch.as_tensor(space.read(space.rows([stimulus_id])), device=device).float()
            shown = torch.where(changed, tokens, mean) if insertion else torch.where(changed, mean, tokens)
            out[number] = respond(shown).cpu().numpy()
    return out


def _origin(mean: Tensor, shape: tuple[int, ...], baseline: Baseline) -> Tensor:
    """Where attribution starts from, (1, *shape)."""
    if baseline not in ("mean", "zero"):
        raise UnknownNameError(f"no baseline {baseline!r}", remedy="There are: mean, zero")
    start = mean if baseline == "mean" else torch.zeros_like(mean)
    # A mean by channel is the same for all tokens.
    return start.reshape(1, *shape) if start.numel() == math.prod(shape) else start.expand(1, *shape)
