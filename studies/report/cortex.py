"""Maps on the inflated and the flat cortex of fsaverage5, drawn by nilearn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from .images import Image, cropped

HEMISPHERES = {"L": "left", "R": "right"}
INFLATED_VIEWS = ("medial", "ventral", "posterior")


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
    flat = [
        _panel("flat", side, "dorsal", maps[side], f"{what}: flattened {name} hemisphere", scale)
        for side, name in HEMISPHERES.items()
    ]
    return {"inflated": inflated, "flat": flat}


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
