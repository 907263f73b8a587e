"""One set of pictures against the originals, by pixels and by networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recordings.errors import ShapeError
from recordings.events import OnEvent, Stop

from .features import PictureFeatures, mean_over_samples, picture_correlations
from .measures import Measure, Resampling
from .pixels import pixel_scores
from .two_way_identification import DIRECTIONS, two_way


def pixel_measures(
    reconstructed: np.ndarray,
    shown: np.ndarray,
    resampling: Resampling,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Measure]:
    """``pixcorr`` and ``ssim`` of uint8 (n, sample, H, W, 3), the mean over samples of each."""
    correlation, structure = pixel_scores(reconstructed, shown, on_event, stop)
    return {
        "pixcorr": resampling.mean(mean_over_samples(correlation)),
        "ssim": resampling.mean(mean_over_samples(structure)),
    }


def network_measures(
    name: str,
    originals: PictureFeatures,
    reconstructions: PictureFeatures,
    categories: Sequence[str] | None,
    resampling: Resampling,
) -> dict[str, Measure]:
    """Two-way identification in both directions and correlation distance, by one network.

    Parameters
    ----------
    originals : n pictures. reconstructions : n * samples pictures, the samples of one original after one another.
    """
    similarity = _similarity(originals, reconstructions)
    found = {}
    for direction in DIRECTIONS:
        key = f"two_way.{name}.{direction}"
        found[key] = two_way(similarity, direction, resampling=resampling)
        for against in ("within", "across") if categories is not None else ():
            found[f"{key}.{against}_category"] = two_way(
                similarity, direction, categories=categories, against=against, resampling=resampling
            )
    found[f"distance.{name}"] = correlation_distance(similarity, resampling)
    return found


def correlation_distance(similarity: np.ndarray, resampling: Resampling | None = None) -> Measure:
    """1 - Pearson r between the features of each reconstruction and of its original, 0 (alike) to 2.

    Parameters
    ----------
    similarity : (n original, n reconstruction), as from `picture_correlations`.
    """
    return (resampling or Resampling()).mean(1 - similarity.diagonal())


def _similarity(originals: PictureFeatures, reconstructions: PictureFeatures) -> np.ndarray:
    n = len(originals)
    if len(reconstructions) % n:
        raise ShapeError(f"{len(reconstructions)} reconstructions for {n} originals")
    return mean_over_samples(picture_correlations(originals, reconstructions).reshape(n, n, -1))
