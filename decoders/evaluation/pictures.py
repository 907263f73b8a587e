"""`evaluate_pictures`: every score of reconstructions at once, with intervals, nulls and guards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from recordings.errors import (
    DuplicateIdError,
    InputError,
    LeakageError,
    MismatchedIdsError,
    MissingWeightsError,
    RepetitionError,
    ShapeError,
    UnknownNameError,
)
from recordings.events import OnEvent, Stop

from .attributes import Attributes, Reader, agreement, read_attributes
from .captions import Embed, References, evaluate_captions
from .comparison import network_measures, pixel_measures
from .features import PictureFeatures, picture_correlations
from .guards import effective_dimension, nearest_training_pictures
from .measures import Measure, Resampling, difference
from .networks import Networks, load_network, named_networks
from .pixels import check_pairs
from .pool_retrieval import cosine_similarities, retrieval


@dataclass(frozen=True)
class PictureEvaluation:
    """Scores of reconstructed pictures by name; see `evaluate_pictures` for the names.

    Attributes
    ----------
    stimulus_ids : (n,). n_samples : reconstructions of each.
    measures : name to `Measure`.
    dimensions : "<network>.shown", "<network>.reconstructed" to effective dimension, see `effective_dimension`.
    not_computed : what was asked for and could not be computed, and why.
    resampling : of nulls and intervals.
    """

    stimulus_ids: np.ndarray
    n_samples: int
    measures: dict[str, Measure]
    dimensions: dict[str, float] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    resampling: Resampling = field(default_factory=Resampling)

    def __getitem__(self, name: str) -> Measure:
        if name not in self.measures:
            reason = self.not_computed.get(name)
            raise UnknownNameError(
                f"no score {name!r}" + (f": {reason}" if reason else ""),
                remedy=f"There are: {', '.join(self.measures)}",
            )
        return self.measures[name]

    def difference(self, other: PictureEvaluation, name: str) -> Measure:
        """A score here less that of other reconstructions of the same stimuli, paired, with its interval.

        Raises
        ------
        MismatchedIdsError : other stimuli or another order. ShapeError : a score without a value for each picture.
        """
        if list(self.stimulus_ids) != list(other.stimulus_ids):
            raise MismatchedIdsError(
                "the evaluations are of other stimuli", remedy="Reconstruct the same ones in order"
            )
        return difference(self[name], other[name], self.resampling)

    def to_frame(self) -> pd.DataFrame:
        """Values for each picture: one row a stimulus, one column a score that has them."""
        values = {name: m.values for name, m in self.measures.items() if m.values is not None}
        return pd.DataFrame(values, index=pd.Index(self.stimulus_ids, name="stimulus_id"))

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values."""
        return {
            "n_pictures": len(self.stimulus_ids),
            "n_samples": self.n_samples,
            "n_permutations": self.resampling.n_permutations,
            "seed": self.resampling.seed,
            "metrics": {name: measure.to_dict() for name, measure in self.measures.items()},
            "effective_dimension": {name: value for name, value in self.dimensions.items() if np.isfinite(value)},
            "not_computed": dict(self.not_computed),
        }


