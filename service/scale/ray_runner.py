"""`RayRunner`: models in worker processes of Ray Serve, on this machine or on many.

Requests come to the same gRPC server as without Ray, which hands whole batches to Ray Serve's deployment handles. Ray's
own HTTP and gRPC doors stay shut.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from recordings.errors import PenfieldError
from recordings.events import OnEvent, Stop
from studies.scale.ray_cluster import ray_cluster

from ..errors import BusyError, DamagedModelError, UnavailableError
from ..items import OnRow
from ..repository import ModelEntry, ModelKey, ModelRepository
from ..runner import ModelState
from .replica import EVENT, RESULTS, ROW, MakeRunner, Replica, local_runner

log = logging.getLogger("penfield.server")

STOP_SECONDS = 0.05
LOAD_SECONDS = 300.0
RETRY_SECONDS = 5.0
# More than ever come at once, since callers queue and batch: at its limit Ray would ask workers again and again.
ONGOING = 100


class RayRunner:
    """A runner whose models are Ray Serve deployments, one a model, with as many workers as told.

    Ray is started, or joined where RAY_ADDRESS names a cluster, with the first model. Workers that die are replaced by
    Ray; what they were at raises `UnavailableError`.

    Parameters
    ----------
    repository : of the models; workers must see its folder under the same path.
    device : where models run; on "cuda", or "auto" where the cluster has GPUs, each worker takes one.
    replicas : workers a model, or the fewest and the most between which Ray chooses by load.
    workers : CPUs of a cluster of this machine's own; all by default.
    make_runner : gives the runner within a worker.
    """

    def __init__(
        self,
        repository: ModelRepository,
        *,
        device: str = "auto",
        replicas: int | tuple[int, int] = 1,
        workers: int | None = None,
        make_runner: MakeRunner = local_runner,
    ):
        self.repository, self.device, self.replicas, self.workers = repository, device, replicas, workers
        self._make_runner = make_runner
        self._cluster = ExitStack()
        self._started = False
        self._handles: dict[ModelKey, tuple[str, Any]] = {}
        self._states: dict[ModelKey, ModelState] = {}
        self._locks: dict[ModelKey, asyncio.Lock] = {}
        self._starting = asyncio.Lock()

    @property
    def parallel(self) -> int:
        """How many batches of one model can be at work together."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas[1]

    def state(self, key: ModelKey) -> ModelState:
        """Where a model stands; what it takes of the workers' memory is not known here."""
        return self._states.get(key, ModelState())

    async def load(self, entry: ModelEntry) -> None:
        """Start the workers of a model and load it in each; nothing to do if they run with the same fingerprint.

        Workers of an older fingerprint end what they are at, while new ones start.

        Raises
        ------
        DamagedModelError, ... : what loading raises in a worker. UnavailableError : the workers did not start.
        """
        async with self._locks.setdefault(entry.key, asyncio.Lock()):
            known = self._handles.get(entry.key)
            if known is not None and known[0] == entry.fingerprint:
                return
            self._states[entry.key] = ModelState("loading")
            try:
                handle = await self._deploy(entry)
            except BaseException as error:
                reason = str(error) if isinstance(error, PenfieldError) else type(error).__name__
                self._states[entry.key] = ModelState("failed", reason)
                self._handles.pop(entry.key, None)
                raise
            self._handles[entry.key] = entry.fingerprint, handle
            self._states[entry.key] = ModelState("ready", entry=entry)

    async def unload(self, key: ModelKey) -> None:
        """End the workers of a model, after what they are at."""
        from ray import serve

        async with self._locks.setdefault(key, asyncio.Lock()):
            if self._handles.pop(key, None) is not None:
                await asyncio.to_thread(serve.delete, app_name(key))
            self._states.pop(key, None)

    async def describe(self, key: ModelKey) -> Any:
        """As `LocalRunner.describe`."""
        handle = await self._handle(key)
        with worker_errors(key):
            return await handle.describe.remote()

    async def encode(self, key: ModelKey, batch: Sequence[Any]) -> list[Any]:
        """As `LocalRunner.encode`; UnavailableError if the worker is lost."""
        handle = await self._handle(key)
        with worker_errors(key):
            found: list[Any] = await handle.encode.remote(list(batch))
            return found

    async def decode(
        self,
        key: ModelKey,
        batch: Sequence[Any],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
    ) -> list[Any]:
        """As `LocalRunner.decode`; UnavailableError if the worker is lost.

        Events and rows arrive on the event loop. A stop reaches the worker within `STOP_SECONDS` and its next step;
        cancelling the call stops all items.
        """
        handle = await self._handle(key)
        call = uuid.uuid4().hex
        watch = asyncio.ensure_future(_tell_stops(handle, call, stops))
        with worker_errors(key):
            stream = handle.options(stream=True).decode.remote(
                call, list(batch), [ear is not None for ear in on_events], [ear is not None for ear in on_rows]
            )
            told: list[dict[str, Any]] = [{} for _ in batch]
            try:
                async for kind, value in stream:
                    if kind == RESULTS:
                        return [list(told[item].values()) if found is None else found for item, found in value]
                    item, what = value
                    if kind == ROW:
                        told[item][what.stimulus_id] = what
                    ear = on_events[item] if kind == EVENT else on_rows[item]
                    if ear is not None:
                        ear(what)
            except asyncio.CancelledError:
                stream.cancel()
                raise
            finally:
                watch.cancel()
        raise UnavailableError("the worker ended without an answer", where=str(key), remedy="Ask again")

    async def close(self) -> None:
        """End all workers, and Ray if it was started here."""
        if self._started:
            from ray import serve

            await asyncio.to_thread(serve.shutdown)
            await asyncio.to_thread(self._cluster.close)
            self._started = False
        self._handles.clear()
        self._states.clear()

    async def _handle(self, key: ModelKey) -> Any:
        entry = self.repository.find(key.name, key.version)
        known = self._handles.get(key)
        if known is None or known[0] != entry.fingerprint:
            await self.load(entry)
        return self._handles[key][1]

    async def _deploy(self, entry: ModelEntry) -> Any:
        await self._start()
        name = app_name(entry.key)
        try:
            handle = await asyncio.wait_for(asyncio.to_thread(self._serve, entry, name), LOAD_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(
                "its workers did not start in time", where=str(entry.key), remedy="See whether the cluster has room"
            ) from error
        except RuntimeError as error:
            log.error("%s: %s", entry.key, error)
            raise DamagedModelError("its workers do not start", where=str(entry.key)) from error
        with worker_errors(entry.key):
            await handle.broadcast("load").results_async(timeout_s=LOAD_SECONDS)
        return handle

    def _serve(self, entry: ModelEntry, name: str) -> Any:
        import ray
        from ray import serve

        gpus = int(self.device in ("auto", "cuda") and ray.cluster_resources().get("GPU", 0) > 0)
        scaling: dict[str, Any] = {"num_replicas": self.replicas}
        if not isinstance(self.replicas, int):
            least, most = self.replicas
            scaling = {
                "autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": 1}
            }
        deployment = serve.deployment(
            name="model",
            max_ongoing_requests=ONGOING,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            health_check_period_s=1,
            health_check_timeout_s=30,
            graceful_shutdown_timeout_s=60,
            **scaling,
        )(Replica)
        app = deployment.bind(entry, self.repository.folder, self.device, self._make_runner)
        # Without a proxy there is no route.
        return serve.run(app, name=name, route_prefix=None)

    async def _start(self) -> None:
        async with self._starting:
            if not self._started:
                await asyncio.to_thread(self._start_serve)
                self._started = True

    def _start_serve(self) -> None:
        from ray import serve

        self._cluster.enter_context(ray_cluster(self.workers))
        serve.start(proxy_location="Disabled")


