"""Traces, as a collector receives them."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from service.generated.penfield.v1 import model_pb2, model_pb2_grpc


class Collector:
    def __init__(self):
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        self.answer = trace_service_pb2.ExportTraceServiceResponse()
        self.spans = []

    async def Export(self, request, context):
        for resource in request.resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            self.spans += [(service, span.name) for scope in resource.scope_spans for span in scope.spans]
        return self.answer


async def called(serving, endpoint):
    async with serving(traces=endpoint) as found, grpc.aio.insecure_channel(found.target) as channel:
        await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())


@pytest.mark.slow
def test_collector_has_the_spans_when_the_server_has_stopped(serving):
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

    async def main():
        collector, server = Collector(), grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await called(serving, f"http://127.0.0.1:{port}")
        await server.stop(0)
        return collector.spans

    assert asyncio.run(main()) == [("penfield", "penfield.v1.ModelService/ListModels")]


@pytest.mark.slow
def test_collector_that_is_away_holds_up_neither_calls_nor_the_end(serving):
    start = time.monotonic()
    asyncio.run(called(serving, "http://127.0.0.1:1"))
    assert time.monotonic() - start < 15
