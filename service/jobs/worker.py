"""``python -m service.jobs.worker``: one job in a process of its own, which may die without harm to the server.

Standard input: one line of JSON that says what to do, and then nothing until the parent is gone. Standard output: one
line of JSON an event, the last with "end": done, cancelled, full (no room on the disk) or failed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recordings.errors import Cancelled, DiskFullError, InputError, PenfieldError, disk_full_as_error
from recordings.events import Event
from recordings.storage import atomic_path
from service.data.upload import flush_folder
from service.verbs import Task, parse
from service.verbs.publish import TERMS

from .answers import Places, failure_values, plain
from .store import ANSWER, PART, RESULT

SECONDS_BETWEEN_EVENTS = 0.5
SECONDS_WITHOUT_PARENT = 30.0
SECONDS_FOR_LOCK = 60.0


def carry_out(spec: dict[str, Any], emit: Callable[[dict[str, Any]], None], stop: Callable[[], bool]) -> dict[str, Any]:
    """Run one job, or what is left of it; the last event.

    Parameters
    ----------
    spec : id, verb, arguments; folder of the job; places, file or folder by reference; models; terms; device.
    emit : takes events. stop : asked within each step.
    """
    places = Places(spec)
    try:
        with disk_full_as_error(f"job:{spec['id']}"):
            _finish(spec, places, _Reporter(emit), stop)
    except Cancelled:
        return {"end": "cancelled"}
    except DiskFullError:
        return {"end": "full"}
    except Exception as error:
        if not isinstance(error, PenfieldError | MemoryError):
            logging.getLogger("penfield.jobs").exception("job %s", spec["id"])
        return {"end": "failed", "failure": failure_values(_named(error, places), spec["id"])}
    return {"end": "done"}


def _finish(spec: dict[str, Any], places: Places, on_event: _Reporter, stop: Callable[[], bool]) -> None:
    folder = Path(spec["folder"])
    part, result = folder / PART, folder / RESULT
    if result.exists():
        # An earlier attempt died between the result's name and the row in the database.
        return
    part.mkdir(exist_ok=True)
    where = {reference: Path(place) for reference, place in spec["places"].items()}
    task = Task(spec["id"], part, where, Path(spec["models"]), spec["terms"], spec["device"], on_event, stop)
    answer = parse(spec["verb"], spec["arguments"]).run(task)
    places.hide_in_folder(part)
    with atomic_path(part / TERMS, overwrite=True) as file:
        file.write_text(json.dumps(spec["terms"], indent=2) + "\n")
    with atomic_path(folder / ANSWER, overwrite=True) as file:
        file.write_text(json.dumps(places.hide_in(plain(answer)), allow_nan=False) + "\n")
    flush_folder(folder)
    part.rename(result)
    flush_folder(result.parent)


def _named(error: Exception, places: Places) -> Exception:
    """The error with references for paths; the allocators of devices have classes of their own."""
    if isinstance(error, PenfieldError):
        error.what, error.where = places.hide(error.what), error.where and places.hide(error.where)
        error.remedy = error.remedy and places.hide(error.remedy)
    return MemoryError() if type(error).__name__ == "OutOfMemoryError" else error


class _Reporter:
    """Passes events on, each stage's first and then a few a second."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]):
        self.emit, self.stage, self.last = emit, "", 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.stage == self.stage and now - self.last < SECONDS_BETWEEN_EVENTS:
            return
        self.stage, self.last = event.stage, now
        self.emit({"stage": event.stage, "done": event.done, "total": event.total})


def _refuse_python_models() -> None:
    """Refuse python: models wherever they are named; a feature store or a decoder that was uploaded names some too."""

    def load(uri: Any) -> Any:
        raise InputError("python: models run code of their own and are not allowed on a server", where=str(uri))

    # In the place of the module that would run them, which is imported when one is asked for.
    refusing = types.ModuleType("encoders.features.python_backbone")
    refusing.load = load  # type: ignore[attr-defined]
    sys.modules[refusing.__name__] = refusing


def _watch_parent(stop: threading.Event) -> None:
    # The parent holds the other end for as long as it lives.
    sys.stdin.buffer.read()
    stop.set()
    time.sleep(SECONDS_WITHOUT_PARENT)
    os._exit(1)


def _lock(folder: Path) -> int:
    """Hold the job's folder; one whose server died may still be at its last step."""
    number = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + SECONDS_FOR_LOCK
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return number


def main() -> None:
    """Read a job from standard input, run it, and tell of it on standard output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    # Libraries print; only events may stand on standard output.
    os.dup2(2, 1)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    spec = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    _lock(Path(spec["folder"]))

    def emit(event: dict[str, Any]) -> None:
        try:
            out.write(json.dumps(event) + "\n")
        except BrokenPipeError:
            stop.set()

    emit({"start": os.getpid()})
    _refuse_python_models()
    emit(carry_out(spec, emit, stop.is_set))


if __name__ == "__main__":
    main()
