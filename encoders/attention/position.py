"""Where a token lies: sine codes for keys, and centres of the token grid in the image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

CODES = ("fourier", "sine")
_TEMPERATURE = 10_000.0


def position_code(kind: str, grid: tuple[int, ...], channels: int) -> Tensor:
    """Sine and cosine code of every place of a grid, (token, channels) float32, tokens in row-major order.

    Each axis (time, rows, columns) takes an equal, even share of the channels; what is left over is 0.

    Parameters
    ----------
    kind : "sine", as in DETR (Carion et al. 2020, section A.4): one cycle along an axis and slower ones, down to a ten
        thousandth. "fourier": from half a cycle to the finest that the grid can show, so that a query can tell
        neighbouring places apart.
    """
    share = channels // len(grid) // 2
    code = torch.zeros(*grid, channels)
    for axis, size in enumerate(grid):
        exponent = torch.linspace(0, 1, share)
        cycles = _TEMPERATURE**-exponent if kind == "sine" else 0.5 * float(size) ** exponent
        angle = 2 * math.pi * (torch.arange(size) + 0.5)[:, None] / size * cycles
        shape = [1] * len(grid) + [2 * share]
        shape[axis] = size
        code[..., 2 * share * axis : 2 * share * (axis + 1)] = torch.cat([angle.sin(), angle.cos()], 1).reshape(shape)
    return code.reshape(-1, channels)


def token_centres(grid: tuple[int, ...]) -> np.ndarray:
    """Centre of each token of a grid (..., rows, columns), (token, 2) float32: x right, y up, units of half the image.

    Tokens of several frames follow each other, each frame with the same centres.
    """
    rows, columns = grid[-2:]
    y, x = np.meshgrid(
        1 - 2 * (np.arange(rows) + 0.5) / rows, 2 * (np.arange(columns) + 0.5) / columns - 1, indexing="ij"
    )
    frame = np.column_stack([x.ravel(), y.ravel()]).astype(np.float32)
    return np.tile(frame, (math.prod(grid[:-2]), 1))
