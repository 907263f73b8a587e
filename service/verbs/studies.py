"""Verbs that answer whole questions: score and run."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError, field_validator, model_validator

from recordings.errors import FormatError, InputError
from service.data.contents import leaves_folder

from .base import Task, Verb
from .references import Network, Reference, check_network

PLACES = ("path", "stimuli")
NETWORKS = ("model", "generator", "controlnet", "ip_adapter", "captioner", "embedding", "depth", "invert", "networks")


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
        checked = _checked(value, Reference)
        _study(checked, {"out": "study"})
        return checked

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.run`."""
        from studies import run

        values = _from_file(task.path(self.study)) if isinstance(self.study, Reference) else self.study
        asked = _study(_paths(values, task), {"out": str(task.out / self.writes), "device": task.device})
        if self.seed is not None:
            asked = asked.model_copy(update={"seed": self.seed})
        return {"study": asked.name, "out": asked.out, **run(asked, **task.watched)}


def _study(values: dict[str, Any], own: dict[str, Any]) -> Any:
    from studies import Study

    try:
        return Study.model_validate({**values, **own})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "study"
        raise FormatError(f"{place}: {first['msg'].removeprefix('Value error, ')}", where="study") from error


def _checked(value: Any, place: Any) -> Any:
    """The same tables, `place` applied to all that names files, and names of models looked at."""
    if isinstance(value, list | tuple):
        return [_checked(inner, place) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        if key in PLACES and isinstance(inner, str):
            inner = place(inner)
        elif key in NETWORKS:
            for name in [inner] if isinstance(inner, str) else inner if isinstance(inner, list | tuple) else []:
                check_network(str(name))
        found[key] = _checked(inner, place)
    return found


def _from_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"not a readable TOML file ({error})", where=path.name) from error

    def inside(name: str) -> Path:
        if leaves_folder(name):
            raise InputError(f"{name[:50]!r} leads outside the upload", where=path.name, remedy="Write it relative")
        return path.parent / name

    try:
        return _checked(values, inside)
    except InputError:
        raise
    except ValueError as error:
        raise FormatError(str(error), where=path.name) from error


def _paths(value: Any, task: Task) -> Any:
    if isinstance(value, Reference):
        return task.path(value)
    if isinstance(value, dict):
        return {k: _paths(v, task) for k, v in value.items()}
    return [_paths(v, task) for v in value] if isinstance(value, list | tuple) else value
