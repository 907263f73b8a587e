"""What was shown and what the brain did.

This room holds the containers (`Stimuli`, `Recording`, `Subject`), the readers of public formats, noise ceilings and
splits, the miniature world with its simulated brains, and what all rooms share: `Score`, typed errors, progress and
cancellation, model artifacts.
"""

from . import errors
from .artifacts import Artifact
from .ceilings import inter_subject_ceiling, ncsnr, noise_ceiling
from .errors import Cancelled, InputError, PenfieldError
from .events import Event
from .recording import Recording, write_recording
from .score import Score, score_predictions
from .space import Space
from .splits import Split, check_split, leave_one_group_out, split_by_stimulus, split_by_value, stimulus_folds
from .standardise import SessionScaler
from .stimuli import Stimuli
from .subject import Subject

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
