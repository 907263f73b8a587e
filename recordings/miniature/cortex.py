"""Where the simulated regions lie on the fsaverage5 surface, and which part of the visual field they see."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
from nilearn import datasets
from scipy.stats import rankdata

from recordings.space import HEMISPHERES, Space

VERTICES = 10242
# Vertices a hemisphere, and a point of the left pial surface (millimetres) that the region grows around.
# V2 and V3 grow around the same point as V1 and so surround it, as they do in the human brain.
_EARLY = (-10.0, -92.0, 2.0)
REGIONS: dict[str, tuple[int, tuple[float, float, float]]] = {
    "V1": (200, _EARLY),
    "V2": (150, _EARLY),
    "V3": (100, _EARLY),
    "V4": (75, (-28.0, -78.0, -14.0)),
    "vehicles": (30, (-35.0, -50.0, -20.0)),
    "furniture": (30, (-26.0, -45.0, -10.0)),
    "vessels": (30, (-44.0, -62.0, -13.0)),
    "MTL": (75, (-23.0, -20.0, -21.0)),
}
RETINOTOPIC = ("V1", "V2", "V3", "V4")
CATEGORY_ROI = "category"
SPACE = Space.surface("fsaverage5", (VERTICES, VERTICES))


@cache
def _mesh(surface: str, side: str) -> np.ndarray:
    part = {"L": "left", "R": "right"}[side]
    return np.asarray(datasets.load_fsaverage("fsaverage5")[surface].parts[part].coordinates)


def layout() -> pd.DataFrame:
    """All simulated vertices, one row each.

    Columns: neuroid_id, region, roi (category patches carry the umbrella name too), hemisphere, vertex, x, y, z
    (pial surface, millimetres), and field_x, field_y: the point of the visual field that the vertex stands for, in
    units of half the image, right and up positive. It is contralateral, varies smoothly over the region, is mirrored
    between neighbouring early regions, and is NaN where a region has no map.
    """
    return pd.concat([_hemisphere(side) for side in HEMISPHERES], ignore_index=True)


def _hemisphere(side: str) -> pd.DataFrame:
    pial, sphere = _mesh("pial", side), _mesh("sphere", side)
    free = np.ones(VERTICES, bool)
    tables = []
    for number, (name, (size, seed)) in enumerate(REGIONS.items()):
        start = np.asarray(seed) * ([1, 1, 1] if side == "L" else [-1, 1, 1])
        centre = sphere[np.argmin(np.linalg.norm(pial - start, axis=1))]
        distance = np.linalg.norm(sphere - centre, axis=1)
        vertices = np.argsort(np.where(free, distance, np.inf), kind="stable")[:size]
        free[vertices] = False
        table = pd.DataFrame({"region": name, "hemisphere": side, "vertex": np.sort(vertices)})
        table[["x", "y", "z"]] = pial[table["vertex"]]
        table["field_x"], table["field_y"] = np.nan, np.nan
        if name in RETINOTOPIC:
            table["field_x"], table["field_y"] = _visual_field(table, side, mirrored=bool(number % 2))
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    groups = ~rows["region"].isin([*RETINOTOPIC, "MTL"])
    rows.insert(1, "roi", rows["region"].mask(groups, CATEGORY_ROI + "|" + rows["region"]))
    rows.insert(0, "neuroid_id", [f"{s}{v}" for s, v in zip(rows["hemisphere"], rows["vertex"], strict=True)])
    return rows


def _visual_field(table: pd.DataFrame, side: str, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    # Ranks spread the map evenly; the fovea lies at the back of the head, the upper field below the lower one.
    forward = (rankdata(table["y"]) - 0.5) / len(table)
    height = (rankdata(table["z"]) - 0.5) / len(table)
    across = 0.02 + 0.68 * (1 - forward if mirrored else forward)
    return across * (1 if side == "L" else -1), 0.7 * (1 - 2 * height)
