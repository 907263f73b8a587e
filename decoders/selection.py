"""Which neuroids a decoder reads: those whose response to a stimulus is the same each time, on training data."""

from __future__ import annotations

import numpy as np

from recordings import Recording, noise_ceiling
from recordings.ceilings import MINIMUM_CEILING
from recordings.errors import RepetitionError


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
