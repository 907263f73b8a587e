"""The life of a server: start, readiness, reflection, drain."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recordings.errors import InputError
from service.generated.penfield.v1 import encoding_pb2, encoding_pb2_grpc, model_pb2
from service.server import Server
from service.settings import ServerSettings


def to_encode(what):
    return encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name=what))


async def outcome(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def health(channel, service=""):
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_not_serving_until_it_is_warm(serving, obedient):
    async def main():
        services = obedient()
        services.warm.clear()
        async with serving(services) as found, grpc.aio.insecure_channel(found.target) as channel:
            seen = [await health(channel), await health(channel, "penfield.v1.EncodingService")]
            services.warm.set()
            await asyncio.sleep(0.05)
            return [*seen, await health(channel), await health(channel, "penfield.v1.EncodingService")]

    assert asyncio.run(main()) == ["NOT_SERVING", "NOT_SERVING", "SERVING", "SERVING"]


def test_failed_warm_up_leaves_a_server_that_serves(serving, obedient, capsys):
    class Cold(obedient):
        async def warm_up(self):
            raise RuntimeError("damaged")

    async def main():
        async with serving(Cold()) as found, grpc.aio.insecure_channel(found.target) as channel:
            await asyncio.sleep(0.05)
            return await health(channel)

    assert asyncio.run(main()) == "SERVING"
    assert "damaged" in capsys.readouterr().err


def test_port_that_is_taken(serving, obedient):
    async def main():
        async with serving() as found:
            services = obedient()
            second = Server(ServerSettings(models=Path(), port=found.server.port, log_level="error"), services)
            with pytest.raises(InputError, match="something else listens there"):
                await second.start()
            return services.closed

    assert asyncio.run(main())


def test_reflection_lists_and_every_method_can_be_called(serving):
    async def main():
        async with serving(max_deadline=5, deadline=5) as found, grpc.aio.insecure_channel(found.target) as channel:
            info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

            async def ask(**request):
                return await info(iter([reflection_pb2.ServerReflectionRequest(**request)])).read()

            listed = (await ask(list_services="")).list_services_response.service
            names = {service.name for service in listed}
            files, codes = [], {}
            for name in names:
                found_files = (await ask(file_containing_symbol=name)).file_descriptor_response.file_descriptor_proto
                files += [descriptor_pb2.FileDescriptorProto.FromString(file) for file in found_files]
            for file in files:
                for service in file.service:
                    full = f"{file.package}.{service.name}"
                    for method in service.method if full in names else ():
                        if full.startswith("grpc."):
                            continue
                        # Every method takes an empty message; as streams both ways all four kinds can be called alike.
                        call = channel.stream_stream(f"/{full}/{method.name}")(iter([b""]))
                        codes[f"{service.name}/{method.name}"] = await outcome(call.read())
            return names, codes

    names, codes = asyncio.run(main())
    assert {"penfield.v1.EncodingService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    # What these services do not answer they say so; everything else works.
    done = {name for name, code in codes.items() if code == "OK"}
    assert done == {
        "ModelService/ListModels", "EncodingService/Encode", "EncodingService/EncodeStream", "DecodingService/Decode",
        "DataService/UploadData",
    }  # fmt: skip
    assert {code for name, code in codes.items() if name not in done} == {"UNIMPLEMENTED"}


def test_without_health_and_reflection(serving):
    async def main():
        async with (
            serving(health=False, reflection=False) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            return [
                await outcome(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())),
                await outcome(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked).read()),
            ]

    assert asyncio.run(main()) == ["UNIMPLEMENTED", "UNIMPLEMENTED"]


def drained(obedient, *, signals, calls, grace, pause=0.15):
    """Codes of calls that are in flight at the signal, codes of calls after it, seconds until the end, services."""

    async def main():
        services = obedient()
        settings = ServerSettings(models=Path(), port=0, grace=grace, drain_pause=pause, log_level="error")
        server = Server(settings, services)
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            encode = encoding_pb2_grpc.EncodingServiceStub(channel).Encode
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            states = [(await watch.read()).status]
            serving = asyncio.ensure_future(server.serve_forever())
            waiting = [asyncio.ensure_future(outcome(encode(to_encode(what)))) for what in calls]
            while services.at_work < len(calls):
                await asyncio.sleep(0.005)
            start = time.monotonic()
            for number in signals:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.02)
            late = []
            if len(signals) == 1:
                states.append((await watch.read()).status)
                late.append(await outcome(encode(to_encode(""))))
                await asyncio.sleep(pause)
                late.append(await outcome(encode(to_encode(""))))
            codes = await asyncio.gather(*waiting)
            await asyncio.wait_for(serving, 10)
            return codes, late, states, time.monotonic() - start, services

    return asyncio.run(main())


def test_sigterm_loses_no_call_that_is_shorter_than_the_grace(obedient, capfd):
    codes, late, states, seconds, services = drained(
        obedient, signals=[signal.SIGTERM], calls=["sleep:0.5", "sleep:0.6", "sleep:60"], grace=1.0
    )
    assert codes == ["OK", "OK", "UNAVAILABLE"]
    # While load balancers hear of it, calls still come and are answered.
    assert late == ["OK", "UNAVAILABLE"]
    assert states == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert 0.8 < seconds < 5
    assert services.closed
    assert services.at_work == 0
    assert "Traceback" not in capfd.readouterr().err


def test_second_signal_ends_at_once(obedient):
    codes, _, _, seconds, services = drained(
        obedient, signals=[signal.SIGINT, signal.SIGINT], calls=["sleep:60"], grace=60, pause=60
    )
    assert codes == ["UNAVAILABLE"]
    assert seconds < 5
    assert services.closed


@pytest.mark.slow
def test_server_is_imported_without_torch_and_ray():
    code = (
        "import sys, service.server, service.settings\n"
        "print(sorted({'torch', 'ray', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
