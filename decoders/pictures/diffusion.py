"""The denoising loop: latents of many brains through one UNet, each with its own strength, guidance and noise.

One loop serves text to image, image to image, depth to image, ControlNet and IP-Adapter; on the same inputs it gives
what diffusers' pipelines for these give. What they cannot do is here: strength and guidance for each brain, latents of
any number of channels together with depth, and a look at every step.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import ArrayLike
from torch import Tensor

from recordings.errors import InputError, ShapeError

from .generator import Generator
from .pixels import absolute_depth, relative_depth
from .presets import check_schedule


class Step(NamedTuple):
    """After one step of the scheduler.

    Attributes
    ----------
    number, total : of this step, from 1 on, and of all.
    latents : float32 (brain, channel, height, width), scaled. estimate : the same once all noise is removed, as the
        UNet sees it at this step (Song et al. 2021, equation 9).
    """

    number: int
    total: int
    latents: Tensor
    estimate: Tensor


class _Group(NamedTuple):
    """Brains of one strength: their first step, their rows, and a scheduler of their own, since many keep a history."""

    first: int
    rows: Tensor
    scheduler: Any
    options: dict[str, Any]


class _Condition(NamedTuple):
    """What the UNet reads beside the latents, a row a brain; see `denoise`."""

    context: Tensor
    unconditional: Tensor | None
    depth: Tensor | None
    embedding: Tensor | None


@torch.no_grad()
def denoise(
    generator: Generator,
    context: Tensor,
    start: Tensor | None,
    noise: Sequence[torch.Generator],
    *,
    unconditional: Tensor | None = None,
    depth: Tensor | None = None,
    embedding: Tensor | None = None,
    strength: ArrayLike = 1.0,
    guidance: ArrayLike = 1.0,
    steps: int = 50,
    scheduler: Any = None,
) -> Iterator[Step]:
    """Denoise the latents of n brains together, step by step; the last step holds the result.

    Image to image follows Meng et al. (2022): noise to match `strength` is added to `start` and int(strength * steps)
    of the steps are run. No step is run where the strength is 0. Rows do not depend on each other: one with NaN spoils
    none of the others.

    Parameters
    ----------
    generator : its UNet, and its ControlNet and IP-Adapter where depth or an embedding are given.
    context : (n, token, channel) text embeddings.
    start : (n, channel, height, width) scaled latents, or None for pure noise, whose strength is 1.
    noise : n random generators, from which all randomness of a brain comes.
    unconditional : (token, channel) embedding of the empty prompt, needed with guidance over 1.
    depth : (n, H, W) nearness, for a ControlNet in [0, 1]; the same in the unconditional half.
    embedding : (n, width) image embeddings, zeros in the unconditional half; without it an IP-Adapter is left out.
    strength, guidance : one number, or (n,). Guidance of 1 or less is none, as in diffusers.
    scheduler : by default DDIM (eta 0) with the noise schedule of the generator's.

    Raises
    ------
    InputError : strength, guidance or steps out of range; depth or embedding that the generator cannot take or lacks.
    ShapeError : another number of rows.
    """
    check_schedule(strength, guidance, steps)
    n, device = len(context), generator.device
    scales = np.broadcast_to(np.asarray(guidance, np.float32), n)
    strengths = np.broadcast_to(np.asarray(strength, float), n)
    _check_rows(n, start=start, noise=noise, depth=depth, embedding=embedding)
    _check_conditions(generator, start, strengths, scales, unconditional, depth, embedding)
    scheduler = _prepare(scheduler or ddim(generator.scheduler), steps, device)
    groups = _groups(scheduler, strengths, steps, noise, device)
    weight = torch.as_tensor(np.maximum(scales, 1), device=device)
    condition = _Condition(context.to(device), unconditional, _prepare_depth(generator, depth, start), embedding)
    latents = _noised(generator, start, groups, noise)
    estimate = latents.clone() if start is None else start.to(device, torch.float32).clone()
    first = min(group.first for group in groups)
    for number in range(first, len(scheduler.timesteps)):
        time = scheduler.timesteps[number]
        running = [group for group in groups if group.first <= number]
        rows = torch.cat([group.rows for group in running])
        seen = torch.cat([group.scheduler.scale_model_input(latents[group.rows], time) for group in running])
        predicted = _guided(generator, seen, time, condition, rows, weight[rows])
        for group, output, sample in zip(running, *(_split(x, running) for x in (predicted, seen)), strict=True):
            moved = group.scheduler.step(output, time, latents[group.rows], **group.options)
            clean = getattr(moved, "pred_original_sample", None)
            estimate[group.rows] = _clean(group.scheduler, output, time, sample) if clean is None else clean
            latents[group.rows] = moved.prev_sample
        if number == len(scheduler.timesteps) - 1:
            estimate = latents
        yield Step(number - first + 1, len(scheduler.timesteps) - first, latents.clone(), estimate.clone())


def ddim(scheduler: Any) -> DDIMScheduler:
    """DDIM (Song et al. 2021) with another scheduler's noise schedule and kind of prediction."""
    # Latents go far beyond [-1, 1]; a configuration that does not say so would have them clipped.
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False)


