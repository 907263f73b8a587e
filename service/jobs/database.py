"""One SQLite file that holds a server's jobs, written by any thread of any server process on this machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recordings.errors import DiskFullError

from .records import SCHEMA


class Database:
    """A connection shared by threads, one transaction at a time.

    A transaction that has ended is on the disk (``synchronous = FULL``), so that what was acknowledged outlives a power
    cut. The file must lie on a local disk: SQLite's locks do not hold on network file systems.
    """

    def __init__(self, path: Path):
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._connection.row_factory = sqlite3.Row
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end, or roll back on any error; `DiskFullError` where SQLite finds no room."""
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if "full" not in str(error):
                    raise
                raise DiskFullError(
                    "no room on the server's disk", where="jobs", remedy="Try again later, or delete data"
                ) from error

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()