def app_name(key: ModelKey) -> str:
    """Name of a model's application: readable, and its own."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', str(key))}-{hashlib.sha256(str(key).encode()).hexdigest()[:8]}"


@contextmanager
def worker_errors(key: ModelKey) -> Iterator[None]:
    """Turn what Ray raises into what a runner raises, without the names of nodes and processes.

    Raises
    ------
    UnavailableError : the worker is lost. BusyError : all have enough to do. Else what was raised in the worker.
    """
    from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

    where = str(key)
    try:
        yield
    except BackPressureError as error:
        raise BusyError("all workers are busy", retry_seconds=RETRY_SECONDS, where=where) from error
    except (
        RayActorError,
        WorkerCrashedError,
        DeploymentUnavailableError,
        ReplicaUnavailableError,
    ) as error:
        log.warning("a worker of %s was lost", key)
        raise UnavailableError("the worker that was at it is lost", where=where, remedy="Ask again") from error
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, PenfieldError) else RuntimeError(f"{type(cause).__name__}: {cause}") from error


async def _tell_stops(handle: Any, call: str, stops: Sequence[Stop | None]) -> None:
    """Tell the workers which items of a call are to stop; the one that is at it listens."""
    waiting: dict[int, Callable[[], bool]] = {item: stop for item, stop in enumerate(stops) if stop is not None}
    while waiting:
        for item in [item for item, stop in waiting.items() if stop()]:
            del waiting[item]
            await handle.broadcast("stop", call, item).results_async(return_exceptions=True)
        await asyncio.sleep(STOP_SECONDS)
