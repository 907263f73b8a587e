"""The demo's world: scenes, one simulated subject who saw them, and the noise ceiling of its responses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recordings import Subject
from studies.report import Section
from studies.report.charts import ceilings_by_roi
from studies.report.images import photograph

from .regions import COLOURS, by_region, region_maps

_SAMPLES = 24


@dataclass(frozen=True)
class World:
    """What was simulated.

    Attributes
    ----------
    subject : single presentations, with its stimuli. train, test : stimulus ids.
    ceiling, planted : (neuroid,) estimated and true noise ceiling of the mean over repetitions, fraction of variance.
    """

    subject: Subject
    train: list[str]
    test: list[str]
    ceiling: np.ndarray
    planted: np.ndarray

    @property
    def ceiling_error(self) -> float:
        """Mean absolute error of the estimated noise ceilings."""
        return float(np.mean(np.abs(self.ceiling - self.planted)))


def world_section(world: World) -> Section:
    """Sample scenes, the planted regions on the cortex, and the noise ceiling found again."""
    recording, stimuli = world.subject.recording, world.subject.stimuli
    estimated, planted = by_region(recording, world.ceiling), by_region(recording, world.planted)
    return Section(
        "world",
        "What was simulated",
        {
            "n_train": len(world.train),
            "n_test": len(world.test),
            "repetitions": len(recording) // len(stimuli),
            "scenes": [photograph(stimuli.load(i), stimuli.captions[i]) for i in range(min(_SAMPLES, len(stimuli)))],
            "colours": COLOURS,
            "regions": region_maps(recording),
            "n_neuroids": recording.n_neuroids,
            "sizes": {name: int(recording.roi_mask(name).sum()) for name in COLOURS},
            "ceiling_error": world.ceiling_error,
            "ceilings": ceilings_by_roi(estimated, planted, _ceiling_alt(estimated, planted)),
        },
    )


def _ceiling_alt(estimated: dict[str, np.ndarray], planted: dict[str, np.ndarray]) -> str:
    found = ", ".join(f"{roi} {np.median(e):.2f} (planted {planted[roi].mean():.2f})" for roi, e in estimated.items())
    return f"Median estimated noise ceiling by region: {found}."
