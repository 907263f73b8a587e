"""Parameters of procedural scenes: what stands where, in which pose, shape and colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from recordings.errors import InputError, NotFiniteError, ShapeError, UnknownNameError

CATEGORIES = (
    "ball",
    "mug",
    "chair",
    "table",
    "plane",
    "lamp",
    "bottle",
    "car",
    "dumbbell",
    "snowman",
    "tree",
    "ring",
)
GROUPS = {
    "vehicles": ("plane", "car"),
    "furniture": ("chair", "table", "lamp"),
    "vessels": ("mug", "bottle"),
}

# Lower and upper bounds of the uniform draws. The largest object at the outermost place just touches the border.
RANGES = {
    "shape_1": (0.0, 1.0),
    "shape_2": (0.0, 1.0),
    "hue": (0.0, 1.0),
    "azimuth": (-0.8, 0.8),
    "elevation": (0.2, 0.6),
    "x": (-0.42, 0.42),
    "y": (-0.42, 0.42),
    "scale": (0.85, 1.05),
    "background": (0.3, 0.8),
    "gradient": (0.0, 0.2),
    "gradient_angle": (-np.pi, np.pi),
}
_INTEGER_COLUMNS = ("seed", "scene_id", "category")


@dataclass(frozen=True, eq=False)
class Scenes:
    """Parameters of n scenes, one array of length n a column.

    Attributes
    ----------
    seed, scene_id : int64; together they key every random draw that a scene ever makes.
    category : int64, index into `CATEGORIES`.
    shape_1, shape_2 : float64 in [0, 1], the two shape parameters; their meaning depends on the category.
    hue : float64 in [0, 1), HSV hue of the object.
    azimuth : float64, radians, rotation of the object about its vertical axis.
    elevation : float64, radians, height of the camera above the object's horizon.
    x, y : float64, image position of the object's centre, in units of half the image, right and up positive.
    scale : float64, radius of the object's bounding sphere in world units.
    background, gradient, gradient_angle : float64, grey level (0 to 1) at the image's centre, its change over half
        the image, and the direction (radians) in which it grows.
    """

    seed: np.ndarray
    scene_id: np.ndarray
    category: np.ndarray
    shape_1: np.ndarray
    shape_2: np.ndarray
    hue: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    background: np.ndarray
    gradient: np.ndarray
    gradient_angle: np.ndarray

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.scene_id))
        for name in COLUMNS:
            dtype = np.int64 if name in _INTEGER_COLUMNS else np.float64
            values = np.asarray(getattr(self, name), dtype=dtype)
            if values.shape != (n,):
                raise ShapeError(
                    f"shape {values.shape}, expected ({n},)",
                    where=f"scenes.{name}",
                    remedy="give each column one value a scene",
                )
            if not np.isfinite(values).all():
                raise NotFiniteError("NaN or infinite value", where=f"scenes.{name}")
            object.__setattr__(self, name, values)
        if n and not (self.category.min() >= 0 and self.category.max() < len(CATEGORIES)):
            raise UnknownNameError(
                f"category index outside 0..{len(CATEGORIES) - 1}",
                where="scenes.category",
                remedy=f"the categories are {', '.join(CATEGORIES)}",
            )

    @classmethod
    def sample(cls, n: int, seed: int = 0, start: int = 0, categories: Sequence[str] | None = None) -> Scenes:
        """Draw scenes `start` to `start + n - 1` of the world `seed`.

        Scene i draws from a generator keyed by (seed, i), so that it does not depend on `n` or `start`.

        Parameters
        ----------
        n : number of scenes, at least 1.
        seed : non-negative integer.
        start : `scene_id` of the first scene.
        categories : names to draw from, uniformly; all of `CATEGORIES` by default.

        Raises
        ------
        InputError : n below 1, negative seed or start, or no category.
        UnknownNameError : a category that does not exist.
        """
        if n < 1 or seed < 0 or start < 0:
            raise InputError(
                f"n={n}, seed={seed}, start={start}",
                where="Scenes.sample",
                remedy="ask for at least one scene, with seed and start of 0 or more",
            )
        allowed = _category_indices(CATEGORIES if categories is None else categories)
        ids = np.arange(start, start + n)
        draws = np.stack([np.random.default_rng([seed, int(i)]).random(1 + len(RANGES)) for i in ids])
        columns = {name: low + (high - low) * draws[:, 1 + k] for k, (name, (low, high)) in enumerate(RANGES.items())}
        category = allowed[(draws[:, 0] * len(allowed)).astype(int)]
        return cls(seed=np.full(n, seed), scene_id=ids, category=category, **columns)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Scenes:
        """The scenes of a table written by `to_frame`; `category` may hold names or indices.

        Raises `UnknownNameError` for a missing column or an unknown category.
        """
        missing = [name for name in COLUMNS if name not in frame]
        if missing:
            raise UnknownNameError(
                f"no column {', '.join(missing)}",
                where="scenes table",
                remedy="pass a table written by Scenes.to_frame",
            )
        columns = {name: frame[name].to_numpy() for name in COLUMNS}
        if not np.issubdtype(columns["category"].dtype, np.number):
            columns["category"] = _category_indices(columns["category"].tolist())
        return cls(**columns)

    def to_frame(self) -> pd.DataFrame:
        """One row a scene, one column a parameter, with `stimulus_id`, `category` (name) and `group` for reading."""
        frame = pd.DataFrame({name: getattr(self, name) for name in COLUMNS})
        frame["category"] = self.category_names
        frame.insert(0, "stimulus_id", self.stimulus_id)
        frame.insert(4, "group", self.groups)
        return frame

    @property
    def stimulus_id(self) -> np.ndarray:
        """Unique names, str (n,): ``scene-<seed>-<scene_id>``."""
        pairs = zip(self.seed, self.scene_id, strict=True)
        return np.array([f"scene-{seed}-{i:06d}" for seed, i in pairs], dtype=str)

    @property
    def category_names(self) -> np.ndarray:
        """Name of each scene's category, str (n,)."""
        return np.array(CATEGORIES)[self.category]

    @property
    def groups(self) -> np.ndarray:
        """Group of each scene's category, str (n,): a key of `GROUPS`, or "other"."""
        return np.array([_GROUP_OF.get(name, "other") for name in CATEGORIES])[self.category]

    def replace(self, **columns: np.ndarray) -> Scenes:
        """A copy with some columns changed, each an array (n,)."""
        return replace(self, **columns)

    def __len__(self) -> int:
        return len(self.scene_id)

    def __getitem__(self, key: slice | int | np.integer | np.ndarray | Sequence[int]) -> Scenes:
        """Scenes of a slice, an index, an index array or a boolean mask; always `Scenes`."""
        if isinstance(key, (int, np.integer)):
            key = [int(key)]
        key = key if isinstance(key, slice) else np.asarray(key)
        return Scenes(**{name: getattr(self, name)[key] for name in COLUMNS})

    def __iter__(self) -> Iterator[Scenes]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Scenes(n={len(self)})"


COLUMNS = tuple(field.name for field in fields(Scenes))
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def _category_indices(names: Sequence[str]) -> np.ndarray:
    unknown = sorted(set(names) - set(CATEGORIES))
    if unknown:
        raise UnknownNameError(
            f"no category {', '.join(unknown)}", where="scenes", remedy=f"choose from {', '.join(CATEGORIES)}"
        )
    if not len(names):
        raise InputError("no category to draw from", where="scenes", remedy="name at least one category")
    return np.array([CATEGORIES.index(name) for name in names])
