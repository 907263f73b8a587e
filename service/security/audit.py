"""The audit log: who called what, when, from where, and how it ended; never what was sent or answered."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recordings.errors import InputError

from ..observability.logs import JsonFormatter, written

_log = logging.getLogger("penfield.audit")


@contextmanager
def audit_to(path: Path | None, on_drop: Callable[[], None]) -> Iterator[Callable[[dict[str, object]], None]]:
    """Give what notes a call, as a JSON line at the end of a file; a file that is moved away is begun anew.

    Parameters
    ----------
    path : the file; None to note nothing.
    on_drop : called for each line that is lost because the disk does not keep up.

    Raises
    ------
    InputError : the file cannot be written.
    """
    if path is None:
        yield lambda fields: None
        return
    try:
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the audit log cannot be written ({error.strerror})", where=path) from error
    handler.setFormatter(JsonFormatter())
    with written(_log, handler, on_drop):
        _log.setLevel(logging.INFO)
        yield lambda fields: _log.info("call", extra={"fields": fields})
