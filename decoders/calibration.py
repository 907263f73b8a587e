"""Training stimuli decoded by fits that have not seen them: what spread, confidence and accuracy are learnt from."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from encoders.solvers import AlphaEdgeWarning, ConstantTargetWarning
from recordings import Recording, stimulus_folds
from recordings.errors import ConstantUnitError
from recordings.events import OnEvent, Stop, report

from .columns import Matrix, Rows, column_blocks, empty_matrix, moments
from .confidence import fit_temperature
from .latent_map import LatentMap, Targets


class OutOfFold(NamedTuple):
    """Stimuli decoded out of fold.

    Attributes
    ----------
    decoded : (n, feature), a row a stimulus, fold after fold.
    rows : (n,) row of each in the targets.
    folds : rows of `decoded` that each fold holds.
    training : mean and scale (feature,) of the targets that each fold was fitted on.
    """

    decoded: Matrix
    rows: np.ndarray
    folds: list[slice]
    training: list[tuple[np.ndarray, np.ndarray]]


def decode_out_of_fold(
    fit: Callable[[Recording], LatentMap],
    recording: Recording,
    targets: Targets,
    n_folds: int,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> OutOfFold:
    """Decode every stimulus, averaged over its repetitions, by a map fitted on the other folds.

    Parameters
    ----------
    fit : from training presentations to a map; neuroids are selected anew in it.

    Raises
    ------
    RepetitionError : fewer stimuli than folds.
    """
    decoded, found, parts, training = empty_matrix(*targets.values.shape), [], [], []
    start = 0
    splits = stimulus_folds(recording, n_folds, seed)
    for number, split in enumerate(splits):
        report(on_event, stop, "calibrate", number, len(splits))
        train, held_out = split.apply(recording)
        with warnings.catch_warnings():
            # The fit on all training stimuli says so.
            warnings.simplefilter("ignore", AlphaEdgeWarning)
            warnings.simplefilter("ignore", ConstantTargetWarning)
            fitted = fit(train)
        average = held_out.take(neuroid=fitted.neuroids).average_repetitions()
        values, part = average.values, slice(start, start + len(average))
        for columns in column_blocks(targets.values):
            decoded[part, columns] = fitted.predict(values, columns)
        found.append(average.match(targets.stimulus_ids))
        training.append(moments(Rows(targets.values, np.unique(train.match(targets.stimulus_ids)))))
        parts.append(part)
        start = part.stop
    return OutOfFold(decoded, np.concatenate(found), parts, training)


class Spread(NamedTuple):
    """How predictions spread about the mean of the targets, from `measure_spread`.

    Attributes
    ----------
    r : (feature,) float32, correlation of out-of-fold predictions with the targets, 0 where either is constant.
    gain : (feature,) float32, what gives predictions the spread of the targets.
    by_fold : (fold, feature) float32, the same gain for each fold from the other folds.
    """

    r: np.ndarray
    gain: np.ndarray
    by_fold: np.ndarray


def measure_spread(out: OutOfFold, targets: Matrix) -> Spread:
    """Correlation and ratio of standard deviations, target over prediction, of each feature over training stimuli.

    Ridge predictions of a noisy brain spread about r times as much as their targets. Takagi and Nishimoto's follow-up
    (2023) and Brain-Diffuser (Ozcelik & VanRullen 2023) restore the spread from the test set, which leaks and cannot be
    done for one volume; here it comes from training stimuli decoded out of fold. A feature whose predictions do not
    correlate with it (r below 2 / sqrt(n)) keeps its gain of 1: what it would amplify is noise.
    """
    n, p = targets.shape
    r, gain = np.zeros(p, np.float32), np.ones(p, np.float32)
    by_fold = np.ones((len(out.folds), p), np.float32)
    for columns in column_blocks(targets):
        truth, decoded = targets[:, columns][out.rows].astype(np.float64), out.decoded[:, columns].astype(np.float64)
        origin = truth.mean(0)
        sums = np.stack([_sums(truth[part] - origin, decoded[part] - origin) for part in out.folds])
        sizes = np.array([part.stop - part.start for part in out.folds])
        r[columns], gain[columns] = _ratio(sums.sum(0), n)
        for fold, own in enumerate(sums):
            by_fold[fold, columns] = _ratio(sums.sum(0) - own, n - sizes[fold])[1]
    return Spread(r, gain, by_fold)


def rescale(decoded: np.ndarray, gain: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Spread predictions (row, feature) about the training mean (feature,) by `gain` (feature,); in place."""
    decoded -= mean
    decoded *= gain
    decoded += mean
    return decoded


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)])


def _ratio(sums: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y, xx, yy, xy = sums
    var_x, var_y = np.maximum(xx - x * x / n, 0), np.maximum(yy - y * y / n, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num((xy - x * y / n) / np.sqrt(var_x * var_y), posinf=0, neginf=0)
        ratio = np.sqrt(var_x / var_y)
    return r, np.where(r > 2 / np.sqrt(n), ratio, 1)


def fit_confidence(out: OutOfFold, targets: Matrix, gains: np.ndarray | None = None) -> tuple[float, float, float]:
    """Temperature of the confidence, accuracy of identification within folds, and its chance.

    Parameters
    ----------
    gains : (fold, feature), see `Spread.by_fold`; None leaves predictions as they are.

    Raises
    ------
    ConstantUnitError : a stimulus whose features, or predictions, are all alike.
    """
    similarities = [_correlations(out, targets, fold, gains) for fold in range(len(out.folds))]
    truths = [np.arange(len(s)) for s in similarities]
    hits = np.concatenate([s.argmax(1) == t for s, t in zip(similarities, truths, strict=True)])
    return fit_temperature(similarities, truths), float(hits.mean()), len(similarities) / len(hits)


def _correlations(out: OutOfFold, targets: Matrix, fold: int, gains: np.ndarray | None) -> np.ndarray:
    """As `similarity.correlations` of the fold's predictions with its targets, both streamed by columns."""
    part, (mean, scale) = out.folds[fold], out.training[fold]
    truth_rows = Rows(targets, out.rows[part])
    products: np.ndarray | float = 0.0
    sums = np.zeros((4, part.stop - part.start))
    for columns in column_blocks(targets):
        decoded, truth = np.array(out.decoded[part, columns]), truth_rows[:, columns]
        if gains is not None:
            rescale(decoded, gains[fold, columns], mean[columns])
        x, y = ((v - mean[columns]) / scale[columns] for v in (decoded, truth))
        products = products + x @ y.T.astype(np.float64)
        sums += np.stack([v.sum(1, dtype=np.float64) for v in (x, y, x * x, y * y)])
    p = targets.shape[1]
    norms = np.sqrt(np.maximum(sums[2:] - sums[:2] ** 2 / p, 0))
    if (norms <= 1e-6 * np.sqrt(sums[2:])).any():
        raise ConstantUnitError(
            "a training stimulus has the same value in all features, or is decoded so",
            remedy="Decode more than one feature, or fit with calibration_folds=0",
        )
    return (products - np.outer(sums[0], sums[1]) / p) / np.outer(norms[0], norms[1])
