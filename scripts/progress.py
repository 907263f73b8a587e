"""Progress on standard error, and a clean end on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from recordings.events import Event, OnEvent

SECONDS_BETWEEN_LINES = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Remembers the signal that asked to stop; asked per chunk by long functions.

    The first signal ends the run at the next chunk, the second at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells expect: 130 for Ctrl-C."""
        return 128 + (self.signal or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        sys.stderr.write("\npenfield: stopping at the next step; once more to stop at once\n")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Catch the signals for a while; only Python's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def progress() -> Iterator[OnEvent]:
    """A function that draws events: one bar a stage on a terminal, a line now and then in a log file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Log()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(event: Event) -> None:
            if event.stage not in tasks:
                _finish(bars, tasks)
                tasks[event.stage] = bars.add_task(event.stage, total=event.total)
            bars.update(
                tasks[event.stage], completed=event.done, total=event.total, description=event.stage + _measures(event)
            )

        yield draw
        _finish(bars, tasks)


def _finish(bars: Progress, tasks: dict[str, TaskID]) -> None:
    # Stages report what is done before each chunk, so a stage that ended has never said so.
    for task in bars.tasks:
        if task.id in tasks.values():
            bars.update(task.id, completed=task.total)


def _measures(event: Event) -> str:
    """What a stage measures of itself: ", loss 0.812, epoch 3, validation r 0.214"."""
    numbers = {name.replace("_", " "): value for name, value in event.payload.items() if _is_number(value)}
    return "".join(f", {name} {value:.3g}" for name, value in numbers.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Log:
    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, event: Event) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            sys.stderr.write(f"penfield: {event.stage} {event.done}/{event.total}{_measures(event)}\n")
