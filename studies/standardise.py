"""Responses standardised by session with the moments of the training part, for a fit and for what it is asked later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recordings import Recording, SessionScaler
from recordings.errors import RepetitionError
from recordings.standardise import STANDARDISED


def standardise_sessions(train: Recording, whole: Recording, scratch: Path | None = None) -> Recording:
    """The training part with mean 0 and variance 1 in each session, neuroid by neuroid.

    Parameters
    ----------
    whole : what `train` is a part of. scratch : file (.zarr) for responses that do not fit in memory.

    Raises
    ------
    MismatchedIdsError : a session is held out as a whole, so that its scale would be learnt on what is held out.
    UnknownNameError : the recording does not know its sessions.
    """
    scaler = SessionScaler().fit(train)
    scaler.check_sessions(whole)
    return scaler.transform(train, scratch)


def standardise_as_fitted(fitted: Mapping[str, Any], recording: Recording, training_ids: Iterable[str]) -> Recording:
    """A recording on the scale that a model was fitted on; as it is, if that was the responses' own.

    Parameters
    ----------
    fitted : what `recordings.artifacts.recording_fields` remembers of the fit.
    training_ids : stimuli of the fit, from whose responses, in this recording, each session's moments are learnt.

    Raises
    ------
    RepetitionError : none of these stimuli is in the recording. MismatchedIdsError : nor in one of its sessions.
    """
    if fitted.get(STANDARDISED) is None:
        return recording
    seen = np.isin(recording.stimulus_ids.astype(str), list(training_ids))
    if not seen.any():
        raise RepetitionError(
            "the model was fitted on responses standardised by session, and the recording has none of its stimuli to "
            "learn its sessions' scale from",
            where="recording",
            remedy="Give the recording of the fit",
        )
    return SessionScaler().fit(recording.take(np.flatnonzero(seen))).transform(recording)
