"""The decoders' section of the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from decoders import Identification
from recordings import Stimuli
from studies.report import Section
from studies.report.charts import retrieval_curve
from studies.report.images import photograph

from .decoding import Decoded


def decoding_section(decoded: Decoded, stimuli: Stimuli, examples: int = 12) -> Section:
    """How often the picture is found, and what was found for the first scenes."""
    found = decoded.identified
    return Section(
        "decoding",
        "Decoding: from responses back to pictures",
        {
            "n_scenes": len(found.shown),
            "n_neuroids": decoded.n_neuroids,
            "gallery": found.n_candidates,
            "top1": found.accuracy,
            "interval": found.interval,
            "null": found.null,
            "two_way": found.two_way_candidates,
            "curve": retrieval_curve(_shares(found), _curve_alt(found)),
            "grid": [_row(decoded, k, stimuli) for k in range(min(examples, len(found.shown)))],
        },
    )


def _row(decoded: Decoded, row: int, stimuli: Stimuli) -> dict[str, Any]:
    own, names = decoded.identified.shown[row], list(decoded.retrieved.stimulus_ids[row])
    shown, retrieved = stimuli.select([own]), stimuli.select(names)
    return {
        "shown": photograph(shown.load(0), f"Shown: {shown.captions[0]}"),
        "answers": [
            {
                "image": photograph(retrieved.load(k), f"Retrieved: {retrieved.captions[k]}"),
                "confidence": decoded.retrieved.confidence[row, k],
                "right": name == own,
            }
            for k, name in enumerate(names)
        ],
        "caption": shown.captions[0],
        "place": names.index(own) + 1 if own in names else 0,
    }


def _shares(found: Identification) -> np.ndarray:
    """Share of scenes whose own picture is among the first k, for k = 1 .. gallery, (gallery,)."""
    return np.array([np.mean(found.rank <= k) for k in range(1, found.n_candidates + 1)])


def _curve_alt(found: Identification) -> str:
    shares = ", ".join(f"{100 * np.mean(found.rank <= k):.0f} % among the first {k}" for k in (1, 5, 20))
    return f"Retrieval curve: {shares} of {found.n_candidates} pictures."
