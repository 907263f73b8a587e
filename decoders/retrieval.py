"""Retrieval: the stimuli of a gallery that a decoded row resembles most, each with its probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders import Features
from recordings.errors import InputError

from .confidence import posterior
from .similarity import candidate_names, correlations


@dataclass(frozen=True)
class Retrieval:
    """The k most similar stimuli of a gallery for each decoded row, best first.

    Attributes
    ----------
    stimulus_ids : (row, k) object. similarity : (row, k) Pearson r, float32.
    confidence : (row, k) probability that this is the stimulus that was shown, if it is one of the gallery and each is
        as likely beforehand. For a new stimulus it says how far the best stands out, not that it was shown.
    n_gallery : size of the gallery.
    """

    stimulus_ids: np.ndarray
    similarity: np.ndarray
    confidence: np.ndarray
    n_gallery: int

    def hits(self, shown: Sequence[str]) -> np.ndarray:
        """(row,) bool: whether the stimulus shown is among the k."""
        return (self.stimulus_ids == np.array([str(i) for i in shown], object)[:, None]).any(1)

    @property
    def chance(self) -> float:
        """How often k guesses hold the stimulus that was shown."""
        return self.stimulus_ids.shape[1] / self.n_gallery


def retrieve(
    decoded: np.ndarray,
    gallery: np.ndarray | Features,
    k: int = 5,
    *,
    temperature: float,
    gallery_ids: Sequence[str] | None = None,
    mean: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> Retrieval:
    """Find the k stimuli of a gallery whose features correlate most with each decoded row.

    Parameters
    ----------
    decoded : (row, feature). gallery : (stimulus, feature) with `gallery_ids`, or `Features`, read in blocks.
    temperature : of the confidence, from `fit_temperature` or `LatentDecoder.temperature_`.
    mean, scale : (feature,) of the training stimuli, see `correlations`.

    Raises
    ------
    InputError : k is not between 1 and the size of the gallery.
    ShapeError, NotFiniteError, ConstantUnitError : see `correlations`.
    """
    names = candidate_names(gallery, gallery_ids)
    if not 1 <= k <= len(names):
        raise InputError(f"{k} stimuli asked of a gallery of {len(names)}", remedy=f"Choose between 1 and {len(names)}")
    similarity = correlations(decoded, gallery, mean=mean, scale=scale)
    best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarity, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, 1)
    return Retrieval(
        stimulus_ids=names[best],
        similarity=np.take_along_axis(similarity, best, 1),
        confidence=np.take_along_axis(posterior(similarity, temperature), best, 1),
        n_gallery=len(names),
    )
