"""Scores of reconstructions from NSD as the literature tabulates them, for orientation.

They are copied, not measured: other pictures, other brains and other networks than those of the miniature world, so
that they share no table with numbers of Penfield's own. They were noted from memory of the tables of the cited papers;
compare a cell with the paper before quoting it.
"""

from __future__ import annotations

import pandas as pd

NOTE = "As tabulated by the cited paper, mean of NSD subjects 1, 2, 5 and 7; not measured here, compare before quoting."
# Two-way identification and retrieval in per cent; lower is better for EffNet-B and SwAV.
COLUMNS = (
    "PixCorr", "SSIM", "AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", "EffNet-B", "SwAV",
    "retrieval.image", "retrieval.brain",
)  # fmt: skip

_1 = "Scotti et al. 2023, arXiv 2305.18274"
_2 = "Scotti et al. 2024, arXiv 2403.11207"
_: float | None = None
_ROWS: tuple[tuple[str, str, tuple[float | None, ...]], ...] = (
    ("Mind Reader (Lin et al. 2022)", _1, (_, _, _, _, 78.2, _, _, _, 11.0, 49.0)),
    ("Takagi & Nishimoto 2023", _1, (_, _, 83.0, 83.0, 76.0, 77.0, _, _, _, _)),
    ("Takagi & Nishimoto 2023, multiple inputs", _2, (.246, .410, 78.9, 85.6, 83.8, 82.1, .811, .504, _, _)),
    ("Gu et al. 2023", _1, (.150, .325, _, _, _, _, .862, .465, _, _)),
    ("Brain-Diffuser (Ozcelik & VanRullen 2023)", _1, (.254, .356, 94.2, 96.2, 87.2, 91.5, .775, .423, 21.1, 30.3)),
    ("Brain-Diffuser (Ozcelik & VanRullen 2023)", _2, (.273, .365, 94.4, 96.6, 91.3, 90.9, .728, .421, 18.8, 26.3)),
    ("MindEye1", _1, (.309, .323, 94.7, 97.8, 93.8, 94.1, .645, .367, 93.6, 90.1)),
    ("MindEye1", _2, (.319, .360, 92.8, 96.9, 94.6, 93.3, .648, .377, 90.0, 84.1)),
    ("MindEye2, 40 hours", _2, (.322, .431, 96.1, 98.6, 95.4, 93.0, .619, .344, 98.8, 98.3)),
    ("MindEye2 unrefined, 40 hours", _2, (.278, .328, 95.2, 99.0, 96.4, 94.5, .622, .343, _, _)),
    ("MindEye2, 1 hour", _2, (.195, .419, 84.2, 90.6, 81.2, 79.2, .810, .468, 79.0, 57.4)),
    ("MindEye2 unrefined, 1 hour", _2, (.235, .313, 88.0, 93.3, 83.6, 80.8, .798, .459, _, _)),
)  # fmt: skip


def published_scores() -> pd.DataFrame:
    """Published rows: method, the paper whose table gives them, `COLUMNS` (NaN where not given), and a note.

    A method that two papers tabulate has two rows: the later one scores all 1,000 shared pictures of 40 sessions.
    """
    values = pd.DataFrame([row for *_, row in _ROWS], columns=list(COLUMNS), dtype=float)
    heads = pd.DataFrame([(method, source) for method, source, _ in _ROWS], columns=["method", "source"])
    return pd.concat([heads, values], axis=1).assign(note=NOTE)
