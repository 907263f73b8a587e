"""Sphere tracing of scenes to image, depth and silhouette.

The camera stands `DISTANCE` world units from the object's centre, at the scene's elevation, with a vertical field of
view of `FIELD_OF_VIEW`; the scene's place in the image is a shift of the lens, so that it changes neither the view of
the object nor its size. Shading is Lambertian under one distant light.

Rays of one category are traced together and dropped once they hit or leave the object's bounding sphere (J. C. Hart,
"Sphere tracing", The Visual Computer 12, 1996). Only operations that are exactly rounded touch a ray, so that a scene's
pixels do not depend on which scenes it is rendered with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report

from .scenes import CATEGORIES, Scenes
from .shapes import SHAPES, ShapeFunction

DISTANCE = 5.6
FIELD_OF_VIEW = np.deg2rad(35.0)
HALF_IMAGE = np.tan(FIELD_OF_VIEW / 2)
LIGHT = np.array([0.4, 0.8, 0.45]) / np.linalg.norm([0.4, 0.8, 0.45])
AMBIENT = 0.35
ACCENT = 0.16
_HIT = 1e-3
_MAX_STEPS = 64


@dataclass(frozen=True)
class Rendered:
    """Pictures of n scenes.

    Attributes
    ----------
    image : uint8 (n, size, size, 3), sRGB, row 0 at the top.
    depth : float32 (n, size, size), distance from the camera along its axis in world units (4.5 to 6.7); 0 where
        there is no object.
    silhouette : bool (n, size, size), True on the object.
    """

    image: np.ndarray
    depth: np.ndarray
    silhouette: np.ndarray


def render(
    scenes: Scenes,
    size: int = 64,
    batch: int = 64,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Rendered:
    """Render scenes.

    Parameters
    ----------
    scenes : n scenes.
    size : width and height in pixels.
    batch : scenes traced together; bounds memory, which grows with batch * size**2, and does not change a pixel.

    Raises
    ------
    InputError : size or batch below 1.
    Cancelled : `stop` answered True.
    """
    if size < 1 or batch < 1:
        raise InputError(f"size={size}, batch={batch}", where="render", remedy="both must be at least 1")
    image = np.empty((len(scenes), size, size, 3), np.uint8)
    depth = np.empty((len(scenes), size, size), np.float32)
    done = 0
    for shape, rows in _batches(scenes, batch):
        image[rows], depth[rows] = _render_category(scenes[rows], shape, size)
        done += len(rows)
        report(on_event, stop, "render", done, len(scenes))
    return Rendered(image, depth, depth > 0)


def camera_axes(scenes: Scenes) -> np.ndarray:
    """Right, up and forward axes of the camera in each object's frame, float64 (n, 3 axes, 3)."""
    sin_e, cos_e = np.sin(scenes.elevation), np.cos(scenes.elevation)
    zero, one = np.zeros_like(sin_e), np.ones_like(sin_e)
    axes = np.stack([[one, zero, zero], [zero, cos_e, -sin_e], [zero, -sin_e, -cos_e]])
    return to_object_frame(scenes, np.moveaxis(axes, -1, 0))


def to_object_frame(scenes: Scenes, directions: np.ndarray) -> np.ndarray:
    """Turn world directions, float64 (n, k, 3), into each object's frame: undo its azimuth."""
    sin_a, cos_a = np.sin(scenes.azimuth)[:, None], np.cos(scenes.azimuth)[:, None]
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack([cos_a * x - sin_a * z, y, sin_a * x + cos_a * z], -1)


