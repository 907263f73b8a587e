"""Short clips: a scene's object flies, bounces off floor and walls, and passes behind an occluder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recordings.errors import InputError

from .render import backgrounds, pixel_centres, render
from .scenes import Scenes

SCALE = 0.42
FLOOR = -0.62
WALL = 0.66
_SUBSTEPS = 16
_MOTION_KEY = 1


@dataclass(frozen=True)
class Clip:
    """One clip and what is true of it.

    Attributes
    ----------
    frames : uint8 (T, size, size, 3).
    silhouette : bool (T, size, size), True where the object is seen.
    position : float32 (T, 2), x and y of the object's centre in units of half the image, right and up positive; known
        also where the object is hidden.
    velocity : float32 (T, 2), the same a frame.
    occluded : float32 (T,), fraction of the object's pixels behind the occluder; 1 where it is hidden.
    occluder : (left, right) edges of the occluder, in units of half the image.
    """

    frames: np.ndarray
    silhouette: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    occluded: np.ndarray
    occluder: tuple[float, float]


def clip(scenes: Scenes, index: int, n_frames: int = 24, size: int = 64) -> Clip:
    """A clip of one scene's object in motion.

    The object keeps its pose and colour, shrinks to `SCALE` of its size, and crosses the image once in about 18 frames
    under gravity; it loses some of its speed at the floor and none at the walls. Motion and occluder are drawn from a
    generator keyed by the scene, so that a longer clip begins with the shorter one.

    Parameters
    ----------
    scenes, index : the scene.
    n_frames : at least 1.
    size : width and height in pixels.

    Raises
    ------
    InputError : n_frames or size below 1.
    """
    if n_frames < 1 or size < 1:
        raise InputError(f"n_frames={n_frames}, size={size}", where="clip", remedy="both must be at least 1")
    scene = scenes[index]
    rng = np.random.default_rng([int(scene.seed[0]), int(scene.scene_id[0]), _MOTION_KEY])
    left, right, grey = _occluder(rng, scene)
    position, velocity = _fly(rng, n_frames)
    moving = scene[np.zeros(n_frames, int)]
    moving = moving.replace(x=position[:, 0], y=position[:, 1], scale=SCALE * moving.scale)
    frames = render(moving, size).image
    # Counted on the image, so that soft edges count too and a hidden object leaves no trace.
    touched = (frames != backgrounds(moving, size)).any(-1)
    behind = (left <= pixel_centres(size)) & (pixel_centres(size) < right)
    occluded = touched[:, :, behind].sum((1, 2)) / np.maximum(touched.sum((1, 2)), 1)
    frames[:, :, behind] = grey
    motion = position.astype(np.float32), velocity.astype(np.float32)
    return Clip(frames, touched & ~behind, *motion, occluded.astype(np.float32), (left, right))


def _occluder(rng: np.random.Generator, scene: Scenes) -> tuple[float, float, int]:
    """Edges of an upright panel wide enough to hide the object, and its grey level, darker than the background."""
    centre, half = rng.uniform(-0.2, 0.2), rng.uniform(0.26, 0.36)
    grey = round(255 * 0.45 * float(scene.background[0] - scene.gradient[0]) + 10)
    return centre - half, centre + half, grey


def _fly(rng: np.random.Generator, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and velocity by frame, float64 (n_frames, 2), integrated in substeps."""
    side = rng.choice([-1.0, 1.0])
    x, y = side * WALL, rng.uniform(0.0, 0.55)
    speed, rise = -side * rng.uniform(0.06, 0.085), rng.uniform(-0.02, 0.05)
    gravity, restitution = rng.uniform(0.008, 0.016), rng.uniform(0.8, 0.98)
    states = np.empty((n_frames, 4))
    for frame in range(n_frames):
        states[frame] = x, y, speed, rise
        for _ in range(_SUBSTEPS):
            rise -= gravity / _SUBSTEPS
            x, y = x + speed / _SUBSTEPS, y + rise / _SUBSTEPS
            if abs(x) > WALL and x * speed > 0:
                speed = -speed
            if y < FLOOR and rise < 0:
                rise = -restitution * rise
    return states[:, :2], states[:, 2:]
