"""Encoding models as a question: make one by name, fit it on a training part, predict with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoders import (
    ROUTINGS,
    BandedRidgeEncoder,
    Encoder,
    Ensemble,
    Features,
    RidgeEncoder,
    TransformerEncoder,
    make_routing,
)
from encoders.ensemble import Given
from encoders.linear import LinearEncoder
from encoders.routings import RIDGE_ROUTINGS
from recordings import Recording, Space, write_recording
from recordings.errors import ArtifactError, InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report

MODELS: dict[str, Callable[..., Encoder]] = {
    "ridge": RidgeEncoder,
    "kernel_ridge": partial(RidgeEncoder, solver="kernel"),
    "banded_ridge": BandedRidgeEncoder,
    "transformer": TransformerEncoder,
}
IN_MEMORY_BYTES = 1e9
ROWS = 512


def make_encoder(
    model: str,
    routing: str | None = None,
    *,
    alphas: Sequence[float] = (),
    folds: int | None = None,
    delays: Sequence[int] = (),
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> Encoder:
    """An encoder that is not fitted yet; empty options take its defaults.

    Parameters
    ----------
    model : "ridge", "kernel_ridge", "banded_ridge" or "transformer".
    routing : of ridge "cls", "pooled" or "flattened"; of the transformer "roi" (its default), "vertex", "spatial_roi",
        "spatial" or "gaussian"; see `encoders.make_routing`.
    alphas, folds : of ridge.
    options : of `encoders.TransformerEncoder`; None is its default.

    Raises
    ------
    UnknownNameError : no such model or routing. InputError : a routing or an option of another model.
    """
    if model not in MODELS:
        raise UnknownNameError(f"no encoding model {model!r}", remedy=f"There are: {', '.join(MODELS)}")
    network = model == "transformer"
    _check_routing(model, routing)
    given = {name: value for name, value in options.items() if value is not None}
    of_ridge = {"alphas": tuple(alphas) or None, "cv": folds}
    given |= {name: value for name, value in of_ridge.items() if value is not None}
    _check_options(model, given)
    if delays:
        given["delays"] = tuple(delays)
    if model in ("banded_ridge", "transformer"):
        given["seed"] = seed
    given["device"] = device if network else solver_device(device)
    return make_routing(routing, **given) if routing else MODELS[model](**given)


def _check_routing(model: str, routing: str | None) -> None:
    if routing is None:
        return
    if routing not in ROUTINGS:
        raise UnknownNameError(f"no routing {routing!r}", remedy=f"There are: {', '.join(ROUTINGS)}")
    own = "ridge" if routing in RIDGE_ROUTINGS else "transformer"
    if model != own:
        raise InputError(
            f"routing {routing!r} is of model {own!r}, not {model!r}", remedy=f"Give model {own!r} (--model {own})"
        )


def _check_options(model: str, given: Mapping[str, Any]) -> None:
    """Refuse an option that another model has, and that this one would leave without effect."""
    known = inspect.signature(TransformerEncoder if model == "transformer" else RidgeEncoder).parameters
    for name in given:
        if name not in known:
            shown = {"cv": "folds"}.get(name, name)
            raise InputError(
                f"model {model!r} has no option {shown!r}",
                where="encoder",
                remedy="Leave it out, or take another model",
            )


def solver_device(device: str) -> str:
    """The torch device for "auto": a CUDA GPU if there is one; Apple's lack the float64 that solvers need."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def fit_encoder(
    encoder: Encoder,
    features: Mapping[str, Features],
    train: Recording,
    *,
    nuisance: Sequence[str] = (),
    keep_constant: bool = False,
    scratch: Path | None = None,
    checkpoints: Path | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Encoder:
    """Fit on the training part; repetitions are averaged first unless rows are moments of a time series.

    Parameters
    ----------
    encoder : of ridge or transformer. features : by band name.
    nuisance : presentation coordinates (motion, drift, ...) that ridge fits without penalty.
    keep_constant : predict the mean of neuroids that do not vary, instead of refusing them.
    scratch : folder for the average of a recording that does not fit in memory.
    checkpoints : folder in which the fit of a transformer goes on where it was stopped.

    Raises
    ------
    ConstantUnitError : a neuroid does not vary over the training part, and `keep_constant` is False.
    InputError : nuisance or checkpoints for an encoder without them.
    """
    how: dict[str, Any] = {"on_event": on_event, "stop": stop}
    if isinstance(encoder, LinearEncoder):
        if checkpoints is not None:
            raise InputError("ridge has no checkpoints", where="checkpoints", remedy="Leave them out")
        how["nuisance"] = None
    elif isinstance(encoder, TransformerEncoder):
        if nuisance:
            raise InputError(
                "the transformer takes no nuisance regressors",
                where="nuisance",
                remedy="Take them off the responses before, or fit ridge",
            )
        how["checkpoints"] = checkpoints
    if not keep_constant:
        train.check_varies()
    if not encoder.delays and not nuisance:
        large = scratch is not None and 4 * len(train) * train.n_neuroids > IN_MEMORY_BYTES
        path = scratch / "average.zarr" if large and scratch else None
        train = train.average_repetitions(path, on_event=on_event, stop=stop)
    if nuisance:
        how["nuisance"] = nuisance_of(train, nuisance)
    return encoder.fit(unnamed(features), train, **how)


def select_features(encoder: Encoder, features: Mapping[str, Features]) -> Given:
    """What a fitted encoder reads, out of features by any name: the space of each of its sources, told by fingerprint.

    Of spaces that are alike the one with the source's name is taken. For an `Ensemble`, what each member reads.

    Raises
    ------
    ArtifactError : no features of a space that the fit was on. UnknownNameError : several, none with its name.
    """
    if isinstance(encoder, Ensemble):
        members = encoder.members.items()
        return {name: select_features(member, features) for name, member in members}  # type: ignore[misc]
    found = {}
    for source in encoder._sources():
        alike = {n: space for n, space in features.items() if space.fingerprint() == source["fingerprint"]}
        if not alike:
            label = source.get("source") or source.get("label") or source["name"] or "arrays"
            raise ArtifactError(
                f"none of the features ({', '.join(features)}) are those of the fit ({label})",
                where="features",
                remedy="Extract them with the same model, layer, read-out and preprocessing",
            )
        if len(alike) > 1 and source["name"] not in alike:
            raise UnknownNameError(
                f"several of the features are of the space of the fit: {', '.join(alike)}", remedy="Name one"
            )
        found[source["name"]] = alike.get(source["name"], next(iter(alike.values())))
    return found[""] if list(found) == [""] else found


def unnamed(features: Mapping[str, Features]) -> Given:
    """A single feature space as such, several by name, which is how encoders tell them apart."""
    return next(iter(features.values())) if len(features) == 1 else features


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


def predict_recording(
    encoder: Encoder,
    features: Mapping[str, Features],
    out: Path,
    *,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Recording:
    """Predicted responses to all stimuli of (the first) features, written block by block as a recording."""
    given, ids = select_features(encoder, features), [str(i) for i in next(iter(features.values())).stimulus_ids]
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
