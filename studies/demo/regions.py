"""The planted regions of the simulated brains: which are scored, and how they look on the cortex."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap

from recordings import Recording
from recordings.surfaces import surface_maps
from studies.report.cortex import cortex
from studies.report.images import Image

SCORED = ("V1", "V2", "V3", "V4", "category", "MTL")
# Okabe & Ito's palette (2008) without black, and an indigo for the eighth region.
COLOURS = {
    "V1": "#0072b2",
    "V2": "#56b4e9",
    "V3": "#009e73",
    "V4": "#f0e442",
    "vehicles": "#d55e00",
    "furniture": "#e69f00",
    "vessels": "#cc79a7",
    "MTL": "#4b3f8f",
}


def region_maps(recording: Recording) -> dict[str, list[Image]]:
    """The regions of `COLOURS` on the inflated and the flat cortex."""
    number = np.full(recording.n_neuroids, np.nan)
    for k, name in enumerate(COLOURS):
        number[recording.roi_mask(name)] = k
    return cortex(
        surface_maps(recording, number),
        "planted regions",
        cmap=ListedColormap(list(COLOURS.values())),
        low=-0.5,
        high=len(COLOURS) - 0.5,
        labels=True,
    )


def score_maps(recording: Recording, scores: np.ndarray, what: str) -> dict[str, list[Image]]:
    """A score a neuroid, (neuroid,), on the inflated and the flat cortex, from 0 to 1."""
    return cortex(surface_maps(recording, scores), what, cmap="viridis", low=0.0, high=1.0)


def by_region(recording: Recording, values: np.ndarray) -> dict[str, np.ndarray]:
    """Values (neuroid,) of each scored region, without NaN."""
    parts = {name: values[recording.roi_mask(name)] for name in SCORED}
    return {name: part[np.isfinite(part)] for name, part in parts.items()}
