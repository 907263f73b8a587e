"""Prometheus metrics. Labels hold methods, codes and models: never a subject, a caller or a file."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from recordings.errors import InputError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server.

    `observe_batch`, `observe_wait`, `set_depth` and `set_loaded` are what an engine reports to. They may be called from
    any thread.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "penfield_rpc_requests", "Calls that have ended, by method and code.", ["method", "code"], registry=registry
        )
        self.durations = Histogram(
            "penfield_rpc_duration_seconds", "Time from a call's start to its end.", ["method"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("penfield_rpc_in_flight", "Calls in flight.", ["method"], registry=registry)
        self.cancelled = Counter(
            "penfield_rpc_cancelled", "Calls whose client left before the answer.", ["method"], registry=registry
        )
        self.depth = Gauge("penfield_queue_depth", "Requests that wait for a model.", ["model"], registry=registry)
        self.waits = Histogram(
            "penfield_queue_wait_seconds", "Time from a request's arrival to its batch.", ["model"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batches = Histogram(
            "penfield_batch_size", "Requests that are computed together.", ["model"], buckets=SIZES, registry=registry
        )
        self.computed = Histogram(
            "penfield_model_duration_seconds", "Time of a model at a batch, by stage.", ["model", "stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.loaded = Gauge("penfield_model_loaded", "Whether a model is in memory.", ["model"], registry=registry)
        self.pictures = Histogram(
            "penfield_picture_seconds", "Time of a thread at reading or writing pictures.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.dropped = Counter(
            "penfield_log_lines_dropped", "Log and audit lines lost because their disk did not keep up.",
            registry=registry,
        )  # fmt: skip
        memory = Gauge("penfield_device_memory_bytes", "Memory of accelerators in use by tensors.", registry=registry)
        memory.set_function(_device_memory)

    def observe_batch(self, model: str, size: int, seconds: float, stage: str) -> None:
        """A model has computed one stage of a batch of `size` requests."""
        self.batches.labels(model).observe(size)
        self.computed.labels(model, stage).observe(seconds)

    def observe_wait(self, model: str, seconds: float) -> None:
        """A request has left the queue of a model."""
        self.waits.labels(model).observe(seconds)

    def set_depth(self, model: str, n: int) -> None:
        """So many requests wait for a model."""
        self.depth.labels(model).set(n)

    def set_loaded(self, model: str, loaded: bool) -> None:
        """A model has come into memory, or has left it."""
        self.loaded.labels(model).set(loaded)

    def count_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Report the number of jobs by state, counted each time that metrics are read, as ``penfield_jobs``."""
        self.registry.register(_Jobs(count))

    def serve(self, port: int) -> tuple[int, Callable[[], None]]:
        """Answer Prometheus on loopback, from a thread; the port, and what stops it.

        Raises
        ------
        InputError : the port is taken.
        """
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            raise InputError(
                f"port {port} for metrics cannot be had ({error.strerror})", where="metrics_port",
                remedy="Choose another one",
            ) from error  # fmt: skip
        return server.server_port, lambda: _stop(server, thread)


class _Jobs(Collector):
    def __init__(self, count: Callable[[], Mapping[str, int]]):
        self._count = count

    def collect(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("penfield_jobs", "Jobs by state.", labels=["state"])
        for state, number in self._count().items():
            jobs.add_metric([state], number)
        yield jobs


def _stop(server: object, thread: threading.Thread) -> None:
    server.shutdown()  # type: ignore[attr-defined]
    server.server_close()  # type: ignore[attr-defined]
    thread.join(timeout=5)


def _device_memory() -> float:
    # Asking must not be what loads torch, nor what starts a device.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0.0
    return float(sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count())))
