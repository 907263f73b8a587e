"""Messages that several services answer with, and the deadline that a call sets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from recordings.errors import InputError
from service.generated.penfield.v1 import model_pb2 as pb

if TYPE_CHECKING:
    from service.engine import Engine
    from service.models import Units
    from service.repository import ModelEntry


def named(reference: pb.ModelReference) -> tuple[str, str]:
    """Name and version of a model that a request refers to; `InputError` if it names none."""
    if not reference.name:
        raise InputError("no model named", where="model", remedy="ListModels tells which there are")
    return reference.name, reference.version


def deadline_of(context: Any) -> float | None:
    """When the caller wants the answer, on the event loop's clock; None if it is not said."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def model_message(engine: Engine, entry: ModelEntry) -> pb.Model:
    """A model as it stands now."""
    state = engine.state(entry)
    return pb.Model(
        reference=pb.ModelReference(name=entry.key.name, version=entry.key.version),
        kind=entry.kind,
        state=pb.ModelState.Value(f"MODEL_STATE_{state.phase.upper()}"),
        reason=state.reason,
        fingerprint=entry.fingerprint,
        memory_bytes=state.memory_bytes or entry.bytes_on_disk,
        verbs=entry.verbs,
    )


def units_message(units: Units, numbers: Iterable[int]) -> pb.UnitCoordinates:
    """Where responses lie, with the names of some of the units."""
    names = [units.unit_ids[number] for number in numbers]
    return pb.UnitCoordinates(unit_ids=names, space_json=units.space_json, fingerprint=units.fingerprint)
