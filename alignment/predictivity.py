"""Predictivity: how well a model's features predict responses to stimuli that the map has not seen."""

from __future__ import annotations

import numpy as np

from encoders import Features
from encoders.linear import LinearEncoder
from encoders.ridge import RidgeEncoder
from recordings import Recording, Score, noise_ceiling, score_predictions, stimulus_folds
from recordings.errors import RepetitionError
from recordings.events import OnEvent, Stop, report


def predictivity(
    features: Features,
    recording: Recording,
    encoder: LinearEncoder | None = None,
    *,
    folds: int = 5,
    ceiling: np.ndarray | None = None,
    metric: str = "r",
    n_bootstrap: int = 200,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Score:
    """Predict each stimulus by an encoder that was fitted on the other folds' stimuli, and score all predictions.

    Parameters
    ----------
    features : of at least the stimuli that the recording shows.
    recording : (presentation, neuroid); repetitions are averaged after the ceiling was taken from them.
    encoder : fitted anew for each fold; by default `RidgeEncoder`.
    folds, seed : cross-validation folds by stimulus.
    ceiling : (neuroid,) fraction of variance; by default the recording's coordinate ``noise_ceiling``, else
        from the repetitions, else none.
    metric : "r" or "r2", of predictions and responses over all stimuli. n_bootstrap : resamples of stimuli.

    Returns
    -------
    Score : its `center` is the mean noise-normalised score over neuroids.

    Raises
    ------
    MismatchedIdsError : a stimulus without features. RepetitionError : fewer stimuli than folds.
    """
    if ceiling is None:
        ceiling = _ceiling(recording)
    repeated = len(set(recording.stimulus_ids)) < len(recording)
    average = recording.average_repetitions() if repeated else recording
    features = features.select([str(i) for i in average.stimulus_ids])
    encoder = RidgeEncoder() if encoder is None else encoder
    predicted = np.empty((len(average), average.n_neuroids), np.float32)
    splits, mean = stimulus_folds(average, folds, seed), average.values.mean(0)
    for number, split in enumerate(splits):
        report(on_event, stop, "predictivity", number, len(splits))
        train, test = split.apply(average)
        encoder.fit(features, train, stop=stop)
        # What a fold leaves out is low where the mean of the rest is high: predictions that carry these means would
        # correlate negatively with responses. The mean of all stands in for them.
        offset = mean - train.values.mean(0)
        predicted[split.test] = encoder.predict(features, [str(i) for i in test.stimulus_ids]) + offset
    report(on_event, None, "predictivity", len(splits), len(splits))
    provenance = {
        "features": features.fingerprint(),
        "encoder": type(encoder).__name__,
        "folds": folds,
        "seed": seed,
        "n_stimuli": len(average),
    }
    return score_predictions(
        predicted,
        average,
        ceiling=ceiling,
        metric=metric,
        n_bootstrap=n_bootstrap,
        seed=seed,
        provenance=provenance,
    )


def _ceiling(recording: Recording) -> np.ndarray | None:
    # A ceiling that came with the recording rests on all its data; score_predictions takes it by itself.
    if "noise_ceiling" in recording.neuroids:
        return None
    try:
        return noise_ceiling(recording)
    except RepetitionError:
        return None