def count_steps(scheduler: Any, strength: ArrayLike, steps: int) -> int:
    """How often `denoise` yields for brains of the given strengths."""
    scheduler = _prepare(scheduler, steps, torch.device("cpu"))
    return len(scheduler.timesteps) - int(
        _first_steps(scheduler, np.atleast_1d(np.asarray(strength, float)), steps).min()
    )


# Before the loop -----------------------------------------------------------------------------------------------------


def _prepare(scheduler: Any, steps: int, device: torch.device) -> Any:
    # A copy, since the steps and their history are kept in it.
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps, device=device)
    return scheduler


def _first_steps(scheduler: Any, strength: np.ndarray, steps: int) -> np.ndarray:
    """Position among the timesteps at which each brain begins; one past the last where nothing is run."""
    first = (steps - (strength * steps).astype(int)) * scheduler.order
    return np.where(strength > 0, first, len(scheduler.timesteps))


def _groups(
    scheduler: Any, strength: np.ndarray, steps: int, noise: Sequence[torch.Generator], device: torch.device
) -> list[_Group]:
    starts = _first_steps(scheduler, strength, steps)
    random = "generator" in inspect.signature(scheduler.step).parameters
    groups = []
    for first in np.unique(starts).tolist():
        own, rows = copy.deepcopy(scheduler), np.flatnonzero(starts == first)
        if hasattr(own, "set_begin_index") and first < len(own.timesteps):
            own.set_begin_index(first)
        options = {"generator": [noise[k] for k in rows.tolist()]} if random else {}
        groups.append(_Group(first, torch.as_tensor(rows, device=device), own, options))
    return groups


def _noised(
    generator: Generator, start: Tensor | None, groups: Sequence[_Group], noise: Sequence[torch.Generator]
) -> Tensor:
    device = generator.device
    drawn = randn_tensor((len(noise), *generator.latent_shape), generator=list(noise), device=device)
    if start is None:
        return drawn * groups[0].scheduler.init_noise_sigma
    latents = start.to(device, torch.float32).clone()
    for first, rows, scheduler, _ in groups:
        if first < len(scheduler.timesteps):
            times = scheduler.timesteps[first].repeat(len(rows))
            latents[rows] = scheduler.add_noise(latents[rows], drawn[rows], times)
    return latents


def _prepare_depth(generator: Generator, depth: Tensor | None, start: Tensor | None) -> Tensor | None:
    if depth is None:
        return None
    maps = depth.to(generator.device)
    if generator.takes_depth == "depth2img":
        return relative_depth(maps, generator.latent_shape[1:])
    return absolute_depth(maps, generator.image_size, generator.controlnet.config.conditioning_channels)


# In the loop ---------------------------------------------------------------------------------------------------------


