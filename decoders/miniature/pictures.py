"""Scenes that the miniature generator learns from, and which pairs of category and colour it never sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recordings.events import OnEvent, Stop
from recordings.miniature import CATEGORIES, Scenes, caption, render
from recordings.miniature.captions import COLOURS, colour_names

# One colour of each category, shifted along the hue circle so that every colour is missing somewhere.
HELD_OUT = frozenset((name, COLOURS[(3 * k + 1) % len(COLOURS)]) for k, name in enumerate(CATEGORIES))
# A hue this near one of another name, in turns, is called by either: 7 degrees.
_BORDER = 0.02
# A camera further than this sees background.
_FAR = 8.0


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes.

    Attributes
    ----------
    scenes : n scenes. image : uint8 (n, 64, 64, 3). nearness : float16 (n, 64, 64), see `nearness`. captions : n texts.
    """

    scenes: Scenes
    image: np.ndarray
    nearness: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def draw_pictures(
    n: int,
    seed: int,
    held_out: bool | None = False,
    *,
    start: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Pictures:
    """Render the scenes among `n` of the world `seed`, from `start` on, that belong to one side of the hold-out.

    Parameters
    ----------
    held_out : True for scenes whose pair of category and colour is in `HELD_OUT`, False for the others, None for all.
    """
    scenes = Scenes.sample(n, seed=seed, start=start)
    if held_out is not None:
        scenes = scenes[is_held_out(scenes) == held_out]
    rendered = render(scenes, on_event=on_event, stop=stop)
    return Pictures(scenes, rendered.image, nearness(rendered.depth).astype(np.float16), caption(scenes))


def is_held_out(scenes: Scenes) -> np.ndarray:
    """bool (n,), whether the generator has never seen the scene's pair of category and colour."""
    pairs = zip(scenes.category_names, colour_names(scenes.hue), strict=True)
    return np.array([pair in HELD_OUT for pair in pairs])


def is_borderline(scenes: Scenes) -> np.ndarray:
    """bool (n,), whether the colour is within 7 degrees of hue of one that has another name."""
    names = colour_names(scenes.hue)
    return (colour_names(scenes.hue - _BORDER) != names) | (colour_names(scenes.hue + _BORDER) != names)


def nearness(depth: np.ndarray) -> np.ndarray:
    """Depth as networks for single pictures give it: larger is nearer, 0 is background; float32 (n, H, W).

    Parameters
    ----------
    depth : float32 (n, H, W), distance from the camera in world units, 0 for background; see `Rendered`.
    """
    return np.where(depth > 0, (_FAR - depth) / _FAR, 0).astype(np.float32)


def as_tensor(image: np.ndarray) -> Tensor:
    """uint8 (n, H, W, 3) as float32 (n, 3, H, W) in [-1, 1]."""
    return torch.as_tensor(image).movedim(-1, 1).float() / 127.5 - 1


def batches(n: int, steps: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of `steps` batches, each epoch in an order of its own."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, int)
    for _ in range(steps):
        if len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:batch_size]
        order = order[batch_size:]
