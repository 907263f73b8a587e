"""What jobs can do: the verbs of the command line that take long, by name, each with its checked arguments.

The verbs call the same functions of the rooms as the commands do; only paths are said differently, by references.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from recordings.errors import InputError, UnknownNameError

from .base import Task, Verb
from .data import Describe, ExtractFeatures, Import, Simulate
from .decode import DecodeEvaluate, DecodeFit, DecodeIdentify, DecodeRetrieve
from .encode import EncodeEnsemble, EncodeEvaluate, EncodeFit, EncodePredict
from .pictures import DecodeCaption, DecodeDepth, DecodeImage
from .publish import Publish
from .readouts import EncodeAttend, EncodeContrast
from .references import Reference
from .studies import RunStudy, Score

__all__ = ["VERBS", "Reference", "Task", "Verb", "parse"]

_DATA: tuple[type[Verb], ...] = (Simulate, Describe, ExtractFeatures, Import)
_ENCODE: tuple[type[Verb], ...] = (
    EncodeFit,
    EncodeEnsemble,
    EncodePredict,
    EncodeEvaluate,
    EncodeAttend,
    EncodeContrast,
)
_DECODE: tuple[type[Verb], ...] = (
    DecodeFit,
    DecodeIdentify,
    DecodeRetrieve,
    DecodeEvaluate,
    DecodeImage,
    DecodeCaption,
    DecodeDepth,
)
_WHOLE: tuple[type[Verb], ...] = (Score, RunStudy, Publish)
VERBS: dict[str, type[Verb]] = {verb.name: verb for verb in (*_DATA, *_ENCODE, *_DECODE, *_WHOLE)}


def parse(name: str, arguments: dict[str, Any]) -> Verb:
    """A verb with its arguments.

    Raises
    ------
    UnknownNameError : no such verb or argument. InputError : an argument that is missing or wrong; names it.
    """
    if name not in VERBS:
        raise UnknownNameError(f"no verb {name[:50]!r}", remedy=f"There are: {', '.join(VERBS)}")
    try:
        return VERBS[name].model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        where = f"{name}: {place}" if place else name
        if first["type"] == "extra_forbidden":
            known = ", ".join(VERBS[name].model_fields)
            raise UnknownNameError("no such argument", where=where, remedy=f"There are: {known}") from error
        raise InputError(first["msg"].removeprefix("Value error, "), where=where) from error