def backgrounds(scenes: Scenes, size: int) -> np.ndarray:
    """Grey gradients without an object, uint8 (n, size, size, 3)."""
    u = pixel_centres(size)
    angle = scenes.gradient_angle[:, None, None]
    ramp = np.cos(angle) * u + np.sin(angle) * -u[:, None]
    level = scenes.background[:, None, None] + scenes.gradient[:, None, None] * ramp
    grey = np.rint(255 * level.clip(0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def pixel_centres(size: int) -> np.ndarray:
    """Places of pixel centres in units of half the image, left to right, float64 (size,)."""
    return (2 * np.arange(size) + 1) / size - 1


def hsv_to_rgb(hue: np.ndarray, saturation: float = 0.8, value: float = 0.95) -> np.ndarray:
    """RGB in [0, 1], float64 (n, 3), of hues (n,) in turns (A. R. Smith, SIGGRAPH 1978)."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return value - value * saturation * np.minimum(k, 4 - k).clip(0, 1)


def _batches(scenes: Scenes, batch: int) -> Iterator[tuple[ShapeFunction, np.ndarray]]:
    for index, name in enumerate(CATEGORIES):
        rows = np.flatnonzero(scenes.category == index)
        for start in range(0, len(rows), batch):
            yield SHAPES[name], rows[start : start + batch]


def _render_category(scenes: Scenes, shape: ShapeFunction, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and depth of scenes of one category; pixels on an edge of the image get four rays instead of one."""
    n, centres = len(scenes), pixel_centres(size)
    image = backgrounds(scenes, size)
    depth = np.zeros(n * size**2, np.float32)
    scene, row, column = np.indices((n, size, size)).reshape(3, -1)
    hits, colour, depth_of_hits = _trace(scenes, shape, scene, centres[column], -centres[row])
    behind, pixels = image.reshape(-1, 3).copy(), image.reshape(-1, 3)
    pixels[hits], depth[hits] = colour, depth_of_hits

    edges = np.repeat(np.flatnonzero(_edges(image)), 4)
    du, dv = np.tile([[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]], len(edges) // 4) / size
    u, v = centres[column[edges]] + du, dv - centres[row[edges]]
    hits, colour, _ = _trace(scenes, shape, scene[edges], u, v)
    samples = behind[edges].astype(np.int64)
    samples[hits] = colour
    pixels[edges[::4]] = (samples.reshape(-1, 4, 3).sum(1) + 2) // 4
    return image, depth.reshape(n, size, size)


def _edges(image: np.ndarray, threshold: int = 12) -> np.ndarray:
    """Pixels that differ from a neighbour by more than `threshold` levels, bool (n, size, size)."""
    signed = image.astype(np.int16)
    edges = np.zeros(image.shape[:3], bool)
    down = (np.abs(signed[:, 1:] - signed[:, :-1]) > threshold).any(-1)
    right = (np.abs(signed[:, :, 1:] - signed[:, :, :-1]) > threshold).any(-1)
    edges[:, 1:] |= down
    edges[:, :-1] |= down
    edges[:, :, 1:] |= right
    edges[:, :, :-1] |= right
    return edges


def _trace(
    scenes: Scenes, shape: ShapeFunction, scene: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trace rays through image places u, v of scenes of one category.

    Returns the indices int64 (hits,) of the rays that hit, their colours uint8 (hits, 3) and depths float32 (hits,).
    """
    ray, state = _march(shape, *_enter(scenes, scene, u, v))
    x, y, z, *_, a, b = state
    at = scene[ray]
    light = to_object_frame(scenes, np.broadcast_to(LIGHT, (len(scenes), 1, 3)))[:, 0]
    lambert = _dot(_normals(shape, x, y, z, a, b), _columns(light, at)).clip(0, 1)
    body, accent = shape(x, y, z, a, b)
    rgb = hsv_to_rgb(scenes.hue).astype(np.float32)[at]
    albedo = np.where((accent < body)[:, None], np.float32(ACCENT), rgb)
    colour = np.rint(255 * albedo * (AMBIENT + (1 - AMBIENT) * lambert)[:, None]).astype(np.uint8)
    forward = _columns(camera_axes(scenes)[:, 2], at)
    depth = DISTANCE + scenes.scale.astype(np.float32)[at] * _dot((x, y, z), forward)
    return ray, colour, depth


def _enter(scenes: Scenes, scene: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays that meet the bounding sphere: their indices, and rows x, y, z, direction, distance left, a, b."""
    du = (HALF_IMAGE * (u - scenes.x[scene])).astype(np.float32)
    dv = (HALF_IMAGE * (v - scenes.y[scene])).astype(np.float32)
    norm = np.sqrt(1 + du * du + dv * dv)
    # In units of the bounding radius: from the camera to the centre, to the ray's nearest point, and half the chord.
    away = (DISTANCE / scenes.scale).astype(np.float32)[scene]
    nearest = away / norm
    half_squared = 1 - away * away + nearest * nearest
    ray = np.flatnonzero(half_squared > 0)
    at, half = scene[ray], np.sqrt(half_squared[ray])
    du, dv, norm, away, nearest = (values[ray] for values in (du, dv, norm, away, nearest))
    axes = camera_axes(scenes)
    right, up, forward = (_columns(axes[:, k], at) for k in range(3))
    direction = [(f + du * r + dv * w) / norm for r, w, f in zip(right, up, forward, strict=True)]
    start = [(nearest - half) * d - away * f for d, f in zip(direction, forward, strict=True)]
    a, b = scenes.shape_1.astype(np.float32)[at], scenes.shape_2.astype(np.float32)[at]
    return ray, np.stack([*start, *direction, 2 * half, a, b])


def _march(shape: ShapeFunction, ray: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step along rays by the distance to the object; keep those that hit it, in order."""
    hit_rays, hit_states = [ray[:0]], [state[:, :0]]
    for _ in range(_MAX_STEPS):
        if not len(ray):
            break
        x, y, z, dx, dy, dz, left, a, b = state
        step = np.minimum(*shape(x, y, z, a, b))
        hit = np.flatnonzero(step < _HIT)
        hit_rays.append(ray[hit])
        hit_states.append(state.take(hit, 1))
        left -= step
        x += step * dx
        y += step * dy
        z += step * dz
        going = np.flatnonzero((step >= _HIT) & (left > 0))
        ray, state = ray[going], state.take(going, 1)
    rays = np.concatenate(hit_rays)
    order = rays.argsort()
    return rays[order], np.concatenate(hit_states, 1)[:, order]


def _normals(
    shape: ShapeFunction, x: np.ndarray, y: np.ndarray, z: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Unit gradients of the distance, from its values at the corners of a tetrahedron."""
    e = 2e-3
    corners = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))
    p, q, r, s = (np.minimum(*shape(x + e * i, y + e * j, z + e * k, a, b)) for i, j, k in corners)
    gradient = (p - q - r + s, s + r - p - q, s + q - p - r)
    norm = np.maximum(np.sqrt(_dot(gradient, gradient)), np.float32(1e-12))
    return tuple(g / norm for g in gradient)


def _columns(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = vectors.T.astype(np.float32)
    return x[rows], y[rows], z[rows]


def _dot(p: tuple[np.ndarray, ...], q: tuple[np.ndarray, ...]) -> np.ndarray:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
