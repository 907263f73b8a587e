"""References: what a job says where the command line takes a path, and names of models that a job may use.

``data:ID[/sub/path]`` is uploaded data, ``job:ID[/sub/path]`` the result of a job, ``model:NAME[@VERSION]`` a model of
the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_PART = r"[A-Za-z0-9_][A-Za-z0-9._ +-]*"
_PLACE = re.compile(rf"((?:data|job):[0-9a-f]{{16}})((?:/{_PART})*)")
_MODEL = re.compile(r"model:[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}(?:@[0-9]+)?")
_NETWORK = re.compile(r"(?:[a-z_]+:){0,2}[A-Za-z0-9][\w.-]*(?:[/#@][\w.-]+)*")
SCHEMES = ("data:", "job:", "model:")


class Reference(str):
    """A checked reference.

    Attributes
    ----------
    root : without the path inside, such as "job:0123456789abcdef". inside : that path, or "".
    """

    root: str
    inside: str

    def __new__(cls, text: str) -> Reference:
        """Take a reference apart; `ValueError` if it is none."""
        found = _PLACE.fullmatch(text)
        if found is None and not _MODEL.fullmatch(text):
            raise ValueError("no reference; write data:ID, job:ID, either with /sub/path, or model:NAME[@VERSION]")
        self = super().__new__(cls, text)
        self.root, self.inside = (found[1], found[2].lstrip("/")) if found else (text, "")
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema(max_length=500))


def check_network(name: str) -> str:
    """A name of published or shipped weights, as it is; `ValueError` for code (python:), paths and references."""
    if "python:" in name:
        raise ValueError("python: models run code of their own and are not allowed on a server")
    if name.startswith(SCHEMES) or not _NETWORK.fullmatch(name) or ".." in name:
        raise ValueError("no name of a model, such as timm:NAME or OWNER/NAME")
    return name


Network = Annotated[str, AfterValidator(check_network)]
"""Name of published or shipped weights, such as timm:NAME, OWNER/NAME or miniature:backbone."""


def references_in(value: Any) -> Iterator[Reference]:
    """All references among nested JSON values."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from references_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references_in(inner)


def with_references(value: Any) -> Any:
    """Nested JSON values with references for texts that begin like one; `ValueError` for one that is none."""
    if isinstance(value, dict):
        return {k: with_references(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_references(v) for v in value]
    return Reference(value) if isinstance(value, str) and value.startswith(SCHEMES) else value


def resolved(value: Any, path: Callable[[Reference], Path]) -> Any:
    """Nested values with paths for references."""
    if isinstance(value, Reference):
        return path(value)
    if isinstance(value, dict):
        return {k: resolved(v, path) for k, v in value.items()}
    return [resolved(v, path) for v in value] if isinstance(value, list | tuple) else value


def paths_in(value: Any) -> list[Path]:
    """All paths among nested values."""
    return [value] if isinstance(value, Path) else [path for part in _inner(value) for path in paths_in(part)]


def texts_in(value: Any) -> list[str]:
    """All texts among nested values."""
    return [value] if isinstance(value, str) else [text for part in _inner(value) for text in texts_in(part)]


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
