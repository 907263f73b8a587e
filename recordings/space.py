"""Where neuroids live: a voxel grid, a cortical surface, or nowhere in particular."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

HEMISPHERES = ("L", "R")


@dataclass(frozen=True)
class Space:
    """The space of a recording's neuroids.

    Parameters
    ----------
    kind : "volume" (neuroid coordinates i, j, k index a grid), "surface" (hemisphere and vertex), or "none".
    name : name of the template or of the subject's own space, such as "fsaverage5" or "native".
    shape : grid shape of a volume (three numbers), or vertices per hemisphere of a surface (left, right).
    affine : 4 x 4 voxel-to-millimetre matrix of a volume, row by row.
    """

    kind: Literal["volume", "surface", "none"] = "none"
    name: str = ""
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def volume(cls, shape: tuple[int, ...], affine: np.ndarray, name: str = "native") -> Space:
        """A voxel grid of `shape` (3,) with a 4 x 4 `affine` to millimetres."""
        rows = tuple(tuple(float(v) for v in row) for row in np.asarray(affine))
        return cls("volume", name, tuple(int(s) for s in shape), rows)

    @classmethod
    def surface(cls, name: str, vertices: tuple[int, int]) -> Space:
        """A surface mesh with `vertices` (left, right)."""
        return cls("surface", name, (int(vertices[0]), int(vertices[1])))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Space:
        """Rebuild a space from `to_dict`."""
        affine = tuple(tuple(row) for row in fields.get("affine", ()))
        return cls(fields["kind"], fields.get("name", ""), tuple(fields.get("shape", ())), affine)

    def to_dict(self) -> dict[str, Any]:
        """The space as plain JSON values."""
        return asdict(self)
