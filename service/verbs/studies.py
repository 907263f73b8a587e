"""Verbs that answer whole questions: score and run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError, field_validator, model_validator

from recordings.errors import FormatError, InputError

from .base import Task, Verb
from .references import Network, Reference, check_network, paths_in, references_in, resolved, texts_in, with_references

NETWORKS: tuple[str, ...] = (
    "model",
    "generator",
    "controlnet",
    "ip_adapter",
    "captioner",
    "embedding",
    "depth",
    "invert",
    "networks",
    "text_networks",
)


class Score(Verb):
    """Score every layer of a model against a recording or against RDMs."""

    name: ClassVar[str] = "score"

    metric: Literal["rsa", "predictivity"]
    """Representational similarity, or cross-validated prediction."""
    features: Reference | None = None
    """Feature store to score."""
    model: Network | None = None
    """Model URI to score instead of a feature store."""
    layer: tuple[str, ...] = ()
    """Layers; all by default."""
    readout: Literal["pooled", "tokens", "cls", "flat", "projected"] = "flat"
    """How a model's activation becomes a row."""
    stimuli: Reference | None = None
    """What the model is shown; by default beside the recording or RDMs."""
    recording: Reference | None = None
    """Recording or subject folder to score against."""
    rdms: Reference | None = None
    """RDMs to score against, a file or folder."""
    roi: tuple[str, ...] = ()
    """Regions of the recording; all by default."""
    compare: Literal["spearman", "pearson", "cosine"] = "spearman"
    """How RDMs are compared."""
    baselines: bool = False
    """Score pixels, Gabor energies and the untrained model as well."""

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.features is None) == (self.model is None) or (self.recording is None) == (self.rdms is None):
            raise ValueError("needs one of features and model, and one of recording and rdms")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.agreement.score_layers`."""
        from recordings.readers.rdm_sets import read_rdms
        from studies.agreement import score_layers
        from studies.sources import extract_baselines, extract_layers, open_layers, open_recording, open_stimuli

        recording, rdms = task.optional(self.recording), task.optional(self.rdms)
        target = open_recording(recording, self.roi) if recording else read_rdms(rdms or Path())
        how: dict[str, Any] = {"readout": self.readout, "device": task.device, **task.watched}
        asked: dict[str, Any] = {"metric": self.metric, "compare": self.compare, "device": task.device}
        asked["seed"] = self.seed
        with tempfile.TemporaryDirectory() as folder:
            if self.features:
                layers = open_layers(task.path(self.features), self.layer)
            if self.model or self.baselines:
                shown = open_stimuli(task.optional(self.stimuli) or recording or rdms or Path())
            if self.model:
                layers = extract_layers(self.model, shown, Path(folder) / "model.zarr", self.layer, **how)
            answer = score_layers(layers, target, **asked, **task.watched)
            if self.baselines:
                uri = self.model or next(iter(layers.values())).attrs.get("uri")
                beside = extract_baselines(uri, shown, Path(folder), **how)
                answer["baselines"] = score_layers(beside, target, **asked, **task.watched)["layers"]
        return answer


class RunStudy(Verb):
    """Run a study; what is answered before a stop is not answered again.

    The job's folder gets results.json, results.csv and report.html. The study's own `out` counts for nothing here.
    """

    name: ClassVar[str] = "run"
    writes: ClassVar[str] = "study"

    study: Reference | dict[str, Any]
    """The tables of a study file, with references for paths; or an uploaded study file, whose paths stay inside the
    upload."""
    seed: int | None = None  # type: ignore[assignment]
    """Goes before the study's own."""

    @field_validator("study", mode="after")
    @classmethod
    def _with_references(cls, value: Any) -> Any:
        if isinstance(value, Reference):
            return value
        tables = with_references(value)
        known = {str(reference) for reference in references_in(tables)}
        _check_reach(_study({**tables, "out": "study"}), lambda path: str(path) in known)
        return tables

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.run`."""
        from studies import Study, run

        own: dict[str, Any] = {"out": task.out / self.writes, "device": task.device}
        if isinstance(self.study, Reference):
            root = task.places[str(self.study)].resolve()
            asked = Study.load(task.path(self.study))
            _check_reach(asked, lambda path: path.resolve().is_relative_to(root))
        else:
            asked = _study({**resolved(self.study, task.path), "out": "study"})
        if self.seed is not None:
            own["seed"] = self.seed
        asked = asked.model_copy(update=own)
        return {"study": asked.name, "out": asked.out, **run(asked, **task.watched)}


def _study(values: dict[str, Any]) -> Any:
    from studies import Study

    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "study"
        raise FormatError(f"{place}: {first['msg'].removeprefix('Value error, ')}", where="study") from error


def _check_reach(study: Any, allowed: Callable[[Path], bool]) -> None:
    """Refuse paths other than the allowed ones, and models that are code or lie elsewhere."""
    values = study.model_dump(exclude={"out"})
    for path in paths_in(values):
        if not allowed(path):
            raise InputError(f"{path.name!r} is out of reach", where="study", remedy="Give references for paths")
    for name in _networks(values):
        try:
            check_network(name)
        except ValueError as error:
            # A study file may name a folder of its own upload.
            if not (Path(name).is_absolute() and allowed(Path(name))):
                raise InputError(str(error), where="study") from error


def _networks(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [text for key, inner in value.items() if key in NETWORKS for text in texts_in(inner)]
        return own + [name for inner in value.values() for name in _networks(inner)]
    return [name for inner in value for name in _networks(inner)] if isinstance(value, list | tuple) else []
