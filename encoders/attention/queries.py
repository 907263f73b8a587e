"""Which query serves which neuroid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recordings import Recording
from recordings.coordinates import memberships
from recordings.errors import EmptyROIError

REST = "rest"


@dataclass(frozen=True)
class Regions:
    """A partition of neuroids: every neuroid belongs to one region, which has one query.

    Attributes
    ----------
    names : of the regions, with the hemisphere in front where the recording has one ("L V1").
    index : int (neuroid,), position in `names`.
    """

    names: tuple[str, ...]
    index: np.ndarray

    @classmethod
    def of(cls, recording: Recording) -> Regions:
        """Regions of a recording: a neuroid in several ROIs belongs to the smallest one, one in none to "rest".

        Raises
        ------
        EmptyROIError : an ROI that the recording declares has no neuroid.
        """
        empty = [name for name in recording.declared_rois or () if name not in recording.rois]
        if empty:
            raise EmptyROIError(
                f"ROI {empty[0]!r} has no neuroid, so that a query for it would learn nothing",
                where=recording.data.encoding.get("source"),
                remedy="Take the ROIs that this subject has: recording.roi(...), or --roi",
            )
        labels = _most_specific(recording)
        if "hemisphere" in recording.neuroids:
            labels = np.char.add(np.char.add(recording.neuroid("hemisphere").astype(str), " "), labels)
        index, names = pd.factorize(labels, sort=True)
        return cls(tuple(map(str, names)), index)

    def members(self, query: int) -> np.ndarray:
        """Positions of the neuroids of a query."""
        return np.flatnonzero(self.index == query)


def _most_specific(recording: Recording) -> np.ndarray:
    label = np.full(recording.n_neuroids, REST, dtype=object)
    if "roi" not in recording.neuroids:
        return label.astype(str)
    members = memberships(recording.neuroids["roi"])
    for name in sorted(members, key=lambda n: (-members[n].sum(), n)):
        label[members[name]] = name
    return label.astype(str)
