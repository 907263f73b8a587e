"""`JobStore`: jobs that outlive calls and servers."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from recordings.errors import InputError
from recordings.storage import remove
from service.data import DataStore
from service.errors import BusyError, ConflictError, ModelNotFoundError, NotReadyError
from service.verbs import VERBS, Verb, parse
from service.verbs.publish import published_from
from service.verbs.references import Reference

from .database import Database
from .lineage import Lineage, lineage_of
from .records import Job, State, job_of

MAX_ARGUMENTS = 1 << 20
RESULT, PART, ANSWER = "result", "part", "answer.json"
ACTIVE = (State.queued, State.running, State.paused)


class Repository(Protocol):
    """What is asked of the repository of models, see `service.repository.ModelRepository`."""

    def find(self, name: str, version: str = "") -> Any:
        """The model's entry, which has a `folder`."""


class JobStore:
    """Jobs in a folder of the server: a database, and for each job a folder ``jobs/ID`` with its result.

    All methods may be called from any thread. Jobs of another caller are not there. What a method has returned is on
    the disk.

    Parameters
    ----------
    folder : of the server's data. data : uploads, whose deletion takes along what was derived from them.
    repository, models : of models that jobs may use, and its folder.
    retention : seconds that results stay after a job has ended, where the data they come from stay as long.
    max_active : jobs of a caller that have not ended. clock : seconds since 1970.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        data: DataStore,
        repository: Repository,
        models: str | PathLike[str],
        *,
        retention: float = 30 * 86400.0,
        max_active: int = 100,
        clock: Callable[[], float] = time.time,
    ):
        self.folder = Path(folder).resolve()
        self.data, self.repository, self.models = data, repository, Path(models).resolve()
        self.retention, self.max_active, self.clock = retention, max_active, clock
        self._listeners, self._listening = set[Callable[[str], None]](), threading.Lock()
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = Database(self.folder / "jobs.sqlite")
        data.derived = self.delete_derived

    # Callers' side -----------------------------------------------------------------------------------------------

    def submit(self, owner: str, verb: str, arguments: dict[str, Any], key: str = "") -> Job:
        """Queue a job; the same key with the same request gives the same job.

        A request that was cancelled before goes on where it was stopped, as the same job.

        Raises
        ------
        InputError, UnknownNameError : no such verb, or arguments that it does not take. ModelNotFoundError : data, a
        model or a job that the caller does not have. NotReadyError : a job it reads has not succeeded. ConflictError :
        the key is another request's. BusyError : too many jobs of the caller wait already.
        """
        asked = parse(verb, arguments)
        text = json.dumps(arguments, sort_keys=True)
        if len(text) > MAX_ARGUMENTS or len(key) > 200:
            raise InputError("a request of more than 1 MiB, or a key of more than 200 letters", where=verb)
        fingerprint = hashlib.sha256(f"{verb}\n{text}".encode()).hexdigest()
        if (known := self._known(owner, fingerprint, key)) is not None:
            return known
        found = self._lineage(asked, owner)
        with self.database.transaction() as connection:
            active = f"owner = ? AND state IN ({','.join('?' * len(ACTIVE))})"
            (waiting,) = connection.execute(f"SELECT count(*) FROM job WHERE {active}", (owner, *ACTIVE)).fetchone()
            if waiting >= self.max_active:
                raise BusyError(f"{waiting} jobs wait already", retry_seconds=30, where=verb)
            values = {
                "id": uuid.uuid4().hex[:16],
                "owner": owner,
                "key": key,
                "verb": verb,
                "arguments": text,
                "fingerprint": fingerprint,
                "state": State.queued,
                "created": self.clock(),
                "terms": json.dumps(found.terms.to_dict()),
                "sources": json.dumps(found.sources),
                "latest": found.latest,
            }
            names = ", ".join(values)
            try:
                connection.execute(
                    f"INSERT INTO job ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
                )
            except sqlite3.IntegrityError:
                # The same key came twice at once; the other call has queued it.
                pass
            else:
                self.write_event(connection, str(values["id"]))
        if (same := self._known(owner, fingerprint, key)) is not None and same.id != values["id"]:
            return same
        self.notify(str(values["id"]))
        return self.get(str(values["id"]), owner)

    def get(self, id: str, owner: str) -> Job:
        """The caller's job of an id, with or without "job:"; `ModelNotFoundError` if there is none."""
        rows = self.database.rows(
            "SELECT * FROM job WHERE id = ? AND owner = ? AND doomed = 0", id.removeprefix("job:"), owner
        )
        if not rows:
            raise ModelNotFoundError(f"no job {id[:50]!r}", remedy="ListJobs tells what there is")
        return job_of(rows[0])

    def held_by(self, owner: str) -> list[Job]:
        """The caller's jobs, newest first."""
        rows = self.database.rows("SELECT * FROM job WHERE owner = ? AND doomed = 0 ORDER BY number DESC", owner)
        return [job_of(row) for row in rows]

    def events(self, id: str, owner: str, start: int, limit: int = 100) -> list[tuple[int, Job]]:
        """Events of a job from a number on, each with the job as it stood then."""
        job = self.get(id, owner)
        query = "SELECT sequence, body FROM event WHERE job_id = ? AND sequence >= ? ORDER BY sequence LIMIT ?"
        return [(row["sequence"], job.at(row["body"])) for row in self.database.rows(query, job.id, start, limit)]

    def cancel(self, id: str, owner: str) -> Job:
        """Stop a job: at once where it waits, within one step where it runs; one that has ended stays as it is."""
        job = self.get(id, owner)
        with self.database.transaction() as connection:
            changed = connection.execute(
                "UPDATE job SET state = ?, ended = ?, expires = ? WHERE id = ? AND state IN (?, ?)",
                (State.cancelled, self.clock(), self.expiry(job.id), job.id, State.queued, State.paused),
            )
            if changed.rowcount:
                self.write_event(connection, job.id)
            connection.execute("UPDATE job SET stop = 1 WHERE id = ? AND state = ?", (job.id, State.running))
        self.notify(job.id)
        return self.get(job.id, owner)

    def result(self, id: str, owner: str) -> tuple[str, Path]:
        """The answer as JSON and the folder of a job that has succeeded; else `NotReadyError`."""
        job = self.get(id, owner)
        if job.state is not State.succeeded:
            raise NotReadyError(f"is {job.state.lower()}", where=f"job:{job.id}", remedy="Fetch it when it is done")
        folder = self.place(job.id)
        return (folder / ANSWER).read_text(), folder / RESULT

    # Where things are --------------------------------------------------------------------------------------------

    def place(self, id: str) -> Path:
        """Folder of a job."""
        return self.folder / "jobs" / id

    def resolve(self, verb: Verb, owner: str) -> dict[str, Path]:
        """Where the root of each reference of a verb is; raises as `submit` does."""
        return {str(reference): self._path(reference, owner) for reference in verb.references()}

    def _path(self, reference: Reference, owner: str) -> Path:
        scheme, _, name = reference.root.partition(":")
        if scheme == "data":
            return self.data.path(reference.root, owner)
        if scheme == "model":
            name, _, version = name.partition("@")
            return Path(self.repository.find(name, version).folder)
        _, folder = self.result(reference.root, owner)
        writes = VERBS[self.get(reference.root, owner).verb].writes
        # A path inside is one of the job's folder; without one, it is what the verb is there to write.
        return folder / writes if writes and not reference.inside else folder

    def _lineage(self, verb: Verb, owner: str) -> Lineage:
        return lineage_of(self.resolve(verb, owner), owner, self)

    def _known(self, owner: str, fingerprint: str, key: str) -> Job | None:
        """The job of the same key, or the same request if it was cancelled, which is queued again."""
        query = "SELECT * FROM job WHERE owner = ? AND doomed = 0 AND "
        if key:
            rows = self.database.rows(query + "key = ?", owner, key)
            if rows and rows[0]["fingerprint"] != fingerprint:
                raise ConflictError("the key is taken by another request", where=key, remedy="Choose another key")
        else:
            last = "key = '' AND fingerprint = ? AND state = ? ORDER BY number DESC LIMIT 1"
            rows = self.database.rows(query + last, owner, fingerprint, State.cancelled)
        if not rows:
            return None
        with self.database.transaction() as connection:
            again = connection.execute(
                "UPDATE job SET state = ?, attempts = 0, stop = 0, ended = NULL, expires = NULL "
                "WHERE id = ? AND state = ?",
                (State.queued, rows[0]["id"], State.cancelled),
            )
            if again.rowcount:
                self.write_event(connection, rows[0]["id"])
        self.notify(rows[0]["id"])
        return self.get(rows[0]["id"], owner)

    # Endings -----------------------------------------------------------------------------------------------------

    def delete_derived(self, data_id: str) -> list[str]:
        """Delete jobs and published models that were derived from uploaded data; the jobs' ids."""
        rows = self.database.rows("SELECT id, state, sources FROM job WHERE doomed = 0")
        derived = [row for row in rows if data_id in json.loads(row["sources"])]
        for row in derived:
            with self.database.transaction() as connection:
                connection.execute("UPDATE job SET doomed = 1, stop = 1 WHERE id = ?", (row["id"],))
            if row["state"] != State.running:
                self.erase(row["id"])
            # Whoever runs it kills its process, and then erases it.
            self.notify(row["id"])
        for folder in list(published_from(self.models, data_id)):
            doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.doomed")
            folder.rename(doomed)
            remove(doomed)
        return [row["id"] for row in derived]

    def erase(self, id: str) -> None:
        """Delete a job with its files."""
        remove(self.place(id))
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM job WHERE id = ?", (id,))
        self.notify(id)

    def sweep(self) -> list[str]:
        """Erase jobs whose time is over, and those whose data were deleted while nobody ran them."""
        over = "(expires IS NOT NULL AND expires <= ?) OR (doomed = 1 AND (state != ? OR lease <= ?))"
        rows = self.database.rows(f"SELECT id FROM job WHERE {over}", self.clock(), State.running, self.clock())
        for row in rows:
            self.erase(row["id"])
        return [row["id"] for row in rows]

    # What a runner needs -----------------------------------------------------------------------------------------

    def expiry(self, id: str) -> float:
        """When the result of a job that ends now will be erased."""
        (row,) = self.database.rows("SELECT latest FROM job WHERE id = ?", id)
        stays = self.clock() + self.retention
        return stays if row["latest"] is None else min(stays, row["latest"])

    def write_event(self, connection: sqlite3.Connection, id: str) -> None:
        """Add an event of how the job stands, in the transaction that changed it."""
        job = job_of(connection.execute("SELECT * FROM job WHERE id = ?", (id,)).fetchone())
        connection.execute(
            "INSERT INTO event SELECT ?, coalesce(max(sequence), 0) + 1, ? FROM event WHERE job_id = ?",
            (id, job.event(), id),
        )

    def listen(self, listener: Callable[[str], None]) -> None:
        """Have a function called with a job's id whenever something has happened to it, from any thread."""
        with self._listening:
            self._listeners.add(listener)

    def unlisten(self, listener: Callable[[str], None]) -> None:
        """Have it called no more."""
        with self._listening:
            self._listeners.discard(listener)

    def notify(self, id: str) -> None:
        """Tell all listeners that something has happened to a job."""
        with self._listening:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(id)

    def close(self) -> None:
        """Close the database."""
        self.database.close()
