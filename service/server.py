"""`Server`: one process that answers gRPC, from its first connection to the last call that it lets end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from recordings.errors import FormatError, InputError

from .calls import Deadlines, Gate
from .observability.logs import logging_to_stderr
from .observability.metrics import Metrics
from .observability.tracing import Span, no_span, spans_to
from .security.audit import audit_to
from .security.limits import Shares
from .security.tokens import Tokens
from .security.transport import server_credentials
from .settings import ServerSettings

log = logging.getLogger("penfield.server")

MIB = 2**20
# Beyond max_rpcs, which tells clients when to come again, grpc refuses by itself; probes are let in between the two.
PROBES = 64
# For a connection without calls; clients connect anew when they need one.
IDLE_SECONDS = 300
REFRESH_SECONDS = 2.0
# A watcher that does not read would hold up the news for all, and with it the end of the server.
TELL_SECONDS = 2.0
# For calls that do not end when they are cancelled.
END_SECONDS = 10.0


class Services(Protocol):
    """What a server answers."""

    async def add_to(self, server: Any) -> list[str]:
        """Register with a grpc.aio server; full names of the services."""

    async def warm_up(self) -> None:
        """What is to be done before the server says that it is ready."""

    async def close(self) -> None:
        """Leave nothing running."""


class Server:
    """A server of Penfield's models.

    Parameters
    ----------
    settings : all it needs to know.
    services : what it answers; by default everything in this package.

    Attributes
    ----------
    port, metrics_port, playground_port : where it listens, after `start`; the latter two None where they are off.
    metrics : what it has counted.
    ready : whether it wants calls.
    """

    def __init__(self, settings: ServerSettings, services: Services | None = None):
        self.settings = settings
        self.metrics = Metrics()
        self.ready = False
        self.port = 0
        self.metrics_port: int | None = None
        self._services = services
        self._open = AsyncExitStack()
        self._health = HealthServicer()
        self._server: Any = None
        self._hurry = asyncio.Event()

    async def start(self) -> None:
        """Listen, and return; models to warm up are loaded while health says NOT_SERVING.

        Raises
        ------
        InputError : a port, certificate, file of tokens or folder that cannot be used.
        """
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise

    @property
    def playground_port(self) -> int | None:
        """See above; services that are not this package's have none."""
        return getattr(self._services, "playground_port", None)

    async def stop(self, grace: float | None = None, *, pause: float = 0) -> None:
        """Say NOT_SERVING, wait for `pause` seconds, refuse new calls, and let those in flight end within `grace`.

        Parameters
        ----------
        grace : seconds; the settings' own by default.
        pause : seconds in which load balancers may hear of it.
        """
        self.ready = False
        await _within(
            TELL_SECONDS, self._health.enter_graceful_shutdown, "not everybody who watches the health could be told"
        )
        await _first(self._hurry.wait(), asyncio.sleep(pause))
        grace = self.settings.grace if grace is None else grace
        stopping = asyncio.ensure_future(self._server.stop(grace))
        await _first(self._hurry.wait(), asyncio.shield(stopping), asyncio.sleep(grace + END_SECONDS))
        if not stopping.done():
            await _within(END_SECONDS, lambda: self._server.stop(0), "not every call could be ended")
        stopping.cancel()
        await self._open.aclose()

    async def serve_forever(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop with pause and grace; at once if a second one comes."""
        asked = asyncio.Event()

        def on_signal() -> None:
            (self._hurry if asked.is_set() else asked).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            await asked.wait()
            log.info("stopping")
            await self.stop(pause=self.settings.drain_pause)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _start(self) -> None:
        settings, dropped = self.settings, self.metrics.dropped.inc
        self._open.enter_context(logging_to_stderr(settings.log_format, settings.log_level, dropped))
        audit = self._open.enter_context(audit_to(settings.audit_log, dropped))
        span: Span = no_span
        if settings.traces is not None:
            span, end_traces = spans_to(settings.traces)
            self._open.push_async_callback(asyncio.to_thread, end_traces)
        if settings.metrics_port is not None:
            self.metrics_port, end_metrics = self.metrics.serve(settings.metrics_port)
            self._open.push_async_callback(asyncio.to_thread, end_metrics)
        tokens = Tokens(settings.tokens) if settings.tokens else None
        gate = Gate(
            Shares(total=settings.max_rpcs, at_once=settings.client_rpcs, rate=settings.client_rate),
            tokens=tokens,
            deadlines=Deadlines(settings.deadline, settings.max_deadline, settings.stream_deadline),
            metrics=self.metrics,
            audit=audit,
            span=span,
        )
        self._server = grpc.aio.server(
            interceptors=[gate], options=_options(settings), maximum_concurrent_rpcs=settings.max_rpcs + PROBES
        )
        names = await self._add_services()
        self.port = self._bind()
        await self._server.start()
        self._begin(self._say_ready(names))
        if tokens is not None:
            self._begin(_refresh(tokens))
        ports = {"port": self.port} | ({"metrics_port": self.metrics_port} if self.metrics_port else {})
        log.info("listening", extra={"fields": {"host": settings.host, **ports}})

    async def _add_services(self) -> list[str]:
        if self._services is None:
            from .services import AllServices

            self._services = AllServices(self.settings, self.metrics, lambda: self.ready)
        self._open.push_async_callback(self._services.close)
        names = await self._services.add_to(self._server)
        if self.settings.health:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self.settings.reflection:
            probes = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name] if self.settings.health else []
            reflection.enable_server_reflection([*names, *probes, reflection.SERVICE_NAME], self._server)
        return names

    def _bind(self) -> int:
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host.strip("[]") else settings.host
        try:
            if settings.tls_certificate is None or settings.tls_key is None:
                return int(self._server.add_insecure_port(f"{host}:{settings.port}"))
            credentials = server_credentials(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            return int(self._server.add_secure_port(f"{host}:{settings.port}", credentials))
        except RuntimeError as error:
            raise InputError(
                "the address cannot be had; something else listens there, or it is not of this machine",
                where=f"{host}:{settings.port}",
                remedy="Choose another port, or 0 for any that is free",
            ) from error

    async def _say_ready(self, names: list[str]) -> None:
        assert self._services is not None
        try:
            await self._services.warm_up()
        except Exception:
            log.exception("warm-up failed; models are loaded when they are asked for")
        self.ready = True
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("ready")

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._open.push_async_callback(end)


def run(settings: ServerSettings) -> None:
    """Serve in the foreground until SIGTERM or SIGINT.

    Raises
    ------
    InputError : as `Server.start`.
    """

    async def serve() -> None:
        server = Server(settings)
        await server.start()
        await server.serve_forever()

    asyncio.run(serve())


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_receive_mib * MIB),
        ("grpc.max_send_message_length", settings.max_send_mib * MIB),
        # Two servers on one port would share its calls unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout * 1000)),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.stream_deadline * 1000)),
        ("grpc.max_metadata_size", 16 * 1024),
    ]


async def _refresh(tokens: Tokens) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            if await asyncio.to_thread(tokens.refresh):
                log.info("tokens were read again")
        except FormatError as error:
            log.error("tokens were not read again, the old ones hold: %s", error)


async def _within(seconds: float, work: Callable[[], Awaitable[object]], otherwise: str) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work()
    except TimeoutError:
        log.warning(otherwise)


async def _first(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
