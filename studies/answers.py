"""Answers to a study's questions, each in a folder of its own, which a later run finds there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decoders import LatentDecoder
from encoders import Encoder, Ensemble, Features, load_encoder
from encoders.routings import check_readout
from recordings.storage import atomic_path, remove

from .agreement import score_layers
from .decoding import evaluate_decoder
from .encoding import fit_encoder, make_encoder, select_features, solver_device
from .evaluation import ceiling_of, score_encoder, write_scores
from .questions import Alignment, Decoding, Encoding, Ensembling
from .work import Work

RESULTS, MODEL, SCORES, TRAINING = "results.json", "model", "scores.npz", "training"


def once(folder: Path, data: str, answer: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The answer in a folder if it came from the same data, else a new one."""
    stored = folder / RESULTS
    if stored.exists():
        found = json.loads(stored.read_text())
        if found["data"] == data:
            return dict(found["answer"])
    folder.mkdir(parents=True, exist_ok=True)
    given = json.loads(json.dumps(answer(folder), default=_plain))
    write_json(stored, {"data": data, "answer": given})
    return dict(given)


def encode(work: Work, part: Encoding, folder: Path) -> dict[str, Any]:
    """The score of an encoding model, or the mean over runs with seeds of their own, and their spread.

    A folder holds ``model`` and ``scores.npz``; where there are several runs, in a folder each.
    """
    if part.runs == 1:
        return _encode_once(work, part, folder, work.study.seed)
    places = _run_folders(folder, part.runs)
    seeds = {place: work.study.seed + run for run, place in enumerate(places)}
    answers = [once(p, work.fingerprint, lambda f: _encode_once(work, part, f, seeds[f])) for p in places]
    normalised = [np.load(place / SCORES)["normalised"] for place in places]
    write_scores(folder / SCORES, np.mean(normalised, 0))
    return {"runs": part.runs} | mean_of_runs(answers)


def _encode_once(work: Work, part: Encoding, folder: Path, seed: int) -> dict[str, Any]:
    spaces = work.named(*part.features)
    options = part.transformer.model_dump() if part.transformer else {}
    encoder = make_encoder(
        part.model,
        part.routing,
        alphas=part.alphas,
        folds=part.folds,
        delays=part.delays,
        device=work.study.device,
        seed=seed,
        **options,
    )
    if part.routing:
        check_readout(part.routing, spaces)
    how: dict[str, Any] = {"keep_constant": part.keep_constant, "scratch": folder, **work.watched}
    # A checkpoint of other data is of no use; that of these data lets a study that was killed go on.
    training = folder / f"{TRAINING}-{work.fingerprint[:12]}"
    if part.model == "transformer":
        how["checkpoints"] = training
    remove(folder / "average.zarr")
    fit_encoder(encoder, spaces, work.members, **how)
    remove(folder / "average.zarr")
    encoder.save_pretrained(folder / MODEL, overwrite=True)
    for checkpoint in folder.glob(f"{TRAINING}-*"):
        remove(checkpoint)
    return _scored(work, encoder, spaces, part, folder)


def ensemble(work: Work, part: Ensembling, folder: Path) -> dict[str, Any]:
    """The score of an ensemble of encoding models that are answered already, and the mean weight of each."""
    assert work.weights is not None
    asked = {entry.name: entry for entry in work.study.encode}
    members: dict[str, Encoder] = {}
    for name in part.members:
        place, runs = work.study.out / "encode" / name, asked[name].runs
        if runs == 1:
            members[name] = load_encoder(place / MODEL)
        else:
            members |= {f"{name}-{f.name}": load_encoder(f / MODEL) for f in _run_folders(place, runs)}
    whole = Ensemble(members, part.temperature)
    spaces = work.named(*(reference for name in part.members for reference in asked[name].features))
    whole.fit(select_features(whole, spaces), work.weights, **work.watched)
    whole.save_pretrained(folder / MODEL, overwrite=True)
    weights = dict(zip(members, whole.weights_.mean(1).tolist(), strict=True))
    counted = len(set(work.weights.stimulus_ids))
    return _scored(work, whole, spaces, part, folder) | {"weights": weights, "n_stimuli_for_weights": counted}


def decode(work: Work, part: Decoding, folder: Path) -> dict[str, Any]:
    """Identification and retrieval of the held-out stimuli."""
    features = work.one(part.features)
    decoder = LatentDecoder(
        max_neuroids=part.max_neuroids, device=solver_device(work.study.device), seed=work.study.seed
    )
    decoder.fit(work.train, features, **work.watched).save_pretrained(folder / MODEL, overwrite=True)
    return evaluate_decoder(folder / MODEL, work.test, features, seed=work.study.seed)


def align(work: Work, part: Alignment, folder: Path) -> dict[str, Any]:
    """Agreement of features and held-out responses."""
    how = {"device": work.study.device, "seed": work.study.seed, **work.watched}
    return score_layers(work.named(part.features), work.test, metric=part.metric, **how)


def mean_of_runs(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers averaged over the answers of several runs; what is no number is the first run's.

    Standard deviations over runs stand in ``spread``, of the center, and by region in ``roi_spread``.
    """
    found = {
        name: value if name == "provenance" else _mean([a[name] for a in answers]) for name, value in answers[0].items()
    }
    found["spread"] = float(np.std([a["center"] for a in answers], ddof=1))
    if "roi" in found:
        found["roi_spread"] = {roi: float(np.std([a["roi"][roi] for a in answers], ddof=1)) for roi in found["roi"]}
    return found


def _mean(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {name: _mean([value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [_mean(list(parts)) for parts in zip(*values, strict=True)]
    number = isinstance(first, int | float) and not isinstance(first, bool)
    return float(np.mean(values)) if number and len(set(values)) > 1 else first


def _scored(
    work: Work, encoder: Encoder, spaces: dict[str, Features], part: Encoding | Ensembling, folder: Path
) -> dict[str, Any]:
    return score_encoder(
        encoder,
        spaces,
        work.test,
        ceiling=ceiling_of(encoder, work.recording, work.test),
        metric=part.metric,
        shuffles=part.shuffles,
        values=folder / SCORES,
        seed=work.study.seed,
    )


def _run_folders(folder: Path, runs: int) -> list[Path]:
    return [folder / f"run-{run + 1}" for run in range(runs)]


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values, whole or not at all."""
    with atomic_path(path, overwrite=True) as part:
        part.write_text(json.dumps(values, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")
