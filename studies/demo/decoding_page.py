"""The decoders' section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recordings import Stimuli
from studies.report import Section
from studies.report.charts import retrieval_curves
from studies.report.images import photograph


@dataclass(frozen=True)
class Answer:
    """One held-out scene and the pictures that its decoded features are closest to, best first."""

    shown: str
    retrieved: Sequence[str]
    confidence: Sequence[float]


@dataclass(frozen=True)
class Retrieved:
    """Retrieval of the held-out scenes from a gallery.

    Attributes
    ----------
    ranks : (scene,) place of the scene's own picture, 1 is first. shuffled_ranks : (shuffle, scene) the same with the
        answers shuffled. gallery : how many pictures there are. n_voxels : how many neuroids the decoder reads.
    two_way : share of pairs in which the own picture is the closer one.
    answers : one a scene, in the order of the scenes.
    """

    ranks: np.ndarray
    shuffled_ranks: np.ndarray
    gallery: int
    n_voxels: int
    two_way: float
    answers: Sequence[Answer]

    @property
    def top1(self) -> float:
        """Share of scenes whose own picture comes first."""
        return float(np.mean(self.ranks == 1))

    @property
    def shuffled_top1(self) -> float:
        """The same, mean over shuffles."""
        return float(np.mean(self.shuffled_ranks == 1))


def decoding_section(found: Retrieved, stimuli: Stimuli, examples: int = 12) -> Section:
    """How often the picture is found, and what was found for the first scenes."""
    curves = {"own picture": _shares(found.ranks, found.gallery)}
    curves["answers shuffled"] = _shares(found.shuffled_ranks.ravel(), found.gallery)
    return Section(
        "decoding",
        "Decoding: from responses back to pictures",
        {
            "n_scenes": len(found.ranks),
            "n_voxels": found.n_voxels,
            "gallery": found.gallery,
            "top1": found.top1,
            "shuffled_top1": found.shuffled_top1,
            "two_way": found.two_way,
            "curves": retrieval_curves(curves, _curves_alt(found)),
            "grid": [_row(answer, stimuli) for answer in found.answers[:examples]],
        },
    )


def _row(answer: Answer, stimuli: Stimuli) -> dict[str, Any]:
    names = list(answer.retrieved)
    shown, retrieved = stimuli.select([answer.shown]), stimuli.select(names)
    return {
        "shown": photograph(shown.load(0), f"Shown: {shown.captions[0]}"),
        "answers": [
            {
                "image": photograph(retrieved.load(k), f"Retrieved: {retrieved.captions[k]}"),
                "confidence": answer.confidence[k],
                "right": names[k] == answer.shown,
            }
            for k in range(len(names))
        ],
        "caption": shown.captions[0],
        "place": names.index(answer.shown) + 1 if answer.shown in names else 0,
    }


def _shares(ranks: np.ndarray, gallery: int) -> np.ndarray:
    """Share of ranks at or below k for k = 1 .. gallery, (gallery,)."""
    return np.cumsum(np.bincount(ranks.astype(int), minlength=gallery + 1)[1:]) / len(ranks)


def _curves_alt(found: Retrieved) -> str:
    shares = ", ".join(f"{100 * np.mean(found.ranks <= k):.0f} % among the first {k}" for k in (1, 5, 20))
    return f"Retrieval curve: {shares} of {found.gallery} pictures; shuffled answers lie on the line of chance."
