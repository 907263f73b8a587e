"""What was shown and what the brain did.

This room holds the containers (`Stimuli`, `Recording`, `Subject`), the readers of public formats, noise ceilings and
splits, the miniature world with its simulated brains, and what all rooms share: `Score`, typed errors, progress and
cancellation, model artifacts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import Cancelled, InputError, PenfieldError
from .events import Event

if TYPE_CHECKING:
    from .artifacts import Artifact
    from .ceilings import inter_subject_ceiling, ncsnr, noise_ceiling
    from .recording import Recording, write_recording
    from .score import Score, score_predictions
    from .space import Space
    from .splits import Split, check_split, leave_one_group_out, split_by_stimulus, split_by_value, stimulus_folds
    from .standardise import SessionScaler
    from .stimuli import Stimuli
    from .subject import Subject

# xarray, zarr, scipy and scikit-learn take seconds to import, which a client that catches typed errors does without.
_LAZY = {
    "Artifact": "artifacts",
    "Recording": "recording",
    "Score": "score",
    "SessionScaler": "standardise",
    "Space": "space",
    "Split": "splits",
    "Stimuli": "stimuli",
    "Subject": "subject",
    "check_split": "splits",
    "inter_subject_ceiling": "ceilings",
    "leave_one_group_out": "splits",
    "ncsnr": "ceilings",
    "noise_ceiling": "ceilings",
    "score_predictions": "score",
    "split_by_stimulus": "splits",
    "split_by_value": "splits",
    "stimulus_folds": "splits",
    "write_recording": "recording",
}

__all__ = [
    "Artifact",
    "Cancelled",
    "Event",
    "InputError",
    "PenfieldError",
    "Recording",
    "Score",
    "SessionScaler",
    "Space",
    "Split",
    "Stimuli",
    "Subject",
    "check_split",
    "errors",
    "inter_subject_ceiling",
    "leave_one_group_out",
    "ncsnr",
    "noise_ceiling",
    "score_predictions",
    "split_by_stimulus",
    "split_by_value",
    "stimulus_folds",
    "write_recording",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
