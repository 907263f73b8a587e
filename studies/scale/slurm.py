"""Units of work as SLURM jobs through submitit: as many jobs as workers, each with a part of the units."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recordings.errors import Cancelled, InputError
from recordings.events import Stop

from .units import ATTEMPTS, Failure, Unit, perform_all

POLL_SECONDS = 0.5
WORKERS = 8
DEFAULTS: dict[str, Any] = {"timeout_min": 240, "cpus_per_task": 2, "mem_gb": 8}


def slurm_executor(folder: Path, options: Mapping[str, Any]) -> Any:
    """A submitit executor whose jobs write their logs to `folder`.

    Parameters
    ----------
    options : as submitit names them (timeout_min, mem_gb, cpus_per_task, gpus_per_node, slurm_partition, ...), and
        cluster: "slurm", or "local" for jobs that are processes of this machine.

    Raises
    ------
    InputError : submitit is not installed, there is no SLURM, or an option is unknown.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed", remedy="pip install 'penfield[scale]'") from error
    given = {**DEFAULTS, **options}
    cluster = given.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name="penfield", **given)
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        raise InputError(
            f"no jobs on {cluster!r} with these options ({error})", remedy="Options are named as in submitit"
        ) from error
    return executor


def on_slurm(
    units: Sequence[Unit], executor: Any, workers: int | None, stop: Stop | None
) -> Iterator[tuple[Unit, Failure | None]]:
    """Units as their jobs end, with what kept them from it.

    The units of a job that is lost (killed, out of time or memory) are begun again in jobs of their own, at most
    `ATTEMPTS` times in all; what it had finished is found on disk. At most `workers` jobs run at once.

    Raises
    ------
    Cancelled : `stop` answered True; jobs are cancelled.
    """
    workers = workers or WORKERS
    # Neighbours share a subject, whose data are then read once.
    size = -(-len(units) // workers)
    waiting = [(list(units[first : first + size]), 1) for first in range(0, len(units), size)]
    running: list[tuple[Any, list[Unit], int]] = []
    try:
        while waiting or running:
            running += _submit(executor, waiting, workers - len(running))
            for entry in [entry for entry in running if entry[0].done()]:
                running.remove(entry)
                for unit, lost, failure in _outcome(*entry):
                    if lost and entry[2] < ATTEMPTS:
                        waiting.append(([unit], entry[2] + 1))
                    else:
                        yield unit, failure
            if stop is not None and stop():
                raise Cancelled(f"stopped with {sum(len(part) for _, part, _ in running)} units of work in jobs")
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        for job, _, _ in running:
            job.cancel()


def _submit(executor: Any, waiting: list[tuple[list[Unit], int]], free: int) -> list[tuple[Any, list[Unit], int]]:
    """Jobs for the first of what waits, as one array."""
    now = [waiting.pop(0) for _ in range(min(free, len(waiting)))]
    if not now:
        return []
    with executor.batch():
        jobs = [executor.submit(perform_all, [unit.to_json() for unit in part]) for part, _ in now]
    return [(job, part, attempt) for job, (part, attempt) in zip(jobs, now, strict=True)]


def _outcome(job: Any, part: list[Unit], attempt: int) -> Iterator[tuple[Unit, bool, Failure | None]]:
    """Each unit of a job that has ended, whether its job was lost, and what kept it from its results."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        errors = job.result()
    except (UncompletedJobError, FailedJobError) as error:
        lost = isinstance(error, UncompletedJobError)
        what = f"its job was lost {attempt} times" if lost else _last_line(error)
        # An error that we did not foresee: in jobs of their own, the others of this one come out.
        again = lost or len(part) > 1
        for unit in part:
            yield unit, again, Failure(str(unit), what, attempt)
        return
    for unit, found in zip(part, errors, strict=True):
        yield unit, False, None if found is None else Failure(str(unit), found, attempt)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("---")]
    return next((line for line in reversed(lines) if "Error" in line), str(error))
