"""From brain responses back to what was seen: features, stimuli, categories.

`LatentDecoder` regresses a model's feature space on responses and identifies or retrieves stimuli there;
`CategoryDecoder` tells categories apart in block designs; `identify_patterns` compares response patterns themselves.
Every answer carries a confidence, every accuracy its chance, an interval and the accuracy of shuffled data.
"""

from __future__ import annotations

from .category import CategoryDecoder
from .category_evaluation import CategoryEvaluation, evaluate_categories
from .confidence import calibration_error, fit_temperature
from .identification import Identification, identify
from .latent import LatentDecoder
from .patterns import identify_patterns
from .retrieval import Retrieval, retrieve
from .selection import reliable_neuroids

__all__ = [
    "CategoryDecoder",
    "CategoryEvaluation",
    "Identification",
    "LatentDecoder",
    "Retrieval",
    "calibration_error",
    "evaluate_categories",
    "fit_temperature",
    "identify",
    "identify_patterns",
    "reliable_neuroids",
    "retrieve",
]
