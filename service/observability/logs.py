"""Log lines, each with the number of its call, written by a thread so that a slow disk holds up nobody."""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from ..security.callers import current_request_id

# Lines that may wait for the disk.
WAITING = 10_000
# How long they may take at the end.
END_SECONDS = 5.0


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and what `extra={"fields": ...}` holds."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", ""),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        number = getattr(record, "request_id", "")
        line = " ".join(p for p in (when, record.levelname.lower(), record.getMessage(), fields, number) if p)
        # Nobody's words may look like lines of their own.
        line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Queued(logging.handlers.QueueHandler):
    def __init__(self, on_drop: Callable[[], None]):
        self.waiting: queue.Queue[Any] = queue.Queue(WAITING)
        super().__init__(self.waiting)
        self._on_drop = on_drop

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.request_id = current_request_id()
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.waiting.put_nowait(record)
        except queue.Full:
            self._on_drop()


class _Listener(logging.handlers.QueueListener):
    """Ends even if the disk hangs; the standard library's own fails on a full queue, or waits for ever."""

    def __init__(self, waiting: queue.Queue[Any], handler: logging.Handler):
        super().__init__(waiting, handler)
        self._waiting = waiting

    def enqueue_sentinel(self) -> None:
        with suppress(queue.Full):
            self._waiting.put(None, timeout=END_SECONDS)

    def stop(self) -> None:
        self.enqueue_sentinel()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            self._thread = None


@contextmanager
def written(logger: logging.Logger, handler: logging.Handler, on_drop: Callable[[], None]) -> Iterator[None]:
    """Have the lines of a logger written by a thread while the block runs, and all of them by its end
    unless the disk hangs.

    Parameters
    ----------
    logger : its lines go nowhere else.
    handler : what writes them.
    on_drop : called for each line that finds 10,000 others waiting, and is lost.
    """
    queued = _Queued(on_drop)
    listener = _Listener(queued.waiting, handler)
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers, logger.propagate = [queued], False
    listener.start()
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])
        listener.stop()
        handler.close()


@contextmanager
def logging_to_stderr(form: str, level: str, on_drop: Callable[[], None]) -> Iterator[None]:
    """Write what the service logs to standard error, as "text" or "json", from `level` on, while the block runs."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logger = logging.getLogger("penfield")
    with written(logger, handler, on_drop):
        logger.setLevel(level.upper())
        yield
