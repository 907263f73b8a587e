"""Maps on the inflated and the flat cortex of fsaverage5, drawn by nilearn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from .images import Image, cropped

HEMISPHERES = {"L": "left", "R": "right"}
# Vertices a hemisphere of fsaverage5, fsaverage6 and fsaverage.
VERTICES = 10242
NESTED = (VERTICES, 40962, 163842)
INFLATED_VIEWS = ("medial", "ventral", "posterior")
# Of ColorBrewer's diverging maps one that readers with any colour vision can tell apart; white in the middle.
DIVERGING = "PuOr_r"


def cortex(
    maps: Mapping[str, np.ndarray],
    what: str,
    *,
    cmap: str | Colormap = "viridis",
    low: float = 0.0,
    high: float = 1.0,
    labels: bool = False,
) -> dict[str, list[Image]]:
    """Panels of a map: "inflated" (left and right a view) and "flat" (left, right).

    Parameters
    ----------
    maps : per hemisphere (L, R) a value a vertex of fsaverage5, (10242,); NaN shows the bare cortex.
    what : names the quantity in the alternative texts.
    cmap, low, high : colours and the values at their ends.
    labels : values are region numbers, which are never averaged over the corners of a triangle.
    """
    scale = {"cmap": cmap, "vmin": low, "vmax": high, "avg_method": "median" if labels else "mean"}
    inflated = [
        _panel("inflated", side, view, maps[side], f"{what}: inflated {name} hemisphere, {view} view", scale)
        for view in INFLATED_VIEWS
        for side, name in HEMISPHERES.items()
    ]
    return {"inflated": inflated, "flat": _flat(maps, what, scale)}


def flat_cortex(
    maps: Mapping[str, np.ndarray], what: str, *, cmap: str | Colormap = "viridis", low: float = 0.0, high: float = 1.0
) -> list[Image]:
    """The flat panels of `cortex` alone, left and right, for many maps on one page."""
    return _flat(maps, what, {"cmap": cmap, "vmin": low, "vmax": high, "avg_method": "mean"})


def on_fsaverage5(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Maps on fsaverage5, fsaverage6 or fsaverage, (vertex,) a hemisphere, at the vertices of fsaverage5; else None.

    FreeSurfer's icosahedra are nested: the first 10,242 vertices of a finer one are those of fsaverage5.
    """
    sizes = {len(values) for values in maps.values()}
    return {side: values[:VERTICES] for side, values in maps.items()} if sizes <= set(NESTED) else None


def _flat(maps: Mapping[str, np.ndarray], what: str, scale: Mapping[str, Any]) -> list[Image]:
    return [
        _panel("flat", side, "dorsal", maps[side], f"{what}: flattened {name} hemisphere", scale)
        for side, name in HEMISPHERES.items()
    ]


def symmetric_limit(difference: np.ndarray) -> float:
    """End of a scale about 0 that holds 98 % of the values, a multiple of .05; NaN is left out."""
    size = np.abs(difference[np.isfinite(difference)])
    return max(1, math.ceil(20 * np.percentile(size, 98))) / 20 if len(size) else 0.05


def _panel(mesh: str, side: str, view: str, values: np.ndarray, alt: str, scale: Mapping[str, Any]) -> Image:
    from nilearn import plotting

    figure = Figure(figsize=(5, 4))
    axes = figure.add_axes((0, 0, 1, 1), projection="3d")
    hemisphere = HEMISPHERES[side]
    plotting.plot_surf(
        _surface(mesh, hemisphere),
        np.asarray(values, np.float64),
        bg_map=_folds(hemisphere),
        hemi=hemisphere,
        view=view,
        colorbar=False,
        axes=axes,
        figure=figure,
        **scale,
    )
    return cropped(figure, alt)


@cache
def _surface(mesh: str, hemisphere: str) -> Any:
    from nilearn.datasets import load_fsaverage
    from nilearn.surface import InMemoryMesh

    part = load_fsaverage("fsaverage5")[mesh].parts[hemisphere]
    if (mesh, hemisphere) != ("flat", "right"):
        return part
    # Half a turn brings the occipital lobe down, as on the left, so that the two flat maps mirror each other.
    return InMemoryMesh(part.coordinates * np.array([-1, -1, 1]), part.faces)


@cache
def _folds(hemisphere: str) -> np.ndarray:
    """Grey of each vertex between 0 (white) and 1: sulci a little darker than gyri, so that maps stand out."""
    from nilearn.datasets import load_fsaverage_data

    curvature = load_fsaverage_data("fsaverage5", data_type="curvature").data.parts[hemisphere].ravel()
    return np.where(curvature > 0, 0.36, 0.24)
