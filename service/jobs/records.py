"""`Job`: what the store knows of one, and how that stands in the database."""

from __future__ import annotations

import enum
import json
import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from service.data import Terms


class State(enum.StrEnum):
    """Where a job stands."""

    queued = "QUEUED"
    running = "RUNNING"
    paused = "PAUSED"
    succeeded = "SUCCEEDED"
    failed = "FAILED"
    cancelled = "CANCELLED"


Failure = tuple[int, str, str]
ENDED = (State.succeeded, State.failed, State.cancelled)


@dataclass(frozen=True)
class Job:
    """A job as it stands, or stood at an event.

    Attributes
    ----------
    verb, arguments : what was asked for. failure : code of google.rpc.Code, message and class of the error.
    stage, done, total : how far it is. attempts : starts so far.
    created, ended, expires : seconds since 1970. sources : ids of the uploads that it was derived from.
    """

    id: str
    owner: str
    key: str
    verb: str
    arguments: dict[str, Any]
    state: State
    failure: Failure | None
    stage: str
    done: int
    total: int
    attempts: int
    created: float
    ended: float | None
    expires: float | None
    terms: Terms
    sources: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def at(self, event: str) -> Job:
        """The job as an event of its saw it."""
        values = json.loads(event)
        failure = values.pop("failure")
        state = State(values.pop("state"))
        return replace(self, state=state, failure=_failure(failure), **values)

    def event(self) -> str:
        """What changes in the life of a job."""
        names = ("failure", "state", "stage", "done", "total", "attempts", "ended", "expires")
        return json.dumps({name: getattr(self, name) for name in names})


SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, key TEXT NOT NULL, verb TEXT NOT NULL, arguments TEXT NOT NULL,
    fingerprint TEXT NOT NULL, state TEXT NOT NULL, failure TEXT,
    stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, ended REAL, expires REAL, terms TEXT NOT NULL, sources TEXT NOT NULL, latest REAL,
    worker TEXT, lease REAL, wake REAL, stop INTEGER NOT NULL DEFAULT 0, doomed INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS job_key ON job (owner, key) WHERE key != '';
CREATE INDEX IF NOT EXISTS job_state ON job (state, number);
CREATE TABLE IF NOT EXISTS event (
    job_id TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job_id, sequence)
);
"""


def job_of(row: sqlite3.Row) -> Job:
    """A row of the table job."""
    same = ("id", "owner", "key", "verb", "stage", "done", "total", "attempts", "created", "ended", "expires")
    return Job(
        arguments=json.loads(row["arguments"]),
        state=State(row["state"]),
        failure=_failure(json.loads(row["failure"] or "null")),
        terms=Terms.from_dict(json.loads(row["terms"])),
        sources=tuple(json.loads(row["sources"])),
        **{name: row[name] for name in same},
    )


def _failure(values: list[Any] | None) -> Failure | None:
    return None if values is None else (int(values[0]), str(values[1]), str(values[2]))
