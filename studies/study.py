"""`Study`: a question over all rooms in one TOML file, read into checked models and written back whole."""

from __future__ import annotations

import json
import tomllib
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recordings import Recording, Split, split_by_stimulus, split_by_value
from recordings.errors import FormatError, InputError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Part(BaseModel):
    """Base of the tables of a study file: a misspelt key is an error, not an ignored line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Simulation(Part):
    """A subject of the miniature world, simulated instead of recorded."""

    scenes: int = Field(default=200, ge=10)
    repetitions: int = Field(default=3, ge=1)
    noise_ceiling: float = Field(default=0.7, gt=0, lt=1)


class Source(Part):
    """Where the responses come from: a folder on disk, or a simulation.

    path : a recording (``.zarr``) or a subject folder, which brings its stimuli.
    stimuli : a folder of stimuli or a table, where `path` is a recording.
    rois : keep these regions only.
    """

    path: Path | None = None
    stimuli: Path | None = None
    simulate: Simulation | None = None
    rois: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.simulate is None):
            raise ValueError("give either path or simulate")
        return self


class Holdout(Part):
    """Which presentations are held out; a stimulus never stands on both sides.

    by : "stimulus", or a presentation coordinate (session, run, split, ...).
    test : fraction (below 1) or number of stimuli, where `by` is "stimulus".
    held_out : values of the coordinate, where `by` is one.
    """

    by: str = "stimulus"
    test: float | int = Field(default=0.2, gt=0)
    held_out: tuple[str | int, ...] = ()

    @model_validator(mode="after")
    def _values_of_a_coordinate(self) -> Self:
        if (self.by == "stimulus") == bool(self.held_out):
            raise ValueError("held_out goes with a coordinate such as session; by = 'stimulus' takes test")
        return self

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """From ``stimulus:0.2``, ``stimulus:100`` or ``COORDINATE:VALUE,VALUE``; `InputError` if it is neither."""
        by, _, rest = text.partition(":")
        try:
            if by == "stimulus":
                number = rest or "0.2"
                return cls(test=int(number) if number.isdigit() else float(number))
            return cls(by=by, held_out=tuple(v for v in rest.split(",") if v))
        except ValueError as error:
            raise InputError(
                f"no split {text!r}", remedy="Write stimulus:0.2, stimulus:100 or COORDINATE:VALUE,VALUE"
            ) from error

    def split(self, recording: Recording, seed: int) -> Split:
        """The split of a recording."""
        if self.by == "stimulus":
            test = self.test if isinstance(self.test, int) or self.test < 1 else int(self.test)
            return split_by_stimulus(recording, test, seed)
        # A study file may write session 2 as 2 or "2"; the coordinate has one type.
        labels = {str(v): v for v in recording.presentation(self.by)}
        unknown = [str(v) for v in self.held_out if str(v) not in labels]
        if unknown:
            raise InputError(f"no {self.by} {unknown[0]!r}", remedy=f"There are: {', '.join(labels)}")
        return split_by_value(recording, self.by, [labels[str(v)] for v in self.held_out])


def training_part(recording: Recording, split: str, seed: int) -> Recording:
    """What is not held out by ``stimulus:0.2`` and the like (see `Holdout.parse`); everything for ``none``."""
    if split == "none":
        return recording
    return Holdout.parse(split).split(recording, seed).apply(recording)[0]


class FeatureSet(Part):
    """Features by name: extracted with a model, or read from a store.

    model : extractor URI, such as ``miniature:backbone``. layers : by module path; all of a store's by default.
    readout : tokens, cls, pooled, flat or projected.
    path : an existing store, instead of `model`.
    """

    name: Name
    model: str | None = None
    path: Path | None = None
    layers: tuple[str, ...] = ()
    readout: str = "pooled"
    batch_size: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.path is None):
            raise ValueError("give either model or path")
        return self


class Encoding(Part):
    """An encoding model fitted on the training part and scored on the held-out part.

    features : names of feature sets, ``name`` or ``name/layer``; a band each for banded ridge, side by side otherwise.
    delays : rows by which features are delayed (finite impulse response), for movies and time series.
    keep_constant : predict the mean of neuroids that do not vary, instead of refusing them.
    """

    name: Name
    model: Literal["ridge", "kernel_ridge", "banded_ridge"] = "ridge"
    features: tuple[str, ...] = Field(min_length=1)
    alphas: tuple[float, ...] = ()
    folds: int = Field(default=5, ge=2)
    delays: tuple[int, ...] = ()
    keep_constant: bool = False
    metric: Literal["r", "r2"] = "r"
    shuffles: int = Field(default=100, ge=0)


class Decoding(Part):
    """A decoder from responses to features, scored by identification and retrieval of the held-out stimuli.

    max_neuroids : read at most so many, the most reliable on the training part.
    """

    name: Name
    features: str
    max_neuroids: int | None = Field(default=None, ge=1)


class Alignment(Part):
    """How well features and the held-out responses agree, by RSA or by predictivity."""

    name: Name
    metric: Literal["rsa", "predictivity"] = "rsa"
    features: str


class Study(Part):
    """One study.

    Attributes
    ----------
    name : of the study. seed : of all random draws. device : auto, cpu, cuda or mps.
    out : folder of the results, relative to the study file.
    recording, split : what is explained, and what of it is held out.
    features : what it is explained by. encode, decode, align : the questions asked.
    """

    name: Name
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: Path
    recording: Source
    split: Holdout = Holdout()
    features: tuple[FeatureSet, ...] = Field(min_length=1)
    encode: tuple[Encoding, ...] = ()
    decode: tuple[Decoding, ...] = ()
    align: tuple[Alignment, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = [f.name for f in self.features]
        for names in ([part.name for part in table] for table in (self.features, self.encode, self.decode, self.align)):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"name {min(twice)!r} occurs twice")
        asked = [(part.name, reference) for part in self.encode for reference in part.features]
        asked += [(part.name, part.features) for part in self.decode]
        asked += [(part.name, part.features) for part in self.align]
        for name, reference in asked:
            if reference.partition("/")[0] not in known:
                raise ValueError(f"{name}: no features {reference!r}; there are: {', '.join(known)}")
        if not (self.encode or self.decode or self.align):
            raise ValueError("nothing is asked: add a table [[encode]], [[decode]] or [[align]]")
        return self

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Study:
        """Read a study file; relative paths in it are relative to the file.

        Raises
        ------
        FormatError : not TOML, an unknown key, or a value out of range; names the place.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"not a readable TOML file ({error})", where=path) from error
        try:
            return cls.model_validate(_absolute(values, path.resolve().parent))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "study"
            raise FormatError(
                f"{place}: {first['msg'].removeprefix('Value error, ')}",
                where=path,
                remedy="Keys and their meaning: penfield run --help",
            ) from error

    def to_toml(self) -> str:
        """The whole study, defaults included, as TOML that `load` reads back to an equal study."""
        return "\n".join(_toml_table("", self.model_dump(mode="json", exclude_none=True))).lstrip("\n") + "\n"


def _absolute(values: Any, folder: Path) -> Any:
    if isinstance(values, list):
        return [_absolute(v, folder) for v in values]
    if not isinstance(values, dict):
        return values
    places = ("path", "stimuli", "out")
    return {
        k: str(folder / v) if k in places and isinstance(v, str) else _absolute(v, folder) for k, v in values.items()
    }


def _toml_table(prefix: str, values: dict[str, Any]) -> list[str]:
    # Plain values first: what follows a table's header belongs to that table.
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not _is_table(value)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{key}]", *_toml_table(f"{prefix}{key}.", value)]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{prefix}{key}]]", *_toml_table(f"{prefix}{key}.", row)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _toml_value(value: Any) -> str:
    # JSON strings, numbers, booleans and flat lists are TOML as they stand.
    return json.dumps(value, ensure_ascii=False)
