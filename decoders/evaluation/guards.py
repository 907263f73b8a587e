"""Guards against spurious reconstruction (Shirakawa et al. 2024, arXiv 2405.10078).

A pipeline that only recognises the category, or shows a training picture again, scores well where test stimuli resemble
training stimuli. `two_way` within and across categories, the nearest training picture scored like a reconstruction, a
split that holds categories out, and the dimension of what comes out tell the cases apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from encoders import Features
from recordings import Recording, Stimuli
from recordings.errors import InputError, MismatchedIdsError, RepetitionError, UnknownNameError
from recordings.splits import Split

from ..similarity import correlations
from .features import PictureFeatures, unit_rows


def nearest_training_rows(
    decoded: np.ndarray,
    training: np.ndarray | Features,
    *,
    mean: np.ndarray | None = None,
    scale: np.ndarray | None = None,
) -> np.ndarray:
    """Row of the training stimulus whose features correlate most with the decoded ones, int (n,).

    Parameters
    ----------
    decoded : (n, feature), from a `LatentDecoder`. training : features of its training stimuli, read in blocks.
    mean, scale : (feature,) of the training stimuli, see `decoders.similarity.correlations`, which also raises.
    """
    return correlations(decoded, training, mean=mean, scale=scale).argmax(1)


def nearest_training_pictures(reconstructed: PictureFeatures, training: PictureFeatures) -> np.ndarray:
    """Row of the training picture most like each reconstruction by a network's features, int (n,).

    A reconstruction whose features are flat is like none and gets row 0.
    """
    best, rows = np.full(len(reconstructed), -np.inf), np.zeros(len(reconstructed), int)
    for here, block in training.blocks():
        left = unit_rows(block)
        for there, other in reconstructed.blocks(0):
            similarity = np.nan_to_num(left @ unit_rows(other).T, nan=-np.inf)
            better = similarity.max(0) > best[there]
            rows[there] = np.where(better, here.start + similarity.argmax(0), rows[there])
            best[there] = np.maximum(best[there], similarity.max(0))
    return rows


def effective_dimension(correlation: np.ndarray) -> float:
    """Participation ratio of pictures in a feature space: how many directions they spread over, 1 to n - 1.

    (sum of eigenvalues)^2 / sum of their squares, of the covariance of features standardised by picture (Gao et al.
    2017), from the correlations between pictures, which share its eigenvalues. NaN if fewer than two pictures have
    defined correlations or all are alike. Reconstructions that spread over fewer directions than their originals have
    collapsed onto what the decoder can put out.

    Parameters
    ----------
    correlation : (n, n) between pictures of one set, as from `picture_correlations`; undefined pictures are left out.
    """
    usable = np.isfinite(correlation.diagonal())
    matrix = correlation[np.ix_(usable, usable)]
    if len(matrix) < 2:
        return float("nan")
    centred = matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()
    spread = np.trace(centred)
    # Below this the spread is rounding: the pictures are copies of one another.
    return float(spread**2 / (centred**2).sum()) if spread > 1e-9 * len(matrix) else float("nan")


def hold_out_categories(
    recording: Recording, stimuli: Stimuli, held_out: Sequence[str] | int, *, column: str = "category", seed: int = 0
) -> Split:
    """Split that keeps all stimuli of some categories from training and tests on those alone.

    Parameters
    ----------
    held_out : names of categories, or how many to draw with `seed` among those shown.
    column : of the stimuli's table.

    Raises
    ------
    UnknownNameError : no such column or category. MismatchedIdsError : a shown stimulus is not in the table.
    RepetitionError : no presentation is left on one side. InputError : a number outside 1 to all categories but one.
    """
    if column not in stimuli.table:
        raise UnknownNameError(f"stimuli have no column {column!r}", remedy=f"There are: {', '.join(stimuli.table)}")
    table = pd.Series(stimuli.table[column].astype(str).to_numpy(), index=stimuli.ids)
    shown = pd.Index(recording.stimulus_ids.astype(str))
    missing = shown.difference(table.index)
    if len(missing):
        raise MismatchedIdsError(
            f"stimulus {missing[0]!r} was shown but is not among the stimuli ({len(missing)} such)"
        )
    category = table[shown].to_numpy()
    names = np.unique(category)
    if isinstance(held_out, int):
        if not 1 <= held_out < len(names):
            raise InputError(f"{held_out} of {len(names)} categories", remedy=f"Hold out 1 to {len(names) - 1}")
        held_out = sorted(np.random.default_rng(seed).choice(names, held_out, replace=False))
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise UnknownNameError(f"no category {unknown[0]!r} was shown", remedy=f"There are: {', '.join(names)}")
    test = np.isin(category, list(held_out))
    if not test.any() or test.all():
        raise RepetitionError(f"holding out {', '.join(held_out) or 'nothing'} leaves no presentation on one side")
    return Split(np.flatnonzero(~test), np.flatnonzero(test), f"{column} {', '.join(held_out)} held out")
