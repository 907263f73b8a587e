"""The transformer encoder's section of the report: its gain over ridge, and what its queries look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from encoders.attention import AttentionMaps
from encoders.attention.maps import overlay
from recordings import Recording, Stimuli
from recordings.surfaces import surface_maps
from studies.report import Section
from studies.report.charts import Series, scores_by_roi
from studies.report.cortex import DIVERGING, cortex, flat_cortex, symmetric_limit
from studies.report.images import Image, colour_bar, photograph

from .regions import SCORED
from .transformer import PATCHES, Attended, Patch

# The two queries of these see opposite halves of the picture; of patches the mean of both is shown.
ONE_SIDED = ("V1", "V4")
EARLY = ("V1", "V2", "V3", "V4")
SIDES = {"L": "left", "R": "right"}
_WIDTH = 96


def attention_section(recording: Recording, attended: Attended, stimuli: Stimuli, groups: np.ndarray) -> Section:
    """Scores of ridge and transformer on the same tokens, their difference on the cortex, and attention to scenes.

    Parameters
    ----------
    stimuli : the held-out scenes, as in ``attended.maps``. groups : (scene,) patch whose object each shows, or "".
    """
    models = (attended.ridge, attended.transformer)
    difference = attended.transformer.normalised - attended.ridge.normalised
    limit = symmetric_limit(difference)
    what = "transformer minus ridge"
    return Section(
        "attention",
        "Where queries look",
        {
            "models": models,
            "rois": list(SCORED),
            "n_test": len(stimuli),
            "chart": scores_by_roi([Series(m.title, m.by_roi) for m in models], _chart_alt(attended)),
            "rows": [(m.title, [m.by_roi[roi] for roi in SCORED]) for m in models],
            "gains": [("Gain", [attended.gain[roi] for roi in SCORED])],
            "bar": colour_bar("viridis", 0, 1, "noise-normalised r"),
            "maps": {
                m.title: flat_cortex(surface_maps(recording, m.normalised), f"noise-normalised r of {m.title}")
                for m in models
            },
            "difference_bar": colour_bar(DIVERGING, -limit, limit, f"{what}, noise-normalised r"),
            "difference": cortex(surface_maps(recording, difference), what, cmap=DIVERGING, low=-limit, high=limit),
            "on_object": attended.on_object,
            "by_chance": attended.by_chance,
            "patches": [_patch_row(patch) for patch in attended.patches],
            "queries": _query_rows(attended.maps),
            "scenes": [_scene(attended.maps, stimuli, groups, row) for row in chosen_scenes(groups)],
        },
    )


def chosen_scenes(groups: np.ndarray, n_without: int = 3) -> list[int]:
    """Positions of the first scene with each patch's object, and of the first scenes with none of them."""
    first = [int(np.argmax(groups == name)) for name in PATCHES if (groups == name).any()]
    return first + np.flatnonzero(groups == "")[:n_without].tolist()


def _scene(maps: AttentionMaps, stimuli: Stimuli, groups: np.ndarray, row: int) -> dict[str, Any]:
    image, caption = stimuli.load(row), stimuli.captions[row]
    looks = [
        {"name": name, "there": name == groups[row], "image": _overlay(image, weights, f"{name} looks at: {caption}")}
        for name, weights in _looks(maps, row).items()
    ]
    return {"caption": caption, "shown": photograph(image, f"Shown: {caption}", _WIDTH), "looks": looks}


def _looks(maps: AttentionMaps, row: int) -> dict[str, np.ndarray]:
    """Attention of some queries to one scene, (row, column) each, by the name of the query."""
    place = {query: maps.in_space[row, k] for k, query in enumerate(maps.queries)}
    sided = {f"{name} {word}": place[f"{side} {name}"] for name in ONE_SIDED for side, word in SIDES.items()}
    return sided | {name: (place[f"L {name}"] + place[f"R {name}"]) / 2 for name in PATCHES}


def _overlay(image: np.ndarray, weights: np.ndarray, alt: str) -> Image:
    return photograph(overlay(image, weights), alt, _WIDTH)


def _patch_row(patch: Patch) -> list[str]:
    return [
        patch.name,
        str(patch.n_with),
        f"{100 * patch.on_object:.0f} % ({100 * patch.by_chance:.0f} %)",
        f"{100 * patch.on_others:.0f} %",
        f"{100 * patch.mass:.0f} % ({100 * patch.area:.0f} %)",
        f"{patch.entropy_with:.2f}",
        f"{patch.entropy_without:.2f}",
    ]


def _query_rows(maps: AttentionMaps) -> list[list[str]]:
    """How much each region's two queries look into the opposite half, and how much that depends on the picture."""
    opposite = opposite_half(maps)
    content = dict(zip(maps.queries, replace(maps, weights=maps.in_space, per_head=False).content_index(), strict=True))
    rows = []
    for name in (*EARLY, *PATCHES, "MTL"):
        both = [f"{side} {name}" for side in SIDES]
        index = np.mean([content[query] for query in both])
        rows.append([name, *(f"{100 * opposite[query]:.0f} %" for query in both), f"{index:.2f}"])
    return rows


def opposite_half(maps: AttentionMaps) -> Mapping[str, float]:
    """Share of each query's attention, mean over scenes, in the half of the picture opposite to its hemisphere."""
    mean = maps.in_space.mean(0, dtype=np.float64)
    middle = mean.shape[-1] // 2
    right = mean[..., middle:].sum((1, 2))
    return {q: float(r if q.startswith("L ") else 1 - r) for q, r in zip(maps.queries, right, strict=True)}


def _chart_alt(attended: Attended) -> str:
    parts = [
        f"{m.title}: " + ", ".join(f"{roi} {m.by_roi[roi][0]:.2f}" for roi in SCORED)
        for m in (attended.ridge, attended.transformer)
    ]
    return "Noise-normalised r by region. " + "; ".join(parts) + "."
