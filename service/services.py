"""Everything that a server of this package answers, put together from its settings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from recordings.errors import PenfieldError

from .observability.metrics import Metrics
from .settings import ServerSettings

if TYPE_CHECKING:
    from .data.store import DataStore
    from .jobs.store import JobStore
    from .media import Limits

log = logging.getLogger("penfield.server")

MIB, GIB = 2**20, 2**30
DAY = 86400.0


class AllServices:
    """Models, encoding, decoding, alignment, clustering, data, jobs, and the Open Inference Protocol.

    Data, jobs and alignment, which works on uploads, are there if the settings name a folder for data.

    Parameters
    ----------
    settings : of the server.
    metrics : what the engine reports to.
    ready : whether the server wants calls, for clients of the Open Inference Protocol.

    Attributes
    ----------
    playground_port : where the playground is, after `add_to`; None without one.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, ready: Callable[[], bool] = lambda: True):
        self.settings = settings
        self.metrics = metrics
        self.ready = ready
        self.engine: Any = None
        self.playground_port: int | None = None
        self._open = AsyncExitStack()

    async def add_to(self, server: Any) -> list[str]:
        """Register with a grpc.aio server; full names of the services.

        Raises
        ------
        InputError : a folder that cannot be used.
        """
        from .engine import Engine

        repository, runner = await asyncio.to_thread(self._runner)
        settings = self.settings
        self.engine = Engine(
            repository,
            runner,
            batch_size=settings.batch_size,
            batch_wait=settings.batch_wait_ms / 1000,
            queue_size=settings.queue_size,
            max_answer_bytes=settings.max_send_mib * MIB,
            metrics=self.metrics,
        )
        self._open.push_async_callback(self.engine.close)
        pool = TimedPool(settings.threads, self.metrics.pictures.observe)
        self._open.push_async_callback(asyncio.to_thread, pool.shutdown, cancel_futures=True)
        names = [register(server) for register in self._answering(pool)]
        if settings.data is not None:
            names += await self._add_data(server, repository)
        if settings.playground_port is not None:
            self.playground_port = await self._open_playground(pool, settings.playground_port)
        return names

    async def warm_up(self) -> None:
        """Load the models that the settings name; one that cannot be loaded is told in the log and spares the rest."""
        for asked in self.settings.warm_up:
            name, _, version = asked.partition("@")
            try:
                await self.engine.load(name, version)
            except PenfieldError as error:
                log.error("%s was not loaded: %s", asked, error)
            except Exception:
                log.exception("%s was not loaded", asked)

    async def close(self) -> None:
        """Stop jobs at their next step, unload models, end threads."""
        await self._open.aclose()

    @property
    def _limits(self) -> Limits:
        from .media import Limits

        return Limits(max_pixels=self.settings.max_pixels, max_frames=self.settings.max_frames)

    def _runner(self) -> tuple[Any, Any]:
        from .repository import ModelRepository

        settings = self.settings
        repository = ModelRepository(settings.models, device=settings.device)
        budget = None if settings.memory_budget_gb is None else round(settings.memory_budget_gb * GIB)
        decoding: dict[str, Any] = {
            "max_seconds": settings.max_decode_seconds,
            "max_bytes": settings.max_decode_gib * GIB,
        }
        if settings.on == "ray":
            from .scale.ray_runner import RayRunner
            from .scale.replica import local_runner

            most = settings.max_replicas or settings.replicas
            replicas = settings.replicas if most == settings.replicas else (settings.replicas, most)
            make = partial(local_runner, **decoding)
            return repository, RayRunner(repository, device=settings.device, replicas=replicas, make_runner=make)
        from .runner import LocalRunner

        return repository, LocalRunner(
            repository, device=settings.device, memory_budget_bytes=budget, observer=self.metrics, **decoding
        )

    def _answering(self, pool: ThreadPoolExecutor) -> Iterator[Callable[[Any], str]]:
        from .generated.inference import grpc_service_pb2, grpc_service_pb2_grpc
        from .generated.penfield.v1 import (
            clustering_pb2,
            clustering_pb2_grpc,
            decoding_pb2,
            decoding_pb2_grpc,
            encoding_pb2,
            encoding_pb2_grpc,
            model_pb2,
            model_pb2_grpc,
        )
        from .inference import InferenceServicer
        from .servicers.clustering import ClusteringServicer
        from .servicers.decoding import DecodingServicer
        from .servicers.encoding import EncodingServicer
        from .servicers.models import ModelServicer

        engine = self.engine
        yield _adding(model_pb2, model_pb2_grpc, "ModelService", ModelServicer(engine))
        yield _adding(encoding_pb2, encoding_pb2_grpc, "EncodingService", EncodingServicer(engine, self._limits, pool))
        yield _adding(decoding_pb2, decoding_pb2_grpc, "DecodingService", DecodingServicer(engine, pool))
        yield _adding(clustering_pb2, clustering_pb2_grpc, "ClusteringService", ClusteringServicer())
        inference = InferenceServicer(engine, self.ready)
        yield _adding(grpc_service_pb2, grpc_service_pb2_grpc, "GRPCInferenceService", inference)

    async def _add_data(self, server: Any, repository: Any) -> list[str]:
        from .generated.penfield.v1 import (
            alignment_pb2,
            alignment_pb2_grpc,
            data_pb2,
            data_pb2_grpc,
            job_pb2,
            job_pb2_grpc,
        )
        from .jobs.runner import JobRunner
        from .servicers.alignment import AlignmentServicer
        from .servicers.data import DataServicer
        from .servicers.jobs import JobServicer

        data, jobs = await asyncio.to_thread(self._stores, repository)
        self._open.push_async_callback(asyncio.to_thread, jobs.close)
        self.metrics.count_jobs(lambda: _jobs_by_state(jobs))
        settings = self.settings
        runner = JobRunner(jobs, device=settings.device, concurrency=settings.job_slots, grace=settings.grace)
        await runner.start()
        self._open.push_async_callback(runner.stop)
        alignment = AlignmentServicer(data, device=settings.device, at_once=settings.job_slots)
        return [
            _adding(data_pb2, data_pb2_grpc, "DataService", DataServicer(data))(server),
            _adding(job_pb2, job_pb2_grpc, "JobService", JobServicer(jobs))(server),
            _adding(alignment_pb2, alignment_pb2_grpc, "AlignmentService", alignment)(server),
        ]

    async def _open_playground(self, pool: ThreadPoolExecutor, port: int) -> int:
        from .playground.site import Playground

        settings = self.settings
        playground = Playground(
            self.engine,
            self._limits,
            pool,
            max_body=settings.max_receive_mib * MIB,
            deadline=settings.deadline,
            stream_deadline=settings.stream_deadline,
        )
        await playground.start(port)
        self._open.push_async_callback(playground.stop)
        return playground.port

    def _stores(self, repository: Any) -> tuple[DataStore, JobStore]:
        from .data.store import DataStore
        from .jobs.store import JobStore

        settings = self.settings
        assert settings.data is not None
        retention = settings.retention_days * DAY
        data = DataStore(
            settings.data,
            retention=retention,
            max_bytes=round(settings.upload_max_gib * GIB),
            quota=round(settings.quota_gib * GIB),
        )
        return data, JobStore(settings.data, data, repository, settings.models, retention=retention)


class TimedPool(ThreadPoolExecutor):
    """Threads that report how long each piece of work took, in seconds."""

    def __init__(self, threads: int, observe: Callable[[float], None]):
        super().__init__(threads, thread_name_prefix="penfield-pictures")
        self._observe = observe

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As every executor."""
        return super().submit(self._timed, fn, *args, **kwargs)

    def _timed(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return fn(*args, **kwargs)
        finally:
            self._observe(time.perf_counter() - start)


def _jobs_by_state(jobs: JobStore) -> dict[str, int]:
    from .jobs.records import State

    found = {
        row["state"]: int(row["n"]) for row in jobs.database.rows("SELECT state, count(*) AS n FROM job GROUP BY 1")
    }
    return {state.name: found.get(state.value, 0) for state in State}


def _adding(messages: Any, services: Any, name: str, servicer: Any) -> Callable[[Any], str]:
    def add(server: Any) -> str:
        getattr(services, f"add_{name}Servicer_to_server")(servicer, server)
        return str(messages.DESCRIPTOR.services_by_name[name].full_name)

    return add