def evaluate_pictures(
    reconstructed: np.ndarray,
    shown: np.ndarray,
    *,
    stimulus_ids: Sequence[str],
    networks: Networks = None,
    categories: Sequence[str] | None = None,
    training_pictures: np.ndarray | None = None,
    nearest_training: Sequence[int] | None = None,
    embeddings: tuple[np.ndarray, np.ndarray] | None = None,
    pool: int = 300,
    captions: tuple[Sequence[str], References] | None = None,
    text_networks: Mapping[str, str | Embed] | None = None,
    reader: Reader | None = None,
    attributes: Attributes | None = None,
    n_permutations: int = 200,
    n_bootstrap: int = 1000,
    batch_size: int = 32,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> PictureEvaluation:
    """Score reconstructions against the pictures that were shown.

    Several samples of a brain are compared each, and their similarities averaged (Takagi & Nishimoto 2023). Names:

    - ``pixcorr``, ``ssim``: see `pix_corr` and `ssim`.
    - ``two_way.<network>.reconstruction_fixed`` and ``.original_fixed``: see `two_way`; with categories also
      ``.within_category`` and ``.across_category`` behind them. ``distance.<network>``: 1 - r (EffNet-B, SwAV).
    - ``nearest_training.<name>``: what the nearest training pictures reach in these; ``over_nearest_training.<name>``:
      by how much the reconstructions are above them, paired (for ``distance`` below 0 is better).
    - ``retrieval.image``, ``retrieval.brain``: see `retrieval`.
    - ``caption.<name>``: see `evaluate_captions`. ``attributes.<name>``: see `agreement`; ``attributes.shown.<name>``
      is what the reader reaches on the pictures that were shown.

    Parameters
    ----------
    reconstructed : uint8 (n, H, W, 3) or (n, sample, H, W, 3). shown : uint8 (n, H, W, 3); sizes may differ.
    stimulus_ids : (n,) unique. categories : (n,) names.
    networks : see `named_networks`; by default the miniature backbone, whose scores no other network's can be compared
        with. One whose weights are absent is noted in `not_computed`; nothing is computed from random weights.
    training_pictures : uint8 (m, H, W, 3) that the decoder was fitted on. nearest_training : (n,) rows of them, nearest
        in decoded features (`nearest_training_rows`); without it, nearest to the first sample by the first network.
    embeddings : decoded from brains (n, ...) and of the pictures shown (n, ...), for retrieval among `pool` pictures,
        or among all if they are fewer.
    captions : decoded (n,), and true: (n,) or lists of them. text_networks : see `caption_cosine`.
    reader, attributes : an independent classifier, and the true attributes of the stimuli.
    n_permutations, n_bootstrap, seed : of the nulls and the intervals over pictures; 0 leaves them out.
    batch_size, device : of the networks.

    Raises
    ------
    ShapeError : pictures of another shape or dtype, or numbers that do not match. DuplicateIdError : a repeated id.
    RepetitionError : fewer than two pictures. LeakageError : a picture shown is among the training pictures.
    InputError : a reader without attributes, or the reverse.
    """
    reconstructed = _check(reconstructed, shown, stimulus_ids, categories)
    if training_pictures is not None:
        _check_leakage(training_pictures, shown, stimulus_ids)
    if (reader is None) != (attributes is None):
        raise InputError("a reader and the true attributes go together", remedy="Give both, or neither")
    resampling = Resampling(n_permutations, n_bootstrap, seed)
    result = PictureEvaluation(
        np.array([str(i) for i in stimulus_ids], object), reconstructed.shape[1], {}, resampling=resampling
    )
    baseline = None if nearest_training is None else _take(training_pictures, nearest_training, len(shown))
    features = partial(PictureFeatures, batch_size=batch_size, on_event=on_event, stop=stop)
    reference: dict[str, Measure] = {}
    for name, network in named_networks(networks).items():
        try:
            function = load_network(network, device)
        except MissingWeightsError as error:
            result.not_computed[name] = str(error)
            continue
        originals, copies = features(shown, function), features(_flat(reconstructed), function)
        first = copies if result.n_samples == 1 else features(reconstructed[:, 0], function)
        if training_pictures is not None and baseline is None:
            baseline = training_pictures[nearest_training_pictures(first, features(training_pictures, function))]
        result.measures.update(network_measures(name, originals, copies, categories, resampling))
        result.dimensions.update(_dimensions(name, originals, first))
        if baseline is not None:
            reference |= network_measures(name, originals, features(baseline, function), categories, resampling)
    result.measures.update(pixel_measures(reconstructed, shown, resampling, on_event, stop))
    if baseline is not None:
        reference |= pixel_measures(baseline[:, None], shown, resampling, on_event, stop)
        result.measures.update(_guarded(result.measures, reference, resampling))
    elif training_pictures is not None:
        result.not_computed["nearest_training"] = "no network to find the nearest training pictures by"
    if embeddings is not None:
        result.measures.update(_retrieval(embeddings, min(pool, len(shown)), len(shown), resampling))
    if captions is not None:
        scores, missing = evaluate_captions(*captions, text_networks, device=device, resampling=resampling)
        result.measures.update({f"caption.{name}": measure for name, measure in scores.items()})
        result.not_computed.update({f"caption.{name}": reason for name, reason in missing.items()})
    if reader is not None and attributes is not None:
        result.measures.update(_attributes(reader, attributes, reconstructed, shown, batch_size, resampling))
    return result


def _dimensions(name: str, originals: PictureFeatures, reconstructions: PictureFeatures) -> dict[str, float]:
    sides = {"shown": originals, "reconstructed": reconstructions}
    return {f"{name}.{side}": effective_dimension(picture_correlations(own, own)) for side, own in sides.items()}


def _guarded(measures: dict[str, Measure], reference: dict[str, Measure], resampling: Resampling) -> dict[str, Measure]:
    gain = {f"over_nearest_training.{k}": difference(measures[k], other, resampling) for k, other in reference.items()}
    return {f"nearest_training.{name}": measure for name, measure in reference.items()} | gain


def _attributes(
    reader: Reader,
    truth: Attributes,
    reconstructed: np.ndarray,
    shown: np.ndarray,
    batch_size: int,
    resampling: Resampling,
) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for prefix, pictures in (("attributes.", _flat(reconstructed)), ("attributes.shown.", shown)):
        read = read_attributes(reader, pictures, batch_size)
        scores = agreement(read, truth, len(pictures) // len(shown), resampling=resampling)
        found |= {prefix + name: measure for name, measure in scores.items()}
    return found


def _check(
    reconstructed: np.ndarray, shown: np.ndarray, stimulus_ids: Sequence[str], categories: Sequence[str] | None
) -> np.ndarray:
    if reconstructed.ndim == 4:
        reconstructed = reconstructed[:, None]
    if reconstructed.ndim != 5 or not reconstructed.shape[1]:
        raise ShapeError(
            f"reconstructions of shape {reconstructed.shape}",
            remedy="Give uint8 (n, height, width, 3), or (n, sample, height, width, 3)",
        )
    check_pairs(reconstructed[:, 0], shown)
    if len(shown) < 2:
        raise RepetitionError(f"{len(shown)} picture; identification needs at least two")
    for what, given in (("stimulus ids", stimulus_ids), ("categories", categories)):
        if given is not None and len(given) != len(shown):
            raise ShapeError(f"{len(given)} {what} for {len(shown)} pictures")
    twice = pd.Index([str(i) for i in stimulus_ids]).duplicated()
    if twice.any():
        raise DuplicateIdError(
            f"stimulus id {stimulus_ids[int(twice.argmax())]!r} occurs twice",
            remedy="Average the repetitions of a stimulus, or give its reconstructions as samples",
        )
    return reconstructed


def _check_leakage(training_pictures: np.ndarray, shown: np.ndarray, stimulus_ids: Sequence[str]) -> None:
    tested = {sha256(picture.tobytes()).digest(): name for picture, name in zip(shown, stimulus_ids, strict=True)}
    for row in range(len(training_pictures) if training_pictures.shape[1:] == shown.shape[1:] else 0):
        name = tested.get(sha256(np.ascontiguousarray(training_pictures[row]).tobytes()).digest())
        if name is not None:
            raise LeakageError(
                f"training picture {row} is the picture of stimulus {name!r}, on which the decoder is tested",
                remedy="Leave it out of the training, and fit again",
            )


def _flat(reconstructed: np.ndarray) -> np.ndarray:
    return reconstructed.reshape(-1, *reconstructed.shape[2:])


def _take(training_pictures: np.ndarray | None, rows: Sequence[int], n: int) -> np.ndarray:
    if training_pictures is None:
        raise InputError("rows of the nearest training pictures without the pictures", remedy="Give training_pictures")
    positions = np.asarray(rows, int)
    if positions.shape != (n,) or positions.min() < 0 or positions.max() >= len(training_pictures):
        raise ShapeError(
            f"{len(positions)} rows of training pictures, {positions.min(initial=0)} to {positions.max(initial=0)}",
            where="nearest_training",
            remedy=f"Give a row below {len(training_pictures)} for each of {n} pictures",
        )
    return training_pictures[positions]


def _retrieval(
    embeddings: tuple[np.ndarray, np.ndarray], pool: int, n: int, resampling: Resampling
) -> dict[str, Measure]:
    if any(len(side) != n for side in embeddings):
        raise ShapeError(f"{len(embeddings[0])} decoded and {len(embeddings[1])} true embeddings for {n} pictures")
    found = retrieval(cosine_similarities(*embeddings), pool=pool, resampling=resampling)
    return {f"retrieval.{name}": measure for name, measure in found.items()}
