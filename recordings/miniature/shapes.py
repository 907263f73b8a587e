"""Signed distance functions of the twelve categories, composed of a few primitives.

Every object fits in the unit ball, y up, x right, z towards a camera at azimuth 0. A shape function takes points as
three float32 arrays and its two shape parameters in [0, 1] as arrays that broadcast against them, and returns the
distances to the object's coloured body and to its dark accents (wheels, legs, handle); the object is their union.
Distances are exact or close to lower bounds outside the object, which is what sphere tracing needs.

Primitives follow I. Quilez, "Distance functions", https://iquilezles.org/articles/distfunctions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import cos, sin

import numpy as np

Array = np.ndarray
Number = Array | float
Parts = tuple[Array, Array]
ShapeFunction = Callable[[Array, Array, Array, Array, Array], Parts]

_ROLL = 0.5  # radians; a banked plane shows its wings to a camera that looks almost along them


def _length(x: Array, y: Array, z: Array | None = None) -> Array:
    squares = x * x + y * y
    return np.sqrt(squares if z is None else squares + z * z)


def _union(*distances: Array) -> Array:
    return reduce(np.minimum, distances)


def _positive(x: Array) -> Array:
    return np.maximum(x, 0)


def _box(x: Array, y: Array, z: Array, hx: Number, hy: Number, hz: Number, rounding: float = 0.03) -> Array:
    qx, qy, qz = np.abs(x) - (hx - rounding), np.abs(y) - (hy - rounding), np.abs(z) - (hz - rounding)
    outside = _length(_positive(qx), _positive(qy), _positive(qz))
    return outside + np.minimum(np.maximum(np.maximum(qx, qy), qz), 0) - rounding


def _cylinder(radial: Array, axial: Array, radius: Number, half: Number, rounding: float = 0.02) -> Array:
    """Capped cylinder of half height `half`, from the distance to its axis and the place along it."""
    qr, qa = radial - (radius - rounding), np.abs(axial) - (half - rounding)
    return _length(_positive(qr), _positive(qa)) + np.minimum(np.maximum(qr, qa), 0) - rounding


def _cone(radial: Array, axial: Array, bottom: Number, top: Number, half: Number) -> Array:
    """Capped cone of half height `half`, from the distance to its axis and the place along it."""
    slope = top - bottom
    ends = _positive(np.where(axial < 0, radial - bottom, radial - top))
    beyond = np.abs(axial) - half
    along = ((top - radial) * slope + 2 * half * (half - axial)) / (slope * slope + 4 * half * half)
    along = np.clip(along, 0, 1)
    side_r, side_a = radial - top + slope * along, axial - half + 2 * half * along
    distance = np.sqrt(np.minimum(ends * ends + beyond * beyond, side_r * side_r + side_a * side_a))
    return np.where((side_r < 0) & (beyond < 0), -distance, distance)


def _torus(radial: Array, axial: Array, major: Number, minor: Number) -> Array:
    return _length(radial - major, axial) - minor


def _ball(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Elongation; width of the belt."""
    thin = 0.93 - 0.3 * a
    u, v = x / 0.93, _length(y, z) / thin
    k0, k1 = _length(u, v), _length(u / 0.93, v / thin)
    body = k0 * (k0 - 1) / np.maximum(k1, 1e-6)
    return body, np.maximum(body - 0.015, np.abs(y) - (0.06 + 0.14 * b))


