"""A decoder follows its neuroids to a new day, by a few stimuli of that day."""

from __future__ import annotations

import numpy as np

from encoders import Features
from recordings import Recording, stimulus_folds
from recordings.events import OnEvent, Stop, report

from .columns import Matrix, column_blocks, empty_matrix, read_targets
from .drift import ResponseMoments, Shift, measure_shift
from .latent_map import LatentMap
from .similarity import correlations

# Penalties of a change of the weights, for each standardised neuroid.
_PENALTIES = np.logspace(-2, 3, 11)


def recalibrate(
    fitted: LatentMap,
    moments: ResponseMoments,
    recording: Recording,
    features: Features,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> LatentMap:
    """The map, adapted to the neuroids' new gain and offset, and then its weights to the new stimuli.

    1. Gain and offset of each neuroid are estimated anew and shrunk towards no change, the more the less neuroids have
       changed beyond what so few stimuli would show by chance (empirical Bayes; Efron & Morris 1975).
    2. The weights are moved by ridge regression of the residuals, which is ridge with the old weights in place of 0
       (hypothesis transfer learning; Kuzborskij & Orabona 2013). The penalty, one for all features, is the best of
       leave-one-stimulus-out; if none beats no change, weights stay.

    Parameters
    ----------
    moments : of the responses that `fitted` was fitted on.
    recording : a few presentations of the new day, of the neuroids (s,) that the map reads. Stimuli should be drawn as
        those of the training were: what they share looks like an offset.

    Raises
    ------
    RepetitionError : fewer than five stimuli. MismatchedIdsError : a stimulus without features.
    NotFiniteError : NaN or infinity on either side.
    """
    recording.check_finite()
    moved = follow_shift(fitted, measure_shift(moments, ResponseMoments.of(recording)), moments)
    values, targets = _averages(recording, features, on_event, stop)
    return move_weights(moved, values, targets)


def compare(
    fitted: LatentMap,
    moments: ResponseMoments,
    recording: Recording,
    features: Features,
    folds: int = 5,
    *,
    mean: np.ndarray,
    scale: np.ndarray,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> tuple[float, float]:
    """Decoding r of the stimuli of a new day, by the map as it is and recalibrated; see `recalibrate`.

    r is the correlation across features of decoded with true features, both standardised as in the training, as
    identification compares them; it falls with an offset that all stimuli share. Its mean over stimuli is given. Each
    stimulus is decoded after recalibration on the other folds.

    Parameters
    ----------
    mean, scale : (feature,) of the training stimuli.
    """
    scores: list[np.ndarray] = []
    for number, split in enumerate(stimulus_folds(recording, folds, seed)):
        report(on_event, stop, "compare", number, folds)
        train, held_out = split.apply(recording)
        moved = recalibrate(fitted, moments, train, features, stop=stop)
        values, targets = _averages(held_out, features, None, stop)
        truth = targets[:, :]
        similarity = [correlations(m.predict(values), truth, mean=mean, scale=scale) for m in (fitted, moved)]
        scores.append(np.stack([s.diagonal() for s in similarity]))
    before, after = np.concatenate(scores, 1).mean(1)
    return float(before), float(after)


def _averages(
    recording: Recording, features: Features, on_event: OnEvent | None, stop: Stop | None
) -> tuple[np.ndarray, Matrix]:
    """Responses averaged over repetitions, (n, s), and targets in the same order."""
    repeated = len(set(recording.stimulus_ids)) < len(recording)
    average = recording.average_repetitions() if repeated else recording
    targets, ids = read_targets(features, average.stimulus_ids.astype(str).tolist(), on_event, stop)
    return average.values[np.argsort(average.match(ids))], targets


def follow_shift(fitted: LatentMap, shift: Shift, moments: ResponseMoments) -> LatentMap:
    """The map with the mean and scale that its neuroids have after a shift from the day of `moments`."""
    offset = _shrink(shift.offset, shift.offset_variance)
    gain = np.exp(_shrink(shift.log_gain, shift.log_gain_variance))
    spread, n = np.sqrt(moments.variance), moments.counts[0]
    return fitted._replace(
        mean=(moments.mean + offset * spread).astype(np.float32),
        scale=(gain * spread * np.sqrt((n - 1) / n)).astype(np.float32),
    )


def _shrink(estimate: np.ndarray, variance: np.ndarray) -> np.ndarray:
    # Variance between neuroids beyond the sampling variance, by moments.
    between = max(float((estimate**2 - variance).mean()), 0.0)
    return estimate * between / (between + variance)


def move_weights(fitted: LatentMap, values: np.ndarray, targets: Matrix) -> LatentMap:
    """The map with weights and intercept moved towards the residuals of a few stimuli.

    Parameters
    ----------
    values : (n, s), responses. targets : (n, feature), a row a response.
    """
    design = np.column_stack([fitted.standardise(values), np.ones(len(values))]).astype(np.float64)
    residuals = _residuals(fitted, values, targets)
    eigenvalues, vectors = np.linalg.eigh(design @ design.T)
    penalties = _PENALTIES * design.shape[1]
    smoothers = [(vectors / (eigenvalues + penalty)) @ vectors.T for penalty in penalties]
    errors = np.zeros(len(penalties) + 1)
    for columns in column_blocks(residuals):
        block = residuals[:, columns]
        # Leave one out: e_i = (K + penalty I)^-1 r / diagonal (Allen 1974).
        errors[:-1] += [(((s @ block) / s.diagonal()[:, None]) ** 2).sum() for s in smoothers]
        errors[-1] += (block**2).sum()
    best = int(errors.argmin())
    if best == len(penalties):
        return fitted
    weights, intercept = fitted.weights.copy(), fitted.intercept.copy()
    for columns in column_blocks(residuals):
        change = design.T @ (smoothers[best] @ residuals[:, columns])
        weights[:, columns] += change[:-1].astype(np.float32)
        intercept[columns] += change[-1].astype(np.float32)
    return fitted._replace(weights=weights, intercept=intercept)


def _residuals(fitted: LatentMap, values: np.ndarray, targets: Matrix) -> Matrix:
    """Of the features, (n, feature), or with components of their scores, (n, k)."""
    if fitted.components is None:
        residuals = empty_matrix(*targets.shape)
        for columns in column_blocks(targets):
            residuals[:, columns] = targets[:, columns] - fitted.predict(values, columns)
        return residuals
    scores = np.zeros((len(values), len(fitted.intercept)), np.float32)
    for columns in column_blocks(targets):
        scores += (targets[:, columns] - fitted.components.mean[columns]) @ fitted.components.basis[:, columns].T
    return scores - (fitted.standardise(values) @ fitted.weights + fitted.intercept)
