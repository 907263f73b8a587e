"""Receptive fields that an encoder has learnt: a centre and a size for each neuroid, or for each region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from recordings.errors import InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from ..features import Features
from .contributions import contributions
from .encoder import TransformerEncoder
from .gaussian import fit_gaussians
from .modules import Attention, GaussianField
from .predictor import Predictor
from .queries import Regions

Batch = tuple[list[Tensor], Tensor | None]
_FITTED_TOGETHER = 256


def receptive_fields(
    encoder: TransformerEncoder,
    features: Features | Mapping[str, Features] | None = None,
    stimulus_ids: Sequence[str] | None = None,
    *,
    by: Literal["contribution", "attention"] = "contribution",
    radius: float = 1.0,
    runs: ArrayLike | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> pd.DataFrame:
    """Centre and size of the receptive field of each neuroid, or of each query.

    They are those of a Gaussian on an even floor (`fit_gaussians`) fitted to a map of the picture. By "contribution"
    each neuroid has a map, whatever it shares its query with: the variance over pictures of what each place adds to
    its response (`contributions`). By "attention" each query has one: attention averaged over pictures and heads, so
    that attention that follows its object counts as a wide field. Of the routing "gaussian" they are the fitted
    parameters. Sizes include the receptive field of a token itself.

    A column becomes a map of the brain by ``recording.to_gifti(table["eccentricity"])`` or ``to_nifti``, where each
    neuroid has a query; of regions, by ``table["eccentricity"].to_numpy()[encoder.regions_.index]``.

    Parameters
    ----------
    features, stimulus_ids : pictures to look at, by default all. The routing "gaussian" needs none, nor do static maps
        by "attention".
    radius : from the picture's centre to its border in degrees of visual angle, such as 4.2 in NSD; 1 leaves units of
        half the image.
    runs : see `TransformerEncoder.predict`.
    on_event, stop : progress and cancellation, by batch of pictures and by block of maps.

    Returns
    -------
    One row a neuroid, or a query: neuroid_id, or region; x (right), y (up), sigma, eccentricity, in the units of
    `radius`; polar_angle, degrees counter-clockwise from the right; floor and r2, see `fit_gaussians`. NaN for a
    flat map.

    Raises
    ------
    InputError : no features where they are needed. UnknownNameError : no such `by`.
    ArtifactError : other features than in the fit.
    """
    if by not in ("contribution", "attention"):
        raise UnknownNameError(f"no receptive fields by {by!r}", remedy="There are: contribution, attention")
    module, device = encoder._ready()
    of_neuroids = module.by_neuroid or by == "contribution"
    names = encoder.recording_["neuroid_ids"] if of_neuroids else list(encoder.regions_.names)
    if isinstance(module.routing, GaussianField):
        table = _fields(module.routing)
    elif by == "attention" and not isinstance(module.routing, Attention):
        table = _fitted(module.routing.maps().detach().cpu().numpy().reshape(-1, *module.grid), on_event, stop)
    else:
        if features is None:
            raise InputError("the fields depend on pictures", where="features", remedy="Give features of some")
        n_pictures = len(next(iter(encoder._spaces(features).values()))) if stimulus_ids is None else len(stimulus_ids)
        batches = encoder._batches(features, stimulus_ids, runs, device, encoder.delays)
        reported = _reported(batches, -(-n_pictures // encoder.batch_size), on_event, stop)
        if by == "attention":
            maps = _mean_attention(module, reported, len(names))
        else:
            maps = _contribution_variance(module, encoder.regions_, reported, len(names))
        table = _fitted(maps.reshape(-1, *module.grid), on_event, stop)
    place = radius * table[["x", "y"]].to_numpy()
    return pd.DataFrame(
        {
            "neuroid_id" if of_neuroids else "region": names,
            "x": place[:, 0],
            "y": place[:, 1],
            "sigma": radius * table["sigma"],
            "eccentricity": np.hypot(place[:, 0], place[:, 1]),
            "polar_angle": np.degrees(np.arctan2(place[:, 1], place[:, 0])),
            "floor": table["floor"],
            "r2": table["r2"],
        }
    )


def _fields(routing: GaussianField) -> pd.DataFrame:
    with torch.inference_mode():
        centre, sigma = (values.cpu().numpy() for values in routing.fields())
    return pd.DataFrame({"x": centre[:, 0], "y": centre[:, 1], "sigma": sigma, "floor": 0.0, "r2": 1.0})


def _mean_attention(module: Predictor, batches: Iterator[Batch], n_queries: int) -> np.ndarray:
    """Attention averaged over pictures and heads, (query, place) float32."""
    total = np.zeros((n_queries, math.prod(module.grid)), np.float32)
    seen = 0
    with torch.inference_mode():
        for tokens, shown in batches:
            memory = module.memory(tokens, shown)
            # Of a finite impulse response each delay attends by itself, and those before the run began do not count.
            rows = memory[-1].flatten() if module.fir else None
            memory = memory[:-1] if module.fir else memory
            for queries in module.blocks(n_queries, memory):
                weights = module.routing.weights(memory, queries).mean(2)
                total[queries] += (weights if rows is None else weights[rows]).sum(0).cpu().numpy()
            seen += len(memory[0]) if rows is None else int(rows.sum())
    return total / max(seen, 1)


@torch.inference_mode()
def _contribution_variance(
    module: Predictor, regions: Regions, batches: Iterator[Batch], n_neuroids: int
) -> np.ndarray:
    """Variance over pictures of what each place adds to each neuroid, (neuroid, place) float32, summing to 1."""
    total, square = np.zeros((2, n_neuroids, math.prod(module.grid)), np.float32)
    groups = [np.arange(n_neuroids)] if module.by_neuroid else [regions.members(q) for q in range(len(regions.names))]
    seen = 0
    for tokens, shown in batches:
        memory = module.memory(tokens, shown)
        for group in groups:
            for part in module.blocks(len(group), memory):
                members = group[part]
                added = contributions(module, regions, memory, torch.as_tensor(members)).cpu().numpy()
                total[members] += added.sum(0)
                square[members] += (added**2).sum(0)
        seen += len(added)
    variance = (square / max(seen, 1) - (total / max(seen, 1)) ** 2).clip(0)
    return variance / variance.sum(1, keepdims=True).clip(1e-30)


def _reported(batches: Iterable[Batch], total: int, on_event: OnEvent | None, stop: Stop | None) -> Iterator[Batch]:
    for number, batch in enumerate(batches):
        report(on_event, stop, "attend", number, total)
        yield batch


def _fitted(maps: np.ndarray, on_event: OnEvent | None, stop: Stop | None) -> pd.DataFrame:
    space = maps.reshape(len(maps), -1, *maps.shape[-2:]).sum(1)
    parts = []
    for start in range(0, len(space), _FITTED_TOGETHER):
        report(on_event, stop, "fit receptive fields", start, len(space))
        parts.append(fit_gaussians(space[start : start + _FITTED_TOGETHER]))
    return pd.concat(parts, ignore_index=True)
