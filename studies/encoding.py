"""Encoding models as a question: make one by name, fit it on a training part, score it on what it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders import Features
from encoders.banded import BandedRidgeEncoder
from encoders.linear import LinearEncoder
from encoders.responses import without_nuisance
from encoders.ridge import RidgeEncoder
from recordings import Recording, Score, Space, noise_ceiling, write_recording
from recordings.artifacts import read_config
from recordings.errors import ArtifactError, InputError, RepetitionError, UnknownNameError
from recordings.events import OnEvent, Stop, report
from recordings.score import shuffled_score

MODELS: dict[str, Callable[..., LinearEncoder]] = {
    "ridge": RidgeEncoder,
    "kernel_ridge": lambda **options: RidgeEncoder(solver="kernel", **options),
    "banded_ridge": BandedRidgeEncoder,
}
IN_MEMORY_BYTES = 1e9
ROWS = 512


def make_encoder(
    model: str,
    *,
    alphas: Sequence[float] = (),
    folds: int = 5,
    delays: Sequence[int] = (),
    device: str = "auto",
    seed: int = 0,
) -> LinearEncoder:
    """An encoder that is not fitted yet: "ridge", "kernel_ridge" or "banded_ridge"; empty options take its defaults.

    Raises
    ------
    UnknownNameError : no such model.
    """
    if model not in MODELS:
        raise UnknownNameError(f"no encoding model {model!r}", remedy=f"There are: {', '.join(MODELS)}")
    options: dict[str, Any] = {"cv": folds, "device": solver_device(device)}
    if alphas:
        options["alphas"] = tuple(alphas)
    if delays:
        options["delays"] = tuple(delays)
    if model == "banded_ridge":
        options["seed"] = seed
    return MODELS[model](**options)


def solver_device(device: str) -> str:
    """The torch device for "auto": a CUDA GPU if there is one; Apple's lack the float64 that solvers need."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_encoder(path: Path) -> LinearEncoder:
    """A fitted encoder of any kind; `ArtifactError` if there is none at `path`."""
    kinds: dict[str, type[LinearEncoder]] = {c.__name__: c for c in (RidgeEncoder, BandedRidgeEncoder)}
    kind = read_config(path).get("kind")
    if kind not in kinds:
        raise ArtifactError(
            f"holds a {kind}, not an encoder", where=path, remedy="Give what `penfield encode fit` wrote"
        )
    return kinds[kind].from_pretrained(str(path))


