"""Files that may change while the server runs."""

from __future__ import annotations

from pathlib import Path


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What differs when a file has been written or replaced; None if it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
