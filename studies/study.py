"""`Study`: a question over all rooms in one TOML file, read into checked models and written back whole."""

from __future__ import annotations

import json
import tomllib
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from recordings import Recording, Split, Stimuli, split_by_stimulus, split_by_value
from recordings.errors import FormatError, InputError

from .questions import Alignment, Decoding, Encoding, Ensembling, FeatureSet, Name, Part, Reconstruction


class Simulation(Part):
    """Subjects of the miniature world, simulated instead of recorded, who all see the same scenes."""

    scenes: int = Field(default=200, ge=10)
    subjects: int = Field(default=1, ge=1)
    repetitions: int = Field(default=3, ge=1)
    noise_ceiling: float = Field(default=0.7, gt=0, lt=1)


class Source(Part):
    """Where the responses come from: a folder on disk, or a simulation.

    path : a recording (``.zarr``) or a subject folder, which brings its stimuli.
    paths : several of them, a subject each, of whom all is asked that the study asks.
    stimuli : a folder of stimuli or a table, where `path` is a recording; of `paths`, shown to all subjects.
    rois : keep these regions only.
    """

    path: Path | None = None
    paths: tuple[Path, ...] = ()
    stimuli: Path | None = None
    simulate: Simulation | None = None
    rois: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is not None) + bool(self.paths) + (self.simulate is not None) != 1:
            raise ValueError("give either path or simulate, or paths of several subjects")
        names = [path.stem for path in self.paths]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two subjects are called {min(twice)!r}: their folders need names of their own")
        return self

    @property
    def several(self) -> bool:
        """Whether the questions are asked of several subjects, with results by subject."""
        return bool(self.paths) or (self.simulate is not None and self.simulate.subjects > 1)


class Holdout(Part):
    """Which presentations are held out; a stimulus never stands on both sides.

    by : "stimulus", a column of the stimuli (category, group, ...) or a presentation coordinate (session, run, ...).
    test : fraction (below 1) or number of stimuli, where `by` is "stimulus".
    held_out : values of the column or coordinate; of a column also one number, so many of its values drawn by the seed.
    ensemble : fraction of the training stimuli (with delays, of its runs) that is kept from all encoding models, so
        that ensembles learn their weights on it.
    """

    by: str = "stimulus"
    test: float | int = Field(default=0.2, gt=0)
    held_out: tuple[str | int, ...] = ()
    ensemble: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _values_of_a_coordinate(self) -> Self:
        if (self.by == "stimulus") == bool(self.held_out):
            raise ValueError("held_out goes with a coordinate such as session; by = 'stimulus' takes test")
        return self

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """From ``stimulus:0.2``, ``stimulus:100`` or ``NAME:VALUE,VALUE``, with the name of a column of the stimuli or
        of a presentation coordinate; `InputError` if it is neither."""
        by, _, rest = text.partition(":")
        try:
            if by == "stimulus":
                number = rest or "0.2"
                return cls(test=int(number) if number.isdigit() else float(number))
            return cls(by=by, held_out=tuple(v for v in rest.split(",") if v))
        except ValueError as error:
            raise InputError(
                f"no split {text!r}",
                remedy="Write stimulus:0.2, stimulus:100, COORDINATE:VALUE,VALUE or COLUMN:VALUE,VALUE of the stimuli",
            ) from error

    def split(self, recording: Recording, seed: int, stimuli: Stimuli | None = None) -> Split:
        """The split of a recording, and of what was shown in it where that is known."""
        if self.by == "stimulus":
            test = self.test if isinstance(self.test, int) or self.test < 1 else int(self.test)
            return split_by_stimulus(recording, test, seed)
        if stimuli is not None and self.by in stimuli.table:
            return self._split_by_column(recording, stimuli, seed)
        # A study file may write session 2 as 2 or "2"; the coordinate has one type.
        labels = {str(v): v for v in recording.presentation(self.by)}
        unknown = [str(v) for v in self.held_out if str(v) not in labels]
        if unknown:
            raise InputError(f"no {self.by} {unknown[0]!r}", remedy=f"There are: {', '.join(labels)}")
        return split_by_value(recording, self.by, [labels[str(v)] for v in self.held_out])

    def _split_by_column(self, recording: Recording, stimuli: Stimuli, seed: int) -> Split:
        from decoders.evaluation import hold_out_categories

        names = [str(value) for value in self.held_out]
        drawn = len(names) == 1 and names[0].isdigit() and names[0] not in set(stimuli.table[self.by].astype(str))
        held_out = int(names[0]) if drawn else names
        return hold_out_categories(recording, stimuli, held_out, column=self.by, seed=seed)


def training_part(recording: Recording, split: str, seed: int, stimuli: Stimuli | None = None) -> Recording:
    """What is not held out by ``stimulus:0.2`` and the like (see `Holdout.parse`); everything for ``none``."""
    if split == "none":
        return recording
    return Holdout.parse(split).split(recording, seed, stimuli).apply(recording)[0]


class Study(Part):
    """One study.

    Attributes
    ----------
    name : of the study. seed : of all random draws. device : auto, cpu, cuda or mps.
    out : folder of the results, relative to the study file.
    recording, split : what is explained, and what of it is held out.
    skip_failures : leave out stimuli that cannot be read, and say which, instead of ending with an error.
    features : what it is explained by. encode, ensemble, decode, reconstruct, align : the questions asked.
    """

    name: Name
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: Path
    recording: Source
    split: Holdout = Holdout()
    skip_failures: bool = False
    features: tuple[FeatureSet, ...] = ()
    encode: tuple[Encoding, ...] = ()
    ensemble: tuple[Ensembling, ...] = ()
    decode: tuple[Decoding, ...] = ()
    reconstruct: tuple[Reconstruction, ...] = ()
    align: tuple[Alignment, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = [f.name for f in self.features]
        names_of = [
            [part.name for part in self.features],
            [part.name for part in self.encode] + [part.name for part in self.ensemble],
            [part.name for part in self.decode],
            [part.name for part in self.reconstruct],
            [part.name for part in self.align],
        ]
        for names in names_of:
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                raise ValueError(f"name {min(twice)!r} occurs twice")
        asked = [(part.name, reference) for part in self.encode for reference in part.features]
        asked += [(part.name, part.features) for part in self.decode]
        asked += [(part.name, part.features) for part in self.align]
        for name, reference in asked:
            if reference.partition("/")[0] not in known:
                raise ValueError(f"{name}: no features {reference!r}; there are: {', '.join(known)}")
        models = [part.name for part in self.encode]
        for part in self.ensemble:
            unknown = [name for name in part.members if name not in models]
            if unknown:
                raise ValueError(f"{part.name}: no [[encode]] {unknown[0]!r}; there are: {', '.join(models) or 'none'}")
        if self.ensemble and not self.split.ensemble:
            raise ValueError("ensembles learn on stimuli that no member has seen: set ensemble = 0.1 in [split]")
        if not (self.encode or self.decode or self.reconstruct or self.align):
            raise ValueError("nothing is asked: add a table [[encode]], [[decode]], [[reconstruct]] or [[align]]")
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
    if isinstance(values.get("paths"), list):
        values = values | {"paths": [str(folder / v) if isinstance(v, str) else v for v in values["paths"]]}
    return {
        k: str(folder / v) if isinstance(v, str) and _is_place(k, folder / v) else _absolute(v, folder)
        for k, v in values.items()
    }


def _is_place(key: str, path: Path) -> bool:
    # Models may be folders, or names on the hub.
    models = ("generator", "controlnet", "ip_adapter", "captioner", "depth")
    return key in ("path", "stimuli", "out") or (key in models and path.exists())


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
