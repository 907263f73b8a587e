"""What every call passes, over real connections: errors, deadlines, limits, malformed and slow clients."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from service.calls import Deadlines, _address
from service.generated.penfield.v1 import (
    data_pb2,
    data_pb2_grpc,
    decoding_pb2,
    decoding_pb2_grpc,
    encoding_pb2,
    encoding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)

ENCODE, DECODE = "penfield.v1.EncodingService/Encode", "penfield.v1.DecodingService/Decode"


def to_encode(what="", padding=0):
    features = encoding_pb2.FeatureRows(fingerprints=["x" * padding]) if padding else None
    return encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name=what), features=features)


def to_decode(what):
    return decoding_pb2.DecodeRequest(model=model_pb2.ModelReference(name=what))


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def detail(error, kind):
    found = kind()
    status = rpc_status.from_call(error)
    assert any(each.Unpack(found) for each in status.details)
    return found


async def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def counted(server, name, **labels):
    return server.metrics.registry.get_sample_value(f"penfield_{name}", labels) or 0


def test_all_four_kinds_of_calls(serving):
    async def main():
        async with serving() as found, grpc.aio.insecure_channel(found.target) as channel:
            listed = await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())
            encoding = encoding_pb2_grpc.EncodingServiceStub(channel)
            stream = encoding.EncodeStream(encoding_pb2.EncodeStreamRequest(request=to_encode()) for _ in range(3))
            numbers = [answer.number async for answer in stream]
            decoded = [a async for a in decoding_pb2_grpc.DecodingServiceStub(channel).Decode(to_decode("flood:2"))]
            chunks = (data_pb2.UploadDataRequest(chunk=b"x" * 10) for _ in range(4))
            stored = await data_pb2_grpc.DataServiceStub(channel).UploadData(chunks)
            return listed.models[0].kind, numbers, len(decoded), stored.data.size

    assert asyncio.run(main()) == ("local", [0, 1, 2], 2, 40)


def test_errors_become_statuses_with_details(serving):
    async def main():
        async with serving(log_level="error") as found, grpc.aio.insecure_channel(found.target) as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            return {
                what: await refusal(encode(to_encode(what), metadata=(("x-request-id", "n-1"),)))
                for what in ("shape", "busy", "unavailable", "bug")
            }

    errors = asyncio.run(main())
    assert {what: error.code().name for what, error in errors.items()} == {
        "shape": "INVALID_ARGUMENT",
        "busy": "RESOURCE_EXHAUSTED",
        "unavailable": "UNAVAILABLE",
        "bug": "INTERNAL",
    }
    assert detail(errors["shape"], error_details_pb2.ErrorInfo).reason == "ShapeError"
    assert detail(errors["busy"], error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2000
    assert detail(errors["bug"], error_details_pb2.RequestInfo).request_id == "n-1"
    assert "secret" not in str(errors["bug"])


def test_request_id_is_the_clients_or_a_new_one(serving):
    async def main():
        async with serving() as found, grpc.aio.insecure_channel(found.target) as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            seen = []
            for asked in ("run-7.a", "no good", "x" * 65):
                call = stub.ListModels(model_pb2.ListModelsRequest(), metadata=(("x-request-id", asked),))
                told = (await call).models[0].fingerprint
                assert dict(await call.trailing_metadata())["x-request-id"] == told
                seen.append(told)
            return seen

    first, *others = asyncio.run(main())
    assert first == "run-7.a"
    assert all(len(other) == 32 for other in others)


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:127.0.0.1:4711", "127.0.0.1"), ("ipv6:%5B::1%5D:4711", "::1"), ("unix:/run/p.sock", "/run/p.sock")],
)
def test_address_without_the_port(peer, address):
    assert _address(peer) == address


def test_deadlines_of_each_kind():
    deadlines = Deadlines(default=30, longest=300, stream=3600)
    assert [deadlines.seconds(asked, streams=False) for asked in (None, 1, 1e9)] == [30, 1, 300]
    assert [deadlines.seconds(asked, streams=True) for asked in (None, 1, 1e9)] == [3600, 1, 3600]


@pytest.mark.parametrize("asked", [None, 60])
def test_call_ends_at_the_servers_deadline_and_its_work_with_it(serving, asked):
    async def main():
        async with (
            serving(deadline=0.1, max_deadline=0.2, stream_deadline=0.15) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            start = time.monotonic()
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode(to_encode("sleep:20"), timeout=asked)
            decode = decoding_pb2_grpc.DecodingServiceStub(channel).Decode(to_decode("sleep:20"), timeout=asked)
            errors = await refusal(encode), await refusal(decode.read())
            assert time.monotonic() - start < 5
            assert (found.services.cancelled, found.services.at_work) == (2, 0)
            return errors

    for error in asyncio.run(main()):
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert detail(error, error_details_pb2.ErrorInfo).reason == "DeadlineError"


def test_client_that_leaves_or_whose_deadline_passes_stops_the_work(serving):
    async def main():
        async with serving() as found, grpc.aio.insecure_channel(found.target) as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            error = await refusal(encode(to_encode("sleep:20"), timeout=0.1))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: found.services.cancelled == 1)
            calls = [encode(to_encode("sleep:20")), decoding_pb2_grpc.DecodingServiceStub(channel).Decode(
                to_decode("sleep:20"))]  # fmt: skip
            await until(lambda: found.services.at_work == 2)
            for call in calls:
                call.cancel()
            await until(lambda: found.services.cancelled == 3)
            assert counted(found.server, "rpc_cancelled_total", method=ENCODE) == 1
            assert counted(found.server, "rpc_requests_total", method=DECODE, code="CANCELLED") == 1

    asyncio.run(main())


def test_messages_that_are_none_or_too_large(serving):
    async def main():
        async with serving(max_receive_mib=1) as found, grpc.aio.insecure_channel(found.target) as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            errors = [
                await refusal(encode(to_encode(padding=2 * 2**20))),
                # Zeros that are small on the wire.
                await refusal(encode(to_encode(padding=16 * 2**20), compression=grpc.Compression.Gzip)),
                await refusal(channel.unary_unary(f"/{ENCODE}")(b"\xff\xff\xff")),
                await refusal(channel.stream_unary(f"/{ENCODE}")(iter([]))),
                await refusal(channel.stream_stream(f"/{DECODE}")(iter([b"\xff\xff"])).read()),
                await refusal(channel.unary_unary("/penfield.v1.EncodingService/Nothing")(b"")),
            ]
            await encode(to_encode())
            return [error.code().name for error in errors]

    assert asyncio.run(main()) == [
        "RESOURCE_EXHAUSTED",
        "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT",
        "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
    ]


def test_request_that_never_arrives_whole_meets_the_deadline(serving):
    async def main():
        async with serving(deadline=0.2) as found, grpc.aio.insecure_channel(found.target) as channel:
            # As a stream the client may open the call and never send its one message.
            call = channel.stream_unary(f"/{ENCODE}")()
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert counted(found.server, "rpc_in_flight", method=ENCODE) == 0

    asyncio.run(main())


def test_client_that_does_not_read_is_held_by_flow_control_and_keeps_nobody_waiting(serving):
    async def main():
        async with (
            serving(stream_deadline=0.3, client_rpcs=2, max_rpcs=3) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            decode = decoding_pb2_grpc.DecodingServiceStub(channel).Decode(to_decode("flood:500"))
            await decode.read()
            await until(lambda: counted(found.server, "rpc_requests_total", method=DECODE, code="DEADLINE_EXCEEDED"))
            # Of 500 MiB no more is made than the connection takes; the unread call still counts as its client's own.
            assert found.services.sent < 50
            assert counted(found.server, "rpc_in_flight", method=DECODE) == 1
            await encoding_pb2_grpc.EncodingServiceStub(channel).Encode(to_encode())
            decode.cancel()
            await until(lambda: counted(found.server, "rpc_in_flight", method=DECODE) == 0)

    asyncio.run(main())


@pytest.mark.parametrize(("settings", "message"), [({"max_rpcs": 3}, "as many calls"), ({"client_rpcs": 3}, "3 calls")])
def test_calls_beyond_the_limit_are_told_when_to_come_again(serving, settings, message):
    async def main():
        async with serving(**settings) as found, grpc.aio.insecure_channel(found.target) as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            held = [encode(to_encode("sleep:20")) for _ in range(3)]
            await until(lambda: found.services.at_work == 3)
            error = await refusal(encode(to_encode()))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert message in error.details()
            assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1000
            if "max_rpcs" in settings:
                # A server at its limit still says that it lives.
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            for call in held:
                call.cancel()
            await until(lambda: found.services.at_work == 0)
            await encode(to_encode())

    asyncio.run(main())


@pytest.mark.slow
def test_256_calls_at_once_and_the_257th(serving):
    async def main():
        async with (
            serving(client_rpcs=1000) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            held = [encode(to_encode("sleep:60"), timeout=100) for _ in range(256)]
            await until(lambda: found.services.at_work == 256, seconds=30)
            errors = [await refusal(encode(to_encode())) for _ in range(50)]
            assert {error.code() for error in errors} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert found.services.at_work == 256
            for call in held:
                call.cancel()

    asyncio.run(main())


def test_rate_of_a_client(serving):
    async def main():
        async with serving(client_rate=5) as found, grpc.aio.insecure_channel(found.target) as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            for _ in range(5):
                await encode(to_encode())
            error = await refusal(encode(to_encode()))
            return detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds()

    assert 0 < asyncio.run(main()) <= 200


def test_calls_are_counted_and_logged_with_their_ids(serving, capsys):
    async def main():
        async with (
            serving(log_level="info", log_format="json") as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            await encode(to_encode(), metadata=(("x-request-id", "n-9"),))
            await refusal(encode(to_encode("bug"), metadata=(("x-request-id", "n-10"),)))
            assert counted(found.server, "rpc_requests_total", method=ENCODE, code="OK") == 1
            assert counted(found.server, "rpc_requests_total", method=ENCODE, code="INTERNAL") == 1
            assert counted(found.server, "rpc_duration_seconds_count", method=ENCODE) == 2

    asyncio.run(main())
    lines = capsys.readouterr().err
    assert '"code": "OK"' in next(line for line in lines.splitlines() if '"n-9"' in line)
    assert any("secret of" in line and '"n-10"' in line for line in lines.splitlines())


def test_spans_join_the_trace_of_the_client(serving, obedient):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from service.calls import Gate
    from service.observability.tracing import spans_of
    from service.security.limits import Shares

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def main():
        server = grpc.aio.server(interceptors=[Gate(Shares(total=9, at_once=9), span=spans_of(provider))])
        await obedient().add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            await encode(to_encode(), metadata=(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),))
            await refusal(encode(to_encode("bug")))
        await server.stop(0)

    asyncio.run(main())
    good, bad = exporter.get_finished_spans()
    assert (good.name, f"{good.context.trace_id:x}", f"{good.parent.span_id:x}") == (ENCODE, "a" * 32, "b" * 16)
    assert good.status.is_ok
    assert not bad.status.is_ok
    assert "secret" not in f"{bad.attributes} {[event.attributes for event in bad.events]} {bad.status.description}"
