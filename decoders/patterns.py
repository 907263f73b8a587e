"""Identification from response patterns alone: one repetition against the mean of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from recordings import Recording
from recordings.errors import RepetitionError
from recordings.events import OnEvent, Stop, report

from .identification import Identification, identify_by_similarity
from .similarity import correlations


def identify_patterns(
    recording: Recording,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Identification:
    """Identify each single presentation among all stimuli by its correlation with their mean patterns.

    Each repetition in turn is held out; the patterns, and the mean and standard deviation that each neuroid is z-scored
    with, come from the other repetitions alone (Haxby et al. 2001). Constant neuroids are left out.

    Parameters
    ----------
    recording : (presentation, neuroid), single presentations; every stimulus shown at least twice.
    options : n_way, temperature, n_permutations, n_bootstrap, seed of `identify_by_similarity`.

    Raises
    ------
    RepetitionError : a stimulus was shown once. NotFiniteError : NaN or infinity. ShapeError : time bins.
    """
    recording.check_without_time()
    recording.check_finite()
    ids = list(dict.fromkeys(map(str, recording.stimulus_ids)))
    counts = pd.Series(recording.stimulus_ids.astype(str)).value_counts()
    if counts.min() < 2:
        raise RepetitionError(
            f"stimulus {counts.idxmin()!r} was shown once ({int((counts < 2).sum())} such stimuli); its pattern cannot "
            "be compared with itself",
            remedy="Leave stimuli without repetitions out",
        )
    repetitions = recording.presentation("repetition")
    similarity = np.empty((len(recording), len(ids)), np.float32)
    labels = pd.unique(repetitions)
    for number, label in enumerate(labels):
        report(on_event, stop, "identify patterns", number, len(labels))
        held_out = repetitions == label
        others = recording.take(np.flatnonzero(~held_out))
        similarity[held_out] = _against(recording.read(np.flatnonzero(held_out)), others, ids)
    return identify_by_similarity(similarity, list(map(str, recording.stimulus_ids)), ids, **options)


def _against(patterns: np.ndarray, others: Recording, ids: list[str]) -> np.ndarray:
    values = others.values
    mean, scale = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    varies = scale > 0
    average = others.average_repetitions()
    templates = np.empty((len(ids), others.n_neuroids), np.float32)
    templates[average.match(ids)] = average.values
    mean, scale = mean[varies], scale[varies]
    return correlations(patterns[:, varies], templates[:, varies], mean=mean, scale=scale)
