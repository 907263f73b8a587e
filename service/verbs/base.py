"""`Verb`: the arguments of a job as a checked model that knows how to carry itself out; `Task`: what it works with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from recordings.errors import FormatError
from recordings.events import OnEvent, Stop

from .references import Reference, references_in


@dataclass(frozen=True)
class Task:
    """One run of a verb.

    Attributes
    ----------
    id : of the job. out : folder to write to; what an earlier attempt has left is in it.
    places : file or folder of the root of each reference. models : folder of the repository. terms : of what is read.
    device : auto, cpu, cuda or mps.
    """

    id: str
    out: Path
    places: Mapping[str, Path]
    models: Path
    terms: Mapping[str, Any]
    device: str = "auto"
    on_event: OnEvent | None = None
    stop: Stop | None = None

    @property
    def watched(self) -> dict[str, Any]:
        """on_event and stop, as keyword arguments."""
        return {"on_event": self.on_event, "stop": self.stop}

    def path(self, reference: Reference) -> Path:
        """File or folder of a reference; `FormatError` if there is nothing at the path inside."""
        root = self.places[str(reference)].resolve()
        path = (root / reference.inside).resolve()
        if not path.is_relative_to(root) or not path.exists():
            raise FormatError("there is nothing", where=str(reference), remedy="Give a path inside the data or result")
        return path

    def optional(self, reference: Reference | None) -> Path | None:
        """`path`, or None of None."""
        return None if reference is None else self.path(reference)

    def paths(self, references: tuple[Reference, ...]) -> list[Path]:
        """`path` of each."""
        return [self.path(reference) for reference in references]


class Verb(BaseModel):
    """Base of all verbs. Fields are the verb's options; a misspelt one is an error, not an ignored one.

    Attributes
    ----------
    name : as the command line has it. writes : what of its folder ``job:ID`` means, "" for the folder itself.
    scope : right that a caller needs beside that to submit jobs, or "".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: ClassVar[str]
    writes: ClassVar[str] = ""
    scope: ClassVar[str] = ""

    seed: int = 0
    """Seed of all that is drawn at random."""

    def run(self, task: Task) -> dict[str, Any]:
        """Carry it out: what the command prints with --json. Files go below ``task.out``."""
        raise NotImplementedError

    def references(self) -> Iterator[Reference]:
        """All that it reads, so that rights and terms are looked up before anything runs."""
        return references_in(self.model_dump())
