"""Which neuroids a decoder reads: those that vary, and whose response to a stimulus is the same each time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from recordings import Recording, noise_ceiling
from recordings.ceilings import MINIMUM_CEILING
from recordings.errors import RepetitionError

_NAMED = 5


class ConstantNeuroidWarning(UserWarning):
    """Some neuroids do not vary over the training presentations: nothing is decoded from them."""


def warn_of_constants(recording: Recording) -> None:
    """Warn with a `ConstantNeuroidWarning` of the neuroids that do not vary over training presentations."""
    # A single presentation does not tell.
    if len(recording) < 2:
        return
    constant = recording.constant_neuroids()
    if constant.any():
        first = ", ".join(map(str, recording.neuroid_ids[constant][:_NAMED]))
        more = ", ..." if constant.sum() > _NAMED else ""
        warnings.warn(
            f"{constant.sum()} of {len(constant)} neuroids do not vary over {len(recording)} training presentations "
            f"and are left out: {first}{more}",
            ConstantNeuroidWarning,
            stacklevel=4,
        )


@contextmanager
def constants_told_once(recording: Recording) -> Iterator[None]:
    """`warn_of_constants`, and be silent of them in fits on parts of the recording."""
    warn_of_constants(recording)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantNeuroidWarning)
        yield


def select_neuroids(
    recording: Recording, reliability: float | None, max_neuroids: int | None = None, seed: int = 0
) -> np.ndarray:
    """Columns of the neuroids that a decoder with these options reads: `reliable_neuroids`, or all without reliability.

    Raises
    ------
    RepetitionError : as `reliable_neuroids`, with the options that do without repetitions.
    """
    if reliability is None:
        return np.arange(recording.n_neuroids)
    try:
        return reliable_neuroids(recording, reliability, max_neuroids, seed=seed)
    except RepetitionError as error:
        raise RepetitionError(
            f"neuroids cannot be chosen by reliability: {error.what}",
            remedy="Fit on single presentations of repeated stimuli, or on all neuroids (reliability=None or "
            "--all-neuroids)",
        ) from error


def reliable_neuroids(
    recording: Recording,
    minimum: float = MINIMUM_CEILING,
    max_neuroids: int | None = None,
    method: str = "ncsnr",
    seed: int = 0,
) -> np.ndarray:
    """Columns of the neuroids whose noise ceiling on these presentations is at least `minimum`, ascending int.

    Give training presentations only, single ones: a selection that has seen test responses favours what it tests.

    Parameters
    ----------
    minimum : fraction of explainable variance of the mean over repetitions.
    max_neuroids : keep the most reliable ones only.
    method, seed : "ncsnr" or "split_half", see `noise_ceiling`.

    Raises
    ------
    RepetitionError : fewer than three stimuli were repeated, or no neuroid is reliable enough.
    """
    recording.check_without_time()
    ceiling = np.nan_to_num(noise_ceiling(recording, method, seed=seed))
    chosen = np.flatnonzero(ceiling >= minimum)
    if not len(chosen):
        raise RepetitionError(
            f"none of {len(ceiling)} neuroids has a noise ceiling of {minimum:g} (highest {ceiling.max():.3f})",
            remedy="Lower the threshold, or check that responses and stimulus ids belong together",
        )
    if max_neuroids is not None and len(chosen) > max_neuroids:
        best = np.argsort(-ceiling[chosen], kind="stable")[:max_neuroids]
        chosen = np.sort(chosen[best])
    return chosen
