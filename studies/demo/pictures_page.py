"""The pictures' section of the report: what was shown, and what was drawn from the brain."""

from __future__ import annotations

from typing import Any

import numpy as np

from decoders.evaluation import PictureEvaluation
from recordings import Stimuli
from studies.report import Section
from studies.report.images import photograph

from .pictures import DRAWN, N_SHOWN, SCORED, TWO_WAY, Pictured

_TITLES = {
    "z": "decoded z",
    "c": "words only",
    "zc": "z and words",
    "zcd": "plus depth",
    "best": "all inputs",
    "nearest": "nearest training scene",
}
_ATTRIBUTES = ("category", "colour", "position", "nearness")


def pictures_section(pictured: Pictured, stimuli: Stimuli) -> Section:
    """Scores of single inputs and of all together, beside the reader's own limit, and the first scenes."""
    best = pictured.evaluations["best"]
    return Section(
        "pictures",
        "Pictures from responses",
        {
            "n_scenes": len(pictured.stimulus_ids),
            "two_way": best[TWO_WAY],
            "over_z": best.difference(pictured.evaluations["z"], TWO_WAY),
            "over_nearest": best[f"over_nearest_training.{TWO_WAY}"],
            "within": best[f"{TWO_WAY}.within_category"],
            "columns": ["two-way", "PixCorr", "SSIM", *_ATTRIBUTES],
            "rows": [[_TITLES[name], *_row(pictured, name)] for name in SCORED]
            + [["the scenes themselves", "", "", "", *_read(best, "attributes.shown.")]],
            "titles": [_TITLES[name] for name in [*DRAWN, "nearest"]],
            "grid": [_shown(pictured, k, stimuli) for k in range(min(N_SHOWN, len(pictured.stimulus_ids)))],
        },
    )


def _row(pictured: Pictured, name: str) -> list[str]:
    found = pictured.evaluations[name]
    scores = [f"{found[metric].value:.3f}" for metric in (TWO_WAY, "pixcorr", "ssim")]
    return [*scores, *_read(found, "attributes.")]


def _read(found: PictureEvaluation, prefix: str) -> list[str]:
    return [f"{found[prefix + name].value:.3f}" for name in _ATTRIBUTES]


def _shown(pictured: Pictured, row: int, stimuli: Stimuli) -> dict[str, Any]:
    own = stimuli.select([pictured.stimulus_ids[row]])
    caption = own.captions[0]
    pictures = {name: pictured.images[name][row] for name in [*DRAWN, "nearest"]}
    return {
        "caption": caption,
        "decoded": pictured.captions[row],
        "shown": photograph(own.load(0), f"Shown: {caption}"),
        "drawn": [photograph(np.asarray(v), f"{_TITLES[k]}, shown was: {caption}") for k, v in pictures.items()],
    }
