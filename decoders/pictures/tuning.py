"""How far the generator may go from what was decoded: strength and guidance, by what they gain on training stimuli.

A generator helps where the brain is noisy and hurts where it is clean, so that no strength is right for all subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from recordings.errors import InputError, RepetitionError, ShapeError
from recordings.events import OnEvent, Stop, report

from ..evaluation import PictureFeatures, Resampling, picture_correlations, pix_corr, two_way
from .inputs import DecodedInputs
from .pixels import check_images, resize
from .reconstructor import ImageReconstructor, refuse_long

STRENGTHS = (0.0, 0.3, 0.5, 0.8, 1.0)
GUIDANCES = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class StrengthChoice:
    """The best strength and guidance, and what all were worth.

    Attributes
    ----------
    table : a row for each setting: strength, guidance, two_way (the reconstruction fixed, chance .5), pixcorr,
        criterion (their sum), n (reconstructed brains).
    """

    strength: float
    guidance: float
    table: pd.DataFrame


def choose_strength(
    reconstructor: ImageReconstructor,
    inputs: DecodedInputs,
    shown: np.ndarray,
    features: Callable[[np.ndarray], np.ndarray],
    *,
    strengths: Sequence[float] = STRENGTHS,
    guidances: Sequence[float] = GUIDANCES,
    seed: int = 0,
    batch_size: int = 8,
    allow_long: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> StrengthChoice:
    """Reconstruct training stimuli at each strength and guidance and take the best by two-way identification + PixCorr.

    Among settings that are equally good the first is taken: the least strength and guidance. Only the first sample of
    each brain counts.

    Parameters
    ----------
    reconstructor : its preset's other settings are kept.
    inputs : decoded out of fold, such as `BrainDecoder.cross_predict` gives for training stimuli. Inputs decoded from
        stimuli that the decoder was fitted on look better than any it will meet, and make strength too small.
    shown : uint8 (n, H, W, 3), the pictures that were shown, in the same order.
    features : a network that takes pictures like `shown` to features, (n, ...).
    strengths : 0 stands for the decoded start itself, to which guidance is nothing, so that it is tried once.
    allow_long : do what would take hours: more than 64 pictures, brains times settings, at 512 pixels or more on a CPU.

    Raises
    ------
    InputError : nothing to choose from, a preset that starts from noise and other strengths than 1, or hours of work.
    ShapeError : `shown` is not uint8 RGB, or of another number. RepetitionError : fewer than two brains.
    """
    check_images(shown, "shown")
    if len(shown) != len(inputs):
        raise ShapeError(f"{len(shown)} pictures shown for {len(inputs)} brains", where="shown")
    grid = [(s, g) for s, g in product(sorted(strengths), sorted(guidances)) if s > 0 or g == min(guidances)]
    if not grid:
        raise InputError("no strength or no guidance to choose from", remedy="Give at least one of each")
    if not allow_long:
        _refuse_long(reconstructor, inputs, grid)
    shown = resize(shown, reconstructor.generator.image_size)
    row_of = {str(i): row for row, i in enumerate(inputs.stimulus_ids)}
    rows = []
    for number, (strength, guidance) in enumerate(grid):
        report(on_event, stop, "choose strength", number, len(grid), strength=strength, guidance=guidance)
        single = ImageReconstructor(
            reconstructor.generator, reconstructor.preset, strength=strength, guidance=guidance, samples=1
        )
        made = single.reconstruct(inputs, seed=seed, batch_size=batch_size, allow_long=True, stop=stop)
        if len(made) < 2:
            raise RepetitionError(f"{len(made)} brain reconstructed", remedy="Give at least two, better a hundred")
        chosen, images = [row_of[i] for i in made.stimulus_ids], made.images[:, 0]
        originals, own = (PictureFeatures(pictures, features) for pictures in (shown[chosen], images))
        identified = two_way(picture_correlations(originals, own), resampling=Resampling(0, 0)).value
        # A flat picture resembles nothing.
        pixels = float(np.nan_to_num(pix_corr(images, shown[chosen])).mean())
        rows.append((strength, guidance, identified, pixels, identified + pixels, len(made)))
    report(on_event, None, "choose strength", len(grid), len(grid))
    table = pd.DataFrame(rows, columns=["strength", "guidance", "two_way", "pixcorr", "criterion", "n"])
    # A setting that fails for some brains is not compared on the easier rest.
    best = table[table.n == table.n.max()].criterion.idxmax()
    return StrengthChoice(float(table.strength[best]), float(table.guidance[best]), table)


def _refuse_long(reconstructor: ImageReconstructor, inputs: DecodedInputs, grid: Sequence[tuple[float, float]]) -> None:
    generator, preset, n = reconstructor.generator, reconstructor.preset, len(inputs)
    inputs.check(generator, preset)
    failed = inputs.broken(preset.needs, generator)
    whole = [row for row, i in enumerate(inputs.stimulus_ids) if str(i) not in failed]
    steps = n * preset.steps * sum(strength for strength, _ in grid)
    refuse_long(reconstructor, inputs.select(whole[:1]), n * len(grid), f"{n} brains at {len(grid)} settings", steps)
