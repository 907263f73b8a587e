"""Scenes as solids: signed distance, occupancy and watertight triangle meshes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import trimesh
from skimage.measure import marching_cubes

from recordings.errors import InputError, ShapeError, UnknownNameError

from .render import ACCENT, hsv_to_rgb
from .scenes import Scenes
from .shapes import SHAPES

Frame = Literal["object", "world"]

_MAX_GRID = 256
_CHUNK = 65536


def sdf(scenes: Scenes, index: int, points: np.ndarray) -> np.ndarray:
    """Signed distance to one scene's object, in the object's frame, negative inside.

    The object's frame has its centre at the origin, y up and the unit ball around the object; the scene's pose, scale
    and place do not enter. Distances are exact or lower bounds.

    Parameters
    ----------
    scenes, index : the scene.
    points : float (..., 3).

    Returns
    -------
    float32 (...).

    Raises
    ------
    ShapeError : the last axis of `points` is not of length 3.
    """
    return np.minimum(*_parts(scenes, index, points))


def mesh(scenes: Scenes, index: int, grid: int = 64, frame: Frame = "object") -> trimesh.Trimesh:
    """Watertight surface of one scene's object, with vertex colours.

    Marching cubes (T. Lewiner et al., J. Graphics Tools 8, 2003) on the signed distance at `grid` points a side over a
    cube just larger than the unit ball.

    Parameters
    ----------
    scenes, index : the scene.
    grid : points along each side, 16 to 256.
    frame : "object" for the upright object in the unit ball (see `sdf`), "world" for the object turned by its azimuth
        and scaled, as the camera sees it. y is up in both.

    Returns
    -------
    trimesh.Trimesh, outward winding, RGBA vertex colours without shading; `metadata` holds frame, up axis, category
    and stimulus_id.

    Raises
    ------
    InputError : grid outside 16 to 256.
    UnknownNameError : another frame.
    """
    if not 16 <= grid <= _MAX_GRID:
        raise InputError(f"grid={grid}", where="mesh", remedy=f"choose from 16 to {_MAX_GRID}")
    if frame not in ("object", "world"):
        raise UnknownNameError(f"no frame {frame!r}", where="mesh", remedy="choose 'object' or 'world'")
    scene = scenes[index]
    axis = np.linspace(-1.05, 1.05, grid)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    vertices, faces, _, _ = marching_cubes(
        sdf(scene, 0, points), level=0.0, spacing=(axis[1] - axis[0],) * 3, gradient_direction="descent"
    )
    vertices = vertices + axis[0]
    colours = _vertex_colours(scene, vertices)
    if frame == "world":
        vertices = _to_world(scene, vertices)
    metadata = {
        "frame": frame,
        "up": "y",
        "category": str(scene.category_names[0]),
        "stimulus_id": str(scene.stimulus_id[0]),
    }
    return trimesh.Trimesh(vertices, faces, vertex_colors=colours, metadata=metadata, process=False)


def _parts(scenes: Scenes, index: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances to body and accents, float32 of the points' leading shape, computed in chunks."""
    points = np.asarray(points)
    if points.ndim < 1 or points.shape[-1] != 3:
        raise ShapeError(f"shape {points.shape}", where="points", remedy="the last axis holds x, y and z")
    scene = scenes[index]
    shape = SHAPES[scene.category_names[0]]
    a, b = scene.shape_1.astype(np.float32), scene.shape_2.astype(np.float32)
    flat = points.reshape(-1, 3)
    distances = np.empty((2, len(flat)), np.float32)
    for start in range(0, len(flat), _CHUNK):
        x, y, z = np.ascontiguousarray(flat[start : start + _CHUNK].T, dtype=np.float32)
        distances[:, start : start + _CHUNK] = shape(x, y, z, a, b)
    body, accent = distances.reshape(2, *points.shape[:-1])
    return body, accent


def _vertex_colours(scene: Scenes, vertices: np.ndarray) -> np.ndarray:
    body, accent = _parts(scene, 0, vertices)
    rgb = np.where((accent < body)[:, None], ACCENT, hsv_to_rgb(scene.hue))
    return np.rint(255 * np.concatenate([rgb, np.ones((len(rgb), 1))], 1)).astype(np.uint8)


def _to_world(scene: Scenes, points: np.ndarray) -> np.ndarray:
    sin_a, cos_a = np.sin(scene.azimuth[0]), np.cos(scene.azimuth[0])
    turn = np.array([[cos_a, 0, sin_a], [0, 1, 0], [-sin_a, 0, cos_a]])
    return scene.scale[0] * points @ turn.T
