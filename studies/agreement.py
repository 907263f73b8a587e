"""How well layers of a model and a brain agree, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alignment import predictivity, rdm, rsa
from alignment.comparison import Compare
from encoders import Features, RidgeEncoder
from recordings import Recording
from recordings.errors import UnknownNameError
from recordings.events import OnEvent, Stop, report
from recordings.rdms import RDMs

from .encoding import solver_device


def recording_rdms(recording: Recording) -> RDMs:
    """Correlation-distance RDMs of all neuroids together and of each region, repetitions averaged."""
    average = recording.average_repetitions()
    parts = {"all": average} | {name: average.roi(name) for name in average.rois}
    ids = [str(i) for i in average.stimulus_ids]
    return RDMs(np.stack([rdm(part) for part in parts.values()]), ids, list(parts), {"roi": list(parts)})


def score_layers(
    layers: Mapping[str, Features],
    target: Recording | RDMs,
    *,
    metric: str = "rsa",
    compare: Compare = "spearman",
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """How well each layer and a brain agree, by "rsa" or "predictivity": layers.<name>.score, .low, .high.

    Raises
    ------
    UnknownNameError : no such metric. MismatchedIdsError : a stimulus has no features.
    """
    watched: dict[str, Any] = {"seed": seed, "on_event": on_event, "stop": stop}
    if metric == "rsa":
        return rsa_of_layers(layers, target, compare=compare, **watched)
    if metric == "predictivity" and isinstance(target, Recording):
        return predictivity_of_layers(layers, target, device=device, **watched)
    raise UnknownNameError(
        f"no metric {metric!r} against {type(target).__name__}", remedy="Take rsa, or predictivity against a recording"
    )


def rsa_of_layers(
    layers: Mapping[str, Features],
    target: Recording | RDMs,
    *,
    compare: Compare = "spearman",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Representational similarity of each layer with a set of RDMs: layers.<name>.score, .low, .high, and ceilings.

    A recording counts as one RDM over all its neuroids; layers.<name>.roi then says how each region compares.
    """
    regions = recording_rdms(target) if isinstance(target, Recording) else None
    rdms = regions.take([0]) if regions is not None else target
    assert isinstance(rdms, RDMs)
    answers = {}
    for number, (name, features) in enumerate(layers.items()):
        report(on_event, stop, "compare layers", number, len(layers))
        answers[name] = rsa(features, rdms, compare, seed=seed, stop=stop).to_dict()
        if regions is not None and len(regions) > 1:
            by_region = rsa(features, regions, compare, n_bootstrap=0, n_permutations=0, stop=stop)
            answers[name]["roi"] = dict(zip(by_region.names[1:], by_region.values[1:].tolist(), strict=True))
    shared = next(iter(answers.values()))
    result: dict[str, Any] = {"metric": "rsa", "compare": shared["compare"], "n_stimuli": shared["n_stimuli"]}
    if "ceiling" in shared:
        result["ceiling"] = shared["ceiling"]
    if "ceiling" in shared.get("people", {}):
        result["people_ceiling"] = shared["people"]["ceiling"]
    return result | {"layers": {name: _own_part(answer) for name, answer in answers.items()}}


def _own_part(answer: Mapping[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in answer.items() if k in ("score", "low", "high", "p_value", "shuffled", "values", "roi")}
    return own | ({"people": answer["people"]["values"]} if answer.get("people") else {})


def predictivity_of_layers(
    layers: Mapping[str, Features],
    recording: Recording,
    *,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Cross-validated ridge from each layer: layers.<name>.score is mean r over the noise ceiling, .roi by region."""
    encoder = RidgeEncoder(device=solver_device(device))
    answers: dict[str, Any] = {}
    for number, (name, features) in enumerate(layers.items()):
        report(on_event, stop, "score layers", number, len(layers))
        score = predictivity(features, recording, encoder, seed=seed, stop=stop).to_dict()
        kept: dict[str, Any] = {
            key: score[key] for key in ("low", "high", "normalised", "n_masked", "roi") if key in score
        }
        answers[name] = {"score": score["center"], **kept}
    return {"metric": "predictivity", "n_neuroids": recording.n_neuroids, "layers": answers}
