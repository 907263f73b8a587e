"""What each subject brings to the shared space: its standardised responses, and its map there in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from encoders.attention.targets import StandardisedResponses, moments
from recordings import Recording
from recordings.artifacts import recording_fields
from recordings.errors import RepetitionError

from ..functional_alignment import orthonormal_map
from .training import Shown

_VIEWS = 4


@dataclass
class SubjectInput:
    """Mean and scale (neuroid,) by which a subject's responses are standardised; what is remembered of its recording.

    ``temperature`` is that of the confidence, or None.
    """

    mean: np.ndarray
    scale: np.ndarray
    recording: dict[str, Any]
    temperature: float | None = None


class Part:
    """The presentations of one subject that a fit may use, one a stimulus.

    Attributes
    ----------
    responses : (row, neuroid), standardised. stimuli : (row,) int, positions among the targets.
    """

    def __init__(self, average: Recording, stimulus_ids: list[str], subject: SubjectInput) -> None:
        self.responses = StandardisedResponses(average, subject.mean, subject.scale)
        self.stimuli = average.match(stimulus_ids)
        self.n_neuroids = average.n_neuroids

    def rows(self, stimuli: np.ndarray) -> np.ndarray:
        """Rows whose stimulus is among those positions."""
        return np.flatnonzero(np.isin(self.stimuli, stimuli))

    def shown(self, rows: np.ndarray) -> Shown:
        """These rows, to train on."""
        return Shown(self.responses, rows, self.stimuli[rows])

    def align(self, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Orthonormal map (neuroid, shared) from responses to scores (stimulus, shared) of these rows' stimuli."""
        wanted = scores[self.stimuli[rows]]
        return orthonormal_map(self.responses[rows], wanted - wanted.mean(0))


def average(recording: Recording) -> Recording:
    """One presentation a stimulus, finite and without time bins."""
    recording.check_without_time()
    recording.check_finite()
    repeated = len(set(recording.stimulus_ids)) < len(recording)
    return recording.average_repetitions() if repeated else recording


def subject_input(averaged: Recording, recording: Recording) -> SubjectInput:
    """How to standardise a subject, from its averaged presentations."""
    mean, scale = moments(averaged)
    return SubjectInput(mean, scale, recording_fields(recording))


def views(
    parts: Mapping[str, Part], stimuli: np.ndarray, scores: np.ndarray, count: int, seed: int
) -> tuple[list[np.ndarray], list[Shown]]:
    """Maps fitted on a part of a subject's stimuli each, and the rest of its rows, which they have not seen.

    What a map gives of the rows that it was fitted on is far better than what it gives of new ones. The perceptron
    behind it has to learn from the latter.

    Raises
    ------
    RepetitionError : a subject with too few stimuli.
    """
    maps, shown = [], []
    for number, (name, part) in enumerate(parts.items()):
        rows = part.rows(stimuli)
        if len(rows) < _VIEWS * count:
            raise RepetitionError(
                f"{len(rows)} stimuli of subject {name!r} are too few for {count} views",
                remedy=f"Give {_VIEWS * count} or more, or fewer views",
            )
        order = np.random.default_rng([seed, number]).permutation(rows)
        for k in range(count):
            fitted = np.sort(order[k::count])
            maps.append(part.align(fitted, scores))
            shown.append(part.shown(np.setdiff1d(rows, fitted)))
    return maps, shown


def spread(maps: list[np.ndarray], shown: list[Shown]) -> float:
    """Root mean square of what maps give of rows that they were not fitted on."""
    squares, count = 0.0, 0
    for weights, rows in zip(maps, shown, strict=True):
        projected = rows.responses[rows.rows] @ weights
        squares, count = squares + float((projected.astype(np.float64) ** 2).sum()), count + projected.size
    return float(np.sqrt(squares / count)) or 1.0


def fixed_layer(weights: np.ndarray, scale: float) -> nn.Linear:
    """An input layer (neuroid to shared) that is not trained: the map over the scale."""
    layer = nn.Linear(*weights.shape)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights.T / scale))
        layer.bias.zero_()
    return layer.requires_grad_(False)
