"""Predicted responses as pictures: on the cortex where they lie on its surface, and by region."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from recordings.space import HEMISPHERES
from service.models.description import Units
from studies.report.cortex import DIVERGING, flat_cortex, on_fsaverage5, symmetric_limit
from studies.report.images import Image, Ink, chart, colour_bar

# What readers of surfaces call the neuroid of a vertex.
_VERTEX = re.compile(r"([LR])(\d+)")
WHAT = "predicted response"
MOST_BARS = 40


def cortex(responses: np.ndarray, units: Units) -> dict[str, Any] | None:
    """Flat maps of one row of responses, (unit,): ``panels``, left and right, and the ``bar`` of their colours.

    None where `surface` finds no vertices.
    """
    maps = surface(responses, units)
    if maps is None:
        return None
    limit = symmetric_limit(responses)
    return {
        "panels": flat_cortex(maps, WHAT, cmap=DIVERGING, low=-limit, high=limit),
        "bar": colour_bar(DIVERGING, -limit, limit, WHAT),
    }


def surface(responses: np.ndarray, units: Units) -> dict[str, np.ndarray] | None:
    """Responses (unit,) at the vertices of fsaverage5 by hemisphere, NaN where there is none.

    None if the units are no vertices of a mesh that holds that of fsaverage5, or are not named by their vertices.
    """
    space = json.loads(units.space_json)
    if space["kind"] != "surface" or not space["name"].startswith("fsaverage"):
        return None
    places = [_VERTEX.fullmatch(name) for name in units.unit_ids]
    maps = {side: np.full(size, np.nan, np.float32) for side, size in zip(HEMISPHERES, space["shape"], strict=True)}
    for place, value in zip(places, responses, strict=True):
        if place is None or int(place[2]) >= len(maps[place[1]]):
            return None
        maps[place[1]][int(place[2])] = value
    return on_fsaverage5(maps)


def bars(responses: np.ndarray, units: Units) -> Image:
    """A bar a region: the mean of responses (unit,), with a line over the middle half of its units."""
    regions = by_region(responses, units)
    names, middle = list(regions), np.array([values.mean() for values in regions.values()])
    low, high = np.array([np.percentile(values, (25, 75)) for values in regions.values()]).T

    def draw(figure: Figure, ink: Ink) -> None:
        axes = figure.subplots()
        places = np.arange(len(names))
        axes.barh(places, middle, 0.66, color=ink.series[0], alpha=0.85)
        axes.hlines(places, low, high, color=ink.text, lw=1.4)
        axes.axvline(0, color=ink.muted, lw=1)
        axes.set(ylim=(len(names) - 0.5, -0.5), yticks=places, yticklabels=names)
        axes.set_xlabel(f"mean {WHAT}")
        axes.grid(axis="x", lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_axisbelow(True)

    height = 1.0 + 0.3 * len(names)
    return chart(draw, _told(names, middle), wide=(8.4, height), narrow=(4.4, height))


def by_region(responses: np.ndarray, units: Units) -> Mapping[str, np.ndarray]:
    """Responses of the units of each region, of all units where there are no regions; the largest `MOST_BARS`."""
    members = {name: mask for name, mask in units.members().items() if mask.any()}
    if not members:
        return {"all units": responses}
    largest = sorted(members, key=lambda name: -members[name].sum())[:MOST_BARS]
    return {name: responses[members[name]] for name in members if name in largest}


def _told(names: Sequence[str], means: np.ndarray) -> str:
    listed = ", ".join(f"{name} {mean:.2g}" for name, mean in zip(names, means, strict=True))
    return f"Mean {WHAT} by region: {listed}."