def fit_encoder(
    encoder: LinearEncoder,
    features: Mapping[str, Features],
    train: Recording,
    *,
    nuisance: Sequence[str] = (),
    keep_constant: bool = False,
    scratch: Path | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> LinearEncoder:
    """Fit on the training part; repetitions are averaged first unless rows are moments of a time series.

    Parameters
    ----------
    features : by band name. nuisance : presentation coordinates (motion, drift, ...) to fit without penalty.
    keep_constant : predict the mean of neuroids that do not vary, instead of refusing them.
    scratch : folder for the average of a recording that does not fit in memory.

    Raises
    ------
    ConstantUnitError : a neuroid does not vary over the training part, and `keep_constant` is False.
    """
    if not keep_constant:
        train.check_varies()
    if not encoder.delays and not nuisance:
        large = scratch is not None and 4 * len(train) * train.n_neuroids > IN_MEMORY_BYTES
        path = scratch / "average.zarr" if large and scratch else None
        train = train.average_repetitions(path, on_event=on_event, stop=stop)
    regressors = nuisance_of(train, nuisance)
    return encoder.fit(unnamed(features), train, nuisance=regressors, on_event=on_event, stop=stop)


def score_encoder(
    encoder: LinearEncoder,
    features: Mapping[str, Features],
    test: Recording,
    *,
    ceiling: np.ndarray | None = None,
    metric: str = "r",
    nuisance: Sequence[str] = (),
    shuffles: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Score on held-out responses by region, its interval, the mean ceiling, and the score of shuffled stimuli.

    Rows of a time series depend on each other, so that an encoder with delays gets no null.

    Raises
    ------
    LeakageError : a stimulus of `test` was in the fit. ArtifactError : other neuroids or features than in the fit.
    """
    given = unnamed(features)
    regressors = nuisance_of(test, nuisance)
    score = encoder.score(given, test, ceiling=ceiling, metric=metric, nuisance=regressors, seed=seed)
    answer = score.to_dict() | _mean_ceiling(score)
    if shuffles and not encoder.delays:
        average = encoder.held_out(test, regressors)
        predicted = encoder.predict(given, [str(i) for i in average.stimulus_ids])
        null = shuffled_score(score, predicted, average, n=shuffles, seed=seed)
        answer |= {
            "shuffled": null.mean,
            "shuffled_standard_error": null.standard_error,
            "p_value": null.p_value,
            "n_shuffles": shuffles,
        }
    return answer


def score_against_baselines(
    encoder: LinearEncoder,
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
    """The score of ridge on each baseline's features: same stimuli and nuisance as the encoder, fitted anew."""
    answers = {}
    for name, features in baselines.items():
        other = RidgeEncoder(
            alphas=encoder.alphas, cv=encoder.cv, solver="auto", delays=encoder.delays, device=encoder.device
        )
        watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        fit_encoder(other, {"": features}, train, nuisance=nuisance, keep_constant=True, **watched)
        answers[name] = score_encoder(
            other, {"": features}, test, ceiling=ceiling, metric=metric, nuisance=nuisance, shuffles=0, seed=seed
        )
    kept = ("center", "low", "high", "roi")
    return {name: {key: answer[key] for key in kept if key in answer} for name, answer in answers.items()}


def split_by_fit(encoder: LinearEncoder, recording: Recording) -> tuple[Recording, Recording]:
    """The presentations of stimuli that an encoder was fitted on, and those of stimuli it has never seen.

    Raises
    ------
    RepetitionError : the encoder has seen every stimulus.
    """
    seen = np.isin(recording.stimulus_ids.astype(str), list(encoder.stimulus_ids_))
    if seen.all():
        raise RepetitionError(
            "the model was fitted on every stimulus of the recording; nothing is held out to score it on",
            remedy="Fit with --split, or give a recording of other stimuli",
        )
    return recording.take(np.flatnonzero(seen)), recording.take(np.flatnonzero(~seen))


def ceiling_of(
    encoder: LinearEncoder, recording: Recording, test: Recording, nuisance: Sequence[str] = ()
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


def nuisance_of(recording: Recording, names: Sequence[str]) -> np.ndarray | None:
    """Presentation coordinates as regressors, (presentation, q) float64; None for no names.

    Raises
    ------
    UnknownNameError : no such coordinate. InputError : it holds no numbers.
    """
    if not names:
        return None
    try:
        return np.column_stack([recording.presentation(name).astype(np.float64) for name in names])
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"nuisance {', '.join(names)}: not numbers ({error})", where="recording") from error


def unnamed(features: Mapping[str, Features]) -> Features | Mapping[str, Features]:
    """A single feature space as such, several as bands, which is how encoders tell them apart."""
    return next(iter(features.values())) if len(features) == 1 else features


def _mean_ceiling(score: Score) -> dict[str, Any]:
    if score.ceiling is None:
        return {}
    kept = score.ceiling[score.mask]
    return {"ceiling": float(kept.mean()) if len(kept) else float("nan")}


def predict_recording(
    encoder: LinearEncoder,
    features: Mapping[str, Features],
    out: Path,
    *,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Recording:
    """Predicted responses to all stimuli of (the first) features, written block by block as a recording."""
    given, ids = unnamed(features), [str(i) for i in next(iter(features.values())).stimulus_ids]
    fitted = encoder.recording_

    def blocks() -> Iterator[np.ndarray]:
        # Delayed features reach back over rows, so that a time series is one block.
        size = len(ids) if encoder.delays else ROWS
        for start in range(0, len(ids), size):
            report(on_event, stop, "predict", start, len(ids))
            yield encoder.predict(given, ids[start : start + size])

    return write_recording(
        out,
        blocks(),
        {"stimulus_id": ids},
        {"neuroid_id": fitted["neuroid_ids"]},
        space=Space.from_dict(fitted["space"]),
        attrs={"predicted_by": type(encoder).__name__, "features": next(iter(features.values())).attrs.get("uri", "")},
        overwrite=overwrite,
    )
