"""The encoders' section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recordings import Recording
from recordings.statistics import Null
from studies.report import Section
from studies.report.charts import Series, scores_by_roi
from studies.report.images import colour_bar

from .regions import SCORED, score_maps


@dataclass(frozen=True)
class EncoderScore:
    """How well one model predicts the held-out responses.

    Attributes
    ----------
    key, title, about : its name in the summary and on the page, and what it reads.
    normalised : (neuroid,) noise-normalised r, NaN where the ceiling is too low.
    by_roi : region to (mean, low, high), a 95 % bootstrap interval over stimuli.
    null : mean noise-normalised r over all neuroids when stimuli are shuffled.
    baseline : a model to beat, not one to use.
    """

    key: str
    title: str
    about: str
    normalised: np.ndarray
    by_roi: dict[str, tuple[float, float, float]]
    null: Null
    baseline: bool = False

    @property
    def center(self) -> float:
        """Mean noise-normalised r over all neuroids."""
        return float(np.nanmean(self.normalised))


def encoding_section(
    recording: Recording, scores: Sequence[EncoderScore], mapped: str, n_train: int, n_test: int
) -> Section:
    """Scores by region and model, and the map of the model whose key is `mapped`."""
    on_map = next(score for score in scores if score.key == mapped)
    series = [Series(s.title, {roi: s.by_roi[roi] for roi in SCORED}, s.baseline) for s in scores]
    return Section(
        "encoding",
        "Encoding: from pictures to responses",
        {
            "n_train": n_train,
            "n_test": n_test,
            "models": scores,
            "rois": list(SCORED),
            "chart": scores_by_roi(series, _chart_alt(scores)),
            "rows": [(s.title, [s.by_roi[roi] for roi in SCORED]) for s in scores],
            "mapped": on_map.title,
            "bar": colour_bar("viridis", 0, 1, "noise-normalised r"),
            "map": score_maps(recording, on_map.normalised, f"noise-normalised r of {on_map.title}"),
            "n_shuffles": len(on_map.null.scores),
        },
    )


def _chart_alt(scores: Sequence[EncoderScore]) -> str:
    parts = [f"{s.title}: " + ", ".join(f"{roi} {s.by_roi[roi][0]:.2f}" for roi in SCORED) for s in scores]
    return "Noise-normalised r by region. " + "; ".join(parts) + "."
