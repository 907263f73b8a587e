"""OpenTelemetry traces: a span a call, which joins the trace of a client that sends one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from recordings.errors import InputError

Span = Callable[[str, Mapping[str, str]], AbstractContextManager[Any]]


def no_span(method: str, metadata: Mapping[str, str]) -> AbstractContextManager[None]:
    """Trace nothing."""
    return nullcontext()


def spans_to(endpoint: str) -> tuple[Span, Callable[[], None]]:
    """What opens the span of a call, and what sends the last spans and ends it all.

    Parameters
    ----------
    endpoint : where an OTLP collector listens over gRPC, such as "http://127.0.0.1:4317".

    Raises
    ------
    InputError : the extra "tracing" is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InputError(
            "OpenTelemetry is not installed", where="traces", remedy="pip install 'penfield[tracing]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "penfield"}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return spans_of(provider), provider.shutdown


def spans_of(provider: Any) -> Span:
    """What opens the span of a call with a tracer provider of OpenTelemetry."""
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer, propagator = provider.get_tracer("penfield"), TraceContextTextMapPropagator()

    @contextmanager
    def span(method: str, metadata: Mapping[str, str]) -> Iterator[Any]:
        service, _, name = method.strip("/").partition("/")
        with tracer.start_as_current_span(
            method.strip("/"),
            context=propagator.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            # The words of an exception may hold what the client sent.
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            try:
                yield current
            except Exception:
                current.set_status(StatusCode.ERROR)
                raise

    return span
