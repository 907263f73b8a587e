"""From brain responses back to what was seen: features, stimuli, categories, captions, depth, pictures.

`LatentDecoder` regresses a model's feature space on responses and identifies or retrieves stimuli there;
`CategoryDecoder` tells categories apart in block designs; `identify_patterns` compares response patterns themselves.
Every answer carries a confidence, every accuracy its chance, an interval and the accuracy of shuffled data.

`BrainDecoder` decodes all that a generator starts from, each target from regions of its own; `ImageReconstructor` draws
pictures from it by latent diffusion, `CaptionDecoder` and `DepthDecoder` give words and depth, and `evaluate_pictures`
says what the pictures are worth. `FeatureInverter` makes pictures from deep features alone. `SharedSpaceDecoder`,
`SharedResponseModel` and `Hyperalignment` let one subject learn from others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .brain import BrainDecoder
from .category import CategoryDecoder
from .category_evaluation import CategoryEvaluation, evaluate_categories
from .confidence import calibration_error, fit_temperature
from .identification import Identification, identify
from .latent import LatentDecoder
from .patterns import identify_patterns
from .retrieval import Retrieval, retrieve
from .selection import ConstantNeuroidWarning, reliable_neuroids

if TYPE_CHECKING:
    from .captions import CaptionDecoder
    from .depth import DepthDecoder
    from .evaluation import PictureEvaluation, evaluate_pictures
    from .functional_alignment import Hyperalignment, SharedResponseModel, transfer
    from .inversion import FeatureInverter
    from .pictures import DecodedInputs, Generator, ImageReconstructor, Reconstructions, choose_strength
    from .shared_space import SharedSpaceDecoder
    from .taef2 import Taef2
    from .targets import make_targets

# diffusers and transformers take seconds to import, so that their users are imported when they are asked for.
_LAZY = {
    "CaptionDecoder": "captions",
    "DecodedInputs": "pictures",
    "DepthDecoder": "depth",
    "FeatureInverter": "inversion",
    "Generator": "pictures",
    "Hyperalignment": "functional_alignment",
    "ImageReconstructor": "pictures",
    "PictureEvaluation": "evaluation",
    "Reconstructions": "pictures",
    "SharedResponseModel": "functional_alignment",
    "SharedSpaceDecoder": "shared_space",
    "Taef2": "taef2",
    "choose_strength": "pictures",
    "evaluate_pictures": "evaluation",
    "make_targets": "targets",
    "transfer": "functional_alignment",
}

__all__ = [
    "BrainDecoder",
    "CaptionDecoder",
    "CategoryDecoder",
    "CategoryEvaluation",
    "ConstantNeuroidWarning",
    "DecodedInputs",
    "DepthDecoder",
    "FeatureInverter",
    "Generator",
    "Hyperalignment",
    "Identification",
    "ImageReconstructor",
    "LatentDecoder",
    "PictureEvaluation",
    "Reconstructions",
    "Retrieval",
    "SharedResponseModel",
    "SharedSpaceDecoder",
    "Taef2",
    "calibration_error",
    "choose_strength",
    "evaluate_categories",
    "evaluate_pictures",
    "fit_temperature",
    "identify",
    "identify_patterns",
    "make_targets",
    "reliable_neuroids",
    "retrieve",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
