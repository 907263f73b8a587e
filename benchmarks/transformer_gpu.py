"""A full step of both encoders on a GPU: float32 and bfloat16, fused attention kernels and plain ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from original_step import HIDDEN, OriginalEncoder, make_optimiser, train_step
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformer_setting import (
    N_TOKENS,
    NEUROIDS,
    VERTEX_BATCH,
    VERTEX_QUERIES,
    Setting,
    neuroids,
    one_brain,
    penfield,
    penfield_optimiser,
    penfield_step,
)
from turns import take_turns

from encoders.attention.predictor import Predictor

KERNELS = {
    "plain": [SDPBackend.MATH],
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION],
}


def gpu(setting: Setting) -> dict[str, Any]:
    """Wall seconds of a step, waiting for the device; a line that says so where there is none."""
    if not torch.cuda.is_available():
        return {"device": "no GPU"}
    part: dict[str, Any] = {"device": torch.cuda.get_device_name()}
    part["region queries"] = {"times": take_turns(_region_steps(setting), setting.repeats, clock=_clock)}
    n = round(VERTEX_QUERIES * setting.share)
    part["vertex queries"] = {"times": take_turns(_vertex_steps(n), setting.slow_repeats, clock=_clock)}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _vertex_steps(n)["Penfield, bfloat16, fused attention"]()
    part["vertex queries"]["peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
    return part


def _region_steps(setting: Setting) -> dict[str, Callable[[], None]]:
    sides = setting.regions()
    tokens, measured = setting.tokens().cuda(), [y.cuda() for y in setting.responses()]
    original, targets = OriginalEncoder(sides).cuda(), torch.cat(measured, 1)
    optimiser = make_optimiser(original)
    steps: dict[str, Callable[[], None]] = {
        "original, float32": lambda: train_step(original, optimiser, tokens, measured)
    }
    return steps | _own_steps(penfield(one_brain(sides)), tokens, targets, None)


def _vertex_steps(n: int) -> dict[str, Callable[[], None]]:
    tokens = torch.randn(VERTEX_BATCH, N_TOKENS, HIDDEN, device="cuda")
    targets = torch.randn(VERTEX_BATCH, n, device="cuda")
    return _own_steps(penfield(neuroids(n), "vertex"), tokens, targets, NEUROIDS)


def _own_steps(module: Predictor, tokens: Tensor, targets: Tensor, part: int | None) -> dict[str, Callable[[], None]]:
    module = module.cuda()
    optimiser = penfield_optimiser(module)

    def step(bf16: bool, kernels: list[SDPBackend]) -> None:
        with sdpa_kernel(kernels):
            penfield_step(module, optimiser, tokens, targets, part, bf16=bf16)

    return {
        f"Penfield, {precision}, {kernel} attention": partial(step, precision == "bfloat16", KERNELS[kernel])
        for precision in ("float32", "bfloat16")
        for kernel in KERNELS
    }


def _clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
