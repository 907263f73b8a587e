"""Sources of tokens: what the encoder remembers of each feature space, and which rows a delayed stimulus reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recordings.errors import InputError, ShapeError

from ..features import Features
from ..solvers import delay


@dataclass(frozen=True)
class Source:
    """One feature space as the encoder has learnt it.

    Attributes
    ----------
    name : as the caller named it. fingerprint : checked at predict. label : uri and layer, for the reader.
    channels, grid : form of the tokens; (rows, columns), for clips (frames, rows, columns).
    space : `Features.space`, from which the features can be made again.
    """

    name: str
    fingerprint: str
    label: str
    channels: int
    grid: tuple[int, ...]
    space: dict[str, Any] | None = None

    def to_config(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"grid": list(self.grid)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Source:
        """From what `to_config` gave."""
        return cls(**config | {"grid": tuple(config["grid"])})


def source_of(name: str, features: Features) -> Source:
    """The source that features are.

    Raises
    ------
    ShapeError : they are no tokens, or another number than their grid says. InputError : tokens without a grid.
    """
    where = f"features {name}" if name else "features"
    remedy = "Extract with readout='tokens' (--readout tokens)"
    if len(features.shape) != 3:
        raise ShapeError(f"shape {features.shape} is not (stimulus, token, channel)", where=where, remedy=remedy)
    grid = tuple(map(int, features.attrs.get("grid") or ()))
    if len(grid) not in (2, 3):
        raise InputError(
            "the tokens have no grid of rows and columns, so that their places are unknown",
            where=where,
            remedy=f"{remedy} from a layer that holds patches, or give grid=[rows, columns] to Features.from_arrays",
        )
    if math.prod(grid) != features.shape[1]:
        raise ShapeError(
            f"{features.shape[1]} tokens on a grid of {' x '.join(map(str, grid))}",
            where=where,
            remedy="Leave class and register tokens out: readout='tokens'",
        )
    label = " ".join(str(features.attrs[key]) for key in ("uri", "layer") if key in features.attrs)
    return Source(name, features.fingerprint(), label, features.shape[2], grid, features.space())


def delayed_rows(rows: np.ndarray, delays: Sequence[int], runs: np.ndarray) -> np.ndarray:
    """Feature row at each delay, (n, delay) int; -1 where the run had not begun (or, for negative delays, was over).

    Parameters
    ----------
    rows : (n,) int, the feature row of each moment. runs : (n,), labels; each run is one contiguous block.
    """
    return delay(np.asarray(rows, float)[:, None] + 1, delays, runs).astype(np.int64) - 1
