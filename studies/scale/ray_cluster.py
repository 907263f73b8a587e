"""Ray: a cluster of this machine's own on loopback, or the one that RAY_ADDRESS names; and units of work on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from recordings.errors import Cancelled, InputError
from recordings.events import Stop

from .units import ATTEMPTS, Failure, Unit, perform

LOOPBACK = "127.0.0.1"
# Units pass names; arrays go through files.
OBJECT_STORE_BYTES = 200_000_000
POLL_SECONDS = 0.2


@contextmanager
def ray_cluster(workers: int | None = None) -> Iterator[None]:
    """Ray while the context lasts: what runs in this process already, the cluster at RAY_ADDRESS, or one of our own.

    Our own has `workers` CPUs (all of the machine by default), announces itself under 127.0.0.1 only, has no dashboard
    and reports no usage. Some of Ray's processes listen on every interface nevertheless, with Ray's token
    authentication before them: keep its ports behind a firewall.

    Raises
    ------
    InputError : Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed", remedy="pip install 'penfield[scale]'") from error
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would start a worker that runs out of memory again without end.
    os.environ.setdefault("RAY_task_oom_retries", str(ATTEMPTS - 1))
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    else:
        ray.init(
            num_cpus=workers or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address=LOOPBACK,
        )
    try:
        yield
    finally:
        ray.shutdown()


def on_ray(units: Sequence[Unit], device: str, stop: Stop | None) -> Iterator[tuple[Unit, Failure | None]]:
    """Units as they are done, in any order, with what kept them from it.

    A unit whose worker is lost is begun again, at most `ATTEMPTS` times in all. Needs `ray_cluster`, and on several
    machines a folder of results that all of them see.

    Raises
    ------
    Cancelled : `stop` answered True; what runs is killed.
    """
    import ray

    gpus = int(device in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) > 0)
    how = {"num_cpus": 1, "num_gpus": gpus, "max_retries": ATTEMPTS - 1, "retry_exceptions": False}
    remote = ray.remote(perform)
    pending = {remote.options(name=str(unit), **how).remote(unit.to_json()): unit for unit in units}
    try:
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_SECONDS)
            for reference in done:
                unit = pending.pop(reference)
                yield unit, _failure(unit, reference)
            if stop is not None and stop():
                raise Cancelled(f"stopped with {len(pending)} units of work left")
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)


def _failure(unit: Unit, reference: object) -> Failure | None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        error = ray.get(reference)
    except RayTaskError as failed:
        return Failure(str(unit), f"{type(failed.cause).__name__}: {failed.cause}")
    except RayError as lost:
        return Failure(str(unit), f"its worker was lost {ATTEMPTS} times ({type(lost).__name__})", ATTEMPTS)
    return None if error is None else Failure(str(unit), error)