def _guided(
    generator: Generator, latents: Tensor, time: Tensor, condition: _Condition, rows: Tensor, weight: Tensor
) -> Tensor:
    """What the UNet predicts for the given rows, each moved away from its unconditional prediction by its weight.

    Rows whose weight is 1 are spared the unconditional half.
    """
    guided = torch.nonzero(weight > 1).flatten()
    both = torch.cat([guided, torch.arange(len(rows), device=rows.device)])
    brains, free = rows[both], len(guided)
    context, embedding = condition.context[brains], condition.embedding
    if free:
        assert condition.unconditional is not None
        context[:free] = condition.unconditional.to(context)
    if embedding is not None:
        embedding = embedding.to(latents.device)[brains]
        embedding[:free] = 0
    depth = None if condition.depth is None else condition.depth[brains]
    predicted = _predict(generator, latents[both], time, context, depth, embedding)
    unguided, wanted = predicted[:free], predicted[free:]
    wanted[guided] = unguided + weight[guided].view(-1, 1, 1, 1) * (wanted[guided] - unguided)
    return wanted


def _predict(
    generator: Generator, latents: Tensor, time: Tensor, context: Tensor, depth: Tensor | None, embedding: Tensor | None
) -> Tensor:
    """The UNet's prediction for rows of latents, text embeddings, prepared depth maps and image embeddings."""
    unet, dtype = generator.unet, generator.unet.dtype
    seen, options = latents.to(dtype), {"encoder_hidden_states": context.to(dtype), "return_dict": False}
    residuals: dict[str, Any] = {}
    if depth is not None and generator.takes_depth == "depth2img":
        seen = torch.cat([seen, depth.to(dtype)], 1)
    elif depth is not None:
        down, middle = generator.controlnet(seen, time, controlnet_cond=depth.to(dtype), **options)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    if generator.ip_adapter is None:
        return unet(seen, time, **options, **residuals)[0].float()
    if embedding is not None:
        return unet(seen, time, added_cond_kwargs=_embeds(embedding, dtype), **options, **residuals)[0].float()
    # An adapted UNet asks for an embedding even where none is to be heard.
    silent = torch.zeros(len(seen), generator.embedding_width or 0, device=seen.device)
    heard = _set_adapter_scales(unet, None)
    try:
        return unet(seen, time, added_cond_kwargs=_embeds(silent, dtype), **options, **residuals)[0].float()
    finally:
        _set_adapter_scales(unet, heard)


def _embeds(embedding: Tensor, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    return {"image_embeds": [embedding[:, None].to(dtype)]}


def _set_adapter_scales(unet: Any, scales: list[Any] | None) -> list[Any]:
    """Set the scale of each adapted attention, None for 0; return what it was."""
    adapted = [processor for processor in unet.attn_processors.values() if hasattr(processor, "to_k_ip")]
    before = [processor.scale for processor in adapted]
    for number, processor in enumerate(adapted):
        processor.scale = [0.0] * len(before[number]) if scales is None else scales[number]
    return before


def _split(values: Tensor, groups: Sequence[_Group]) -> tuple[Tensor, ...]:
    return values.split([len(group.rows) for group in groups])


def _clean(scheduler: Any, output: Tensor, time: Tensor, seen: Tensor) -> Tensor:
    """Latents without their noise, from what the UNet saw and predicted, for schedulers that do not tell."""
    alpha = scheduler.alphas_cumprod[int(time.round())].to(seen.device)
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    return signal * seen - sigma * output if kind == "v_prediction" else (seen - sigma * output) / signal


# Checks --------------------------------------------------------------------------------------------------------------


def _check_rows(n: int, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and len(value) != n:
            raise ShapeError(f"{name} has {len(value)} rows for {n} brains", where=name)


def _check_conditions(
    generator: Generator,
    start: Tensor | None,
    strength: np.ndarray,
    guidance: np.ndarray,
    unconditional: Tensor | None,
    depth: Tensor | None,
    embedding: Tensor | None,
) -> None:
    if start is None and (strength != 1).any():
        raise InputError(
            f"strength {strength[strength != 1][0]:g} from pure noise", remedy="Give a start, or strength 1"
        )
    if (guidance > 1).any() and unconditional is None:
        raise InputError("guidance without the empty prompt", remedy="Give unconditional, or guidance=1")
    if depth is None and generator.takes_depth == "depth2img":
        raise InputError("the generator's UNet needs a depth map", remedy="Give depth, or take another generator")
    if depth is not None and generator.takes_depth is None:
        raise InputError("the generator takes no depth", remedy="Load it with a controlnet")
    if embedding is not None and generator.embedding_width is None:
        raise InputError("the generator takes no image embedding", remedy="Load it with an ip_adapter")