def _mug(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Width; height."""
    radius, half = 0.5 + 0.12 * a, 0.5 + 0.2 * b
    q = _length(x, z)
    cavity = _cylinder(q, y - 0.12, radius - 0.1, half)
    body = np.maximum(_cylinder(q, y, radius, half), -cavity)
    handle = _torus(_length(x - radius, y), z, 0.27, 0.075)
    return body, np.maximum(handle, radius - 0.05 - q)


def _chair(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Height of the back; width."""
    half, top = 0.4 + 0.12 * b, 0.3 + 0.42 * a
    seat = _box(x, y + 0.1, z, half, 0.09, 0.4)
    back = _box(x, y - (top - 0.1) / 2, z + 0.32, half, (top + 0.1) / 2, 0.08)
    legs = _cylinder(_length(np.abs(x) - (half - 0.1), np.abs(z) - 0.3), y + 0.41, 0.1, 0.31)
    return _union(seat, back), legs


def _table(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Length; height."""
    half, height = 0.58 + 0.19 * a, 0.32 + 0.19 * b
    top = _box(x, y - (height - 0.09), z, half, 0.09, 0.38)
    legs = _cylinder(_length(np.abs(x) - (half - 0.1), np.abs(z) - 0.27), y + 0.05, 0.11, height - 0.05)
    return top, legs


def _plane(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Wing span; wing chord."""
    y, z = cos(_ROLL) * y + sin(_ROLL) * z, cos(_ROLL) * z - sin(_ROLL) * y
    fuselage = _cylinder(_length(y, z), x, 0.22, 0.93, rounding=0.2)
    wings = _box(x - 0.1, y, z, 0.18 + 0.12 * b, 0.055, 0.62 + 0.28 * a)
    tail = _box(x + 0.72, y, z, 0.14, 0.05, 0.4)
    fin = _box(x + 0.72, y - 0.28, z, 0.14, 0.22, 0.055)
    return _union(fuselage, wings), _union(tail, fin)


def _lamp(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Width of the shade; its height."""
    q = _length(x, z)
    half = 0.24 + 0.12 * b
    shade = _cone(q, y - (0.9 - half), 0.46 + 0.22 * a, 0.26, half)
    foot = _cylinder(q, y + 0.83, 0.38, 0.07)
    stem = _cylinder(q, y + 0.2, 0.09, 0.65)
    return shade, _union(foot, stem)


def _bottle(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Width of the body; length of the neck."""
    q = _length(x, z)
    radius, shoulder = 0.34 + 0.14 * a, 0.3 - 0.4 * b
    body = _cylinder(q, y - (shoulder - 0.85) / 2, radius, (shoulder + 0.85) / 2)
    slope = _cone(q, y - (shoulder + 0.13), radius - 0.01, 0.14, 0.15)
    neck = _cylinder(q, y - (0.8 + shoulder) / 2, 0.15, (0.8 - shoulder) / 2)
    return _union(body, slope, neck), _cylinder(q, y - 0.85, 0.2, 0.1)


def _car(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Length of the cabin; its height."""
    height = 0.16 + 0.14 * b
    chassis = _box(x, y + 0.12, z, 0.88, 0.22, 0.4, rounding=0.1)
    cabin = _box(x + 0.08, y - height, z, 0.32 + 0.24 * a, height + 0.1, 0.34, rounding=0.08)
    wheels = _cylinder(_length(np.abs(x) - 0.5, y + 0.34), np.abs(z) - 0.36, 0.22, 0.1)
    return _union(chassis, cabin), wheels


def _dumbbell(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Radius of the weights; distance between them."""
    q = _length(y, z)
    weights = _cylinder(q, np.abs(x) - (0.42 + 0.2 * b), 0.38 + 0.2 * a, 0.19, rounding=0.05)
    return weights, _cylinder(q, x, 0.14, 0.95)


def _snowman(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Girth; height of the hat."""
    q2 = x * x + z * z
    girth, crown = 0.44 + 0.09 * a, 0.08 + 0.08 * b
    heights_radii = ((girth - 0.97, girth), (0.12, 0.35), (0.5, 0.25))
    body = _union(*(np.sqrt(q2 + (y - height) * (y - height)) - r for height, r in heights_radii))
    q = np.sqrt(q2)
    hat = _union(_cylinder(q, y - 0.65, 0.36, 0.05), _cylinder(q, y - 0.65 - crown, 0.23, crown))
    return body, hat


def _tree(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Width of the crown; height of the trunk."""
    q = _length(x, z)
    width, foot = 0.5 + 0.22 * a, -0.65 + 0.35 * b
    height = 0.95 - foot
    tiers = [
        _cone(q, y - (foot + at * height), size * width, (size - 0.45) * width, 0.2 * height)
        for at, size in ((0.2, 1.0), (0.48, 0.78), (0.8, 0.5))
    ]
    return _union(*tiers), _cylinder(q, y + 0.55, 0.16, 0.4)


def _ring(x: Array, y: Array, z: Array, a: Array, b: Array) -> Parts:
    """Size of the hoop; its thickness."""
    radius, thickness = 0.48 + 0.13 * a, 0.13 + 0.1 * b
    y = y + 0.13
    gem = _length(x, y - (radius + 0.13), z) - 0.24
    return _torus(_length(x, y), z, radius, thickness), gem


SHAPES: dict[str, ShapeFunction] = {
    "ball": _ball,
    "mug": _mug,
    "chair": _chair,
    "table": _table,
    "plane": _plane,
    "lamp": _lamp,
    "bottle": _bottle,
    "car": _car,
    "dumbbell": _dumbbell,
    "snowman": _snowman,
    "tree": _tree,
    "ring": _ring,
}
