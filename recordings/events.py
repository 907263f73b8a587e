"""Progress and cancellation, shared by every long function.

A long function takes ``on_event`` (called with an `Event` per chunk or step) and ``stop`` (asked per chunk or step;
when it answers True the function raises `Cancelled` and leaves a state that can be resumed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import Cancelled


@dataclass(frozen=True)
class Event:
    """One step of a long function: its stage, how far it is, and anything worth showing."""

    stage: str
    done: int
    total: int
    payload: dict[str, Any] = field(default_factory=dict)


OnEvent = Callable[[Event], None]
Stop = Callable[[], bool]


def report(on_event: OnEvent | None, stop: Stop | None, stage: str, done: int, total: int, **payload: Any) -> None:
    """Tell the caller how far `stage` is, then raise `Cancelled` if the caller asked to stop."""
    if on_event is not None:
        on_event(Event(stage, done, total, payload))
    if stop is not None and stop():
        raise Cancelled(f"stopped during {stage} after {done} of {total}")
