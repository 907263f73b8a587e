"""`JobQueue`: the side of the store that runners see, who take jobs on a lease and tell how they go."""

from __future__ import annotations

import json
from dataclasses import dataclass

from service.errors import UnavailableError

from .records import Failure, Job, State, job_of
from .store import JobStore

# Of google.rpc.Code.
UNAVAILABLE = 14


@dataclass(frozen=True)
class Orders:
    """What a runner hears when it renews its lease.

    Attributes
    ----------
    mine : it still has the job. stop : the caller has cancelled it. doomed : its data were deleted; it is to be erased.
    """

    mine: bool
    stop: bool
    doomed: bool


class JobQueue:
    """Jobs for one runner; several runners, also of several processes, may share the store.

    A runner that dies stops renewing its lease, and another takes the job over. Starts are counted, so that a job
    that brings down whoever runs it is given up.

    Parameters
    ----------
    store : the jobs. runner : name that no other runner has.
    lease : seconds for which a job is a runner's own. max_attempts : starts of a job.
    """

    def __init__(self, store: JobStore, runner: str, *, lease: float = 15.0, max_attempts: int = 3):
        self.store, self.runner, self.lease, self.max_attempts = store, runner, lease, max_attempts

    def claim(self) -> Job | None:
        """Take the job that has waited longest; None if none waits."""
        self._take_back()
        now = self.store.clock()
        with self.store.database.transaction() as connection:
            waiting = "SELECT id FROM job WHERE state = ? AND doomed = 0 AND coalesce(wake, 0) <= ? ORDER BY number"
            row = connection.execute(f"{waiting} LIMIT 1", (State.queued, now)).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE job SET state = ?, worker = ?, lease = ?, wake = NULL, attempts = attempts + 1 WHERE id = ?",
                (State.running, self.runner, now + self.lease, row["id"]),
            )
            self.store.write_event(connection, row["id"])
            job = job_of(connection.execute("SELECT * FROM job WHERE id = ?", (row["id"],)).fetchone())
        self.store.notify(job.id)
        return job

    def beat(self, id: str) -> Orders:
        """Renew the lease, and hear whether to go on."""
        with self.store.database.transaction() as connection:
            values = (self.store.clock() + self.lease, id, self.runner, State.running)
            mine = "UPDATE job SET lease = ? WHERE id = ? AND worker = ? AND state = ?"
            changed = connection.execute(mine, values).rowcount
            row = connection.execute("SELECT stop, doomed FROM job WHERE id = ?", (id,)).fetchone()
        return Orders(changed == 1, row is None or bool(row["stop"]), row is None or bool(row["doomed"]))

    def progress(self, id: str, stage: str, done: int, total: int) -> None:
        """Say how far the job is."""
        self._change(id, "stage = ?, done = ?, total = ?", stage, done, total)

    def succeed(self, id: str) -> None:
        """The result stands under its name."""
        self._end(id, State.succeeded, None)

    def fail(self, id: str, failure: Failure) -> None:
        """Give the job up."""
        self._end(id, State.failed, json.dumps(failure))

    def cancelled(self, id: str) -> None:
        """The caller stopped it; what it has written stays for another submission."""
        self._end(id, State.cancelled, None)

    def pause(self, id: str, seconds: float) -> None:
        """No room on the disk; the start does not count."""
        wake = self.store.clock() + seconds
        self._change(id, "state = ?, wake = ?, attempts = attempts - 1", State.paused, wake)

    def give_back(self, id: str, *, counted: bool, seconds: float = 0.0) -> None:
        """Let another runner, or this one later, go on with it.

        Parameters
        ----------
        counted : the start counts as an attempt. seconds : not before so long.
        """
        wake = self.store.clock() + seconds
        self._change(id, "state = ?, wake = ?, attempts = attempts - ?", State.queued, wake, int(not counted))

    def lost(self, id: str, why: str) -> None:
        """Its process has died: try again, or give it up after `max_attempts` starts."""
        rows = self.store.database.rows("SELECT attempts FROM job WHERE id = ?", id)
        if rows and rows[0]["attempts"] >= self.max_attempts:
            said = f"{why} at each of {rows[0]['attempts']} attempts. Ask the server's keeper, whose log says more"
            self.fail(id, (UNAVAILABLE, said, UnavailableError.__name__))
        else:
            self.give_back(id, counted=True)

    def _take_back(self) -> None:
        now = self.store.clock()
        orphans = "SELECT id FROM job WHERE state = ? AND doomed = 0 AND lease <= ?"
        for row in self.store.database.rows(orphans, State.running, now):
            with self.store.database.transaction() as connection:
                # Only one runner may find it; the claim below then asks for its turn.
                found = connection.execute(
                    "UPDATE job SET worker = ?, lease = ? WHERE id = ? AND lease <= ? AND state = ?",
                    (self.runner, now + self.lease, row["id"], now, State.running),
                ).rowcount
            if found:
                self._orphan(row["id"])
        paused = "SELECT id FROM job WHERE state = ? AND wake <= ?"
        for row in self.store.database.rows(paused, State.paused, now):
            with self.store.database.transaction() as connection:
                values = (State.queued, row["id"], State.paused)
                if connection.execute("UPDATE job SET state = ? WHERE id = ? AND state = ?", values).rowcount:
                    self.store.write_event(connection, row["id"])

    def _orphan(self, id: str) -> None:
        (row,) = self.store.database.rows("SELECT stop FROM job WHERE id = ?", id)
        if row["stop"]:
            self.cancelled(id)
        else:
            self.lost(id, "the server went down")

    def _end(self, id: str, state: State, failure: str | None) -> None:
        expires = self.store.expiry(id) if self.store.database.rows("SELECT 1 FROM job WHERE id = ?", id) else None
        values = (state, failure, self.store.clock(), expires)
        self._change(id, "state = ?, failure = ?, ended = ?, expires = ?, lease = NULL", *values)

    def _change(self, id: str, change: str, *values: object) -> None:
        """Change a job that is this runner's, with an event of it; one that is not any more stays as it is."""
        with self.store.database.transaction() as connection:
            mine = f"UPDATE job SET {change} WHERE id = ? AND worker = ? AND state = ?"
            if connection.execute(mine, (*values, id, self.runner, State.running)).rowcount:
                self.store.write_event(connection, id)
        self.store.notify(id)
