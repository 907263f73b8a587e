"""How well fitted encoders predict responses that they have not seen: by region, beside a null and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoders import Encoder, Features, RidgeEncoder
from encoders.linear import LinearEncoder
from encoders.responses import run_labels, without_nuisance
from recordings import Recording, Score, noise_ceiling, score_predictions
from recordings.errors import RepetitionError
from recordings.events import OnEvent, Stop
from recordings.score import shuffled_score
from recordings.storage import atomic_path

from .encoding import fit_encoder, nuisance_of, select_features, solver_device


def score_encoder(
    encoder: Encoder,
    features: Mapping[str, Features],
    test: Recording,
    *,
    ceiling: np.ndarray | None = None,
    metric: str = "r",
    nuisance: Sequence[str] = (),
    shuffles: int = 100,
    values: Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score on held-out responses, its interval, the mean ceiling, the same by region, and that of shuffled stimuli.

    Rows of a time series depend on each other, so that an encoder with delays gets no null.

    Parameters
    ----------
    features : of which the encoder takes those that it was fitted on.
    values : file (.npz) for the array ``normalised``, float32 (neuroid,), the score over its ceiling.

    Returns
    -------
    JSON values: center, low, high, ceiling, ...; by region ``roi``, its center, ``roi_interval``, [low, high],
    ``roi_n``, neuroids that count, and ``roi_ceiling``; shuffled and p_value, with shuffles.

    Raises
    ------
    LeakageError : a stimulus of `test` was in the fit. ArtifactError : other neuroids or features than in the fit.
    """
    observed = encoder.held_out(test, nuisance_of(test, nuisance))
    runs = run_labels(observed) if encoder.delays else None
    predicted = encoder.predict(select_features(encoder, features), list(map(str, observed.stimulus_ids)), runs=runs)
    provenance = {"encoder": type(encoder).__name__, "bands": encoder._sources(), "seed": seed}
    how: dict[str, Any] = {"metric": metric, "seed": seed, "provenance": provenance}
    score = score_predictions(predicted, observed, ceiling=ceiling, **how)
    answer = score.to_dict() | _mean_ceiling(score)
    if "roi" in score.neuroids:
        answer |= _by_region(predicted, observed, score, seed)
    if values is not None:
        write_scores(values, score.normalised)
    if shuffles and not encoder.delays:
        null = shuffled_score(score, predicted, observed, n=shuffles, seed=seed)
        answer |= {
            "shuffled": null.mean,
            "shuffled_standard_error": null.standard_error,
            "p_value": null.p_value,
            "n_shuffles": shuffles,
        }
    return answer


def write_scores(path: Path, normalised: np.ndarray) -> None:
    """Write scores over their ceiling, (neuroid,), as the array ``normalised`` of an .npz file."""
    with atomic_path(path, overwrite=True) as part, part.open("wb") as file:
        np.savez(file, normalised=normalised.astype(np.float32))


def _by_region(predicted: np.ndarray, observed: Recording, whole: Score, seed: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"roi_interval": {}, "roi_n": {}, "roi_ceiling": {}}
    for name in observed.rois:
        mask = observed.roi_mask(name)
        ceiling = None if whole.ceiling is None else whole.ceiling[mask]
        part = observed.roi(name)
        score = score_predictions(predicted[:, mask], part, ceiling=ceiling, metric=whole.metric, seed=seed)
        found["roi_interval"][name] = list(score.interval or ())
        found["roi_n"][name] = int(score.mask.sum())
        if ceiling is not None:
            found["roi_ceiling"][name] = _mean_ceiling(score)["ceiling"]
    return {key: values for key, values in found.items() if values}


def score_against_baselines(
    encoder: Encoder,
    baselines: Mapping[str, Features],
    train: Recording,
    test: Recording,
    *,
    ceiling: np.ndarray | None = None,
    metric: str = "r",
    nuisance: Sequence[str] = (),
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """The score of ridge on each baseline's features: same stimuli and nuisance as the encoder, fitted anew.

    Penalties are those of the encoder where it is ridge itself.
    """
    answers = {}
    for name, features in baselines.items():
        like = encoder if isinstance(encoder, LinearEncoder) else RidgeEncoder(device=solver_device("auto"))
        other = RidgeEncoder(like.alphas, like.cv, delays=encoder.delays, device=like.device)
        watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        fit_encoder(other, {"": features}, train, nuisance=nuisance, keep_constant=True, **watched)
        answers[name] = score_encoder(
            other, {"": features}, test, ceiling=ceiling, metric=metric, nuisance=nuisance, shuffles=0, seed=seed
        )
    kept = ("center", "low", "high", "roi")
    return {name: {key: answer[key] for key in kept if key in answer} for name, answer in answers.items()}


def split_by_fit(encoder: Encoder | Sequence[Encoder], recording: Recording) -> tuple[Recording, Recording]:
    """The presentations of stimuli that an encoder, or any of several, was fitted on, and of those never seen.

    Raises
    ------
    RepetitionError : every stimulus has been seen.
    """
    encoders = [encoder] if isinstance(encoder, Encoder) else encoder
    known = {i for fitted in encoders for i in fitted.stimulus_ids_}
    seen = np.isin(recording.stimulus_ids.astype(str), list(known))
    if seen.all():
        raise RepetitionError(
            "the model was fitted on every stimulus of the recording; nothing is held out to score it on",
            remedy="Fit with --split, or give a recording of other stimuli",
        )
    return recording.take(np.flatnonzero(seen)), recording.take(np.flatnonzero(~seen))


def ceiling_of(
    encoder: Encoder, recording: Recording, test: Recording, nuisance: Sequence[str] = ()
) -> np.ndarray | None:
    """Noise ceiling (neuroid,) of the responses to `test` that an encoder is scored on, from all of a recording.

    These are means over repetitions, or single rows if there are delays. What nuisance regressors explain is no noise:
    it is taken off, as it is off the scored responses. The coordinate ``noise_ceiling`` is taken if there is one; None
    where stimuli were shown only once.
    """
    if "noise_ceiling" in recording.neuroids:
        return recording.neuroid("noise_ceiling").astype(np.float32)
    counts = np.unique(test.stimulus_ids.astype(str), return_counts=True)[1]
    n_average = 1 if encoder.delays else round(1 / np.mean(1 / counts))
    regressors = nuisance_of(recording, nuisance)
    clean = without_nuisance(recording, regressors, encoder.nuisance_mean_, encoder.nuisance_coef_)
    try:
        return noise_ceiling(clean, n_average=n_average)
    except RepetitionError:
        return None


def _mean_ceiling(score: Score) -> dict[str, Any]:
    if score.ceiling is None:
        return {}
    kept = score.ceiling[score.mask]
    return {"ceiling": float(kept.mean()) if len(kept) else float("nan")}
