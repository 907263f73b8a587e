"""Which query serves which neuroid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recordings import Recording
from recordings.coordinates import memberships

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

        An ROI that the recording declares but that is empty in this subject gets no query; it is refused where it is
        asked for by name (`Recording.roi`).
        """
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
