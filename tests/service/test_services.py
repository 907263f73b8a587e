"""A whole server on fitted models: all that it answers, what it warms up, what it counts."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service.generated.inference import grpc_service_pb2, grpc_service_pb2_grpc
from service.generated.penfield.v1 import decoding_pb2, decoding_pb2_grpc, model_pb2, model_pb2_grpc
from service.server import Server
from service.services import TimedPool
from service.settings import ServerSettings
from service.tensors import to_tensor

from .conftest import DECODER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*tokens and is cut"),
    pytest.mark.filterwarnings("ignore:decoded z has an s.d."),
]

RUN = """
import sys
from pathlib import Path
from service.server import run
from service.settings import ServerSettings
models, data = map(Path, sys.argv[1:])
run(ServerSettings(models=models, data=data, port=0, drain_pause=0, log_format="json"))
"""
DATA = {"UploadData", "GetUpload", "ListData", "DeleteData"}


@asynccontextmanager
async def server_of(folder, **settings):
    given = {"models": folder, "port": 0, "device": "cpu", "grace": 2, "log_level": "error", "threads": 2, **settings}
    server = Server(ServerSettings(**given))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel
    finally:
        await server.stop()


async def until_ready(server):
    async with asyncio.timeout(60):
        while not server.ready:
            await asyncio.sleep(0.02)


async def methods(channel):
    """Full names of all methods that reflection tells of."""
    info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

    async def ask(**request):
        return await info(iter([reflection_pb2.ServerReflectionRequest(**request)])).read()

    services = {found.name for found in (await ask(list_services="")).list_services_response.service}
    names = set()
    for service in services:
        answer = await ask(file_containing_symbol=service)
        for content in answer.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(content)
            names |= {
                f"/{file.package}.{each.name}/{method.name}"
                for each in file.service
                for method in each.method
                if f"{file.package}.{each.name}" in services
            }
    return names


async def code(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def test_reflection_lists_every_method_and_each_answers_an_empty_message(encoder_folder, tmp_path):
    async def main():
        async with server_of(encoder_folder, data=tmp_path / "data", deadline=20) as (_, channel):
            found = await methods(channel)
            # As streams both ways all four kinds of methods can be called alike.
            called = [name for name in found if "Reflection" not in name and not name.endswith("/Watch")]
            calls = {name: channel.stream_stream(name)(iter([b""])) for name in called}
            return found, {name: await code(call.read()) for name, call in calls.items()}

    found, codes = asyncio.run(main())
    assert {name.split("/")[2] for name in found if "DataService" in name} == DATA
    assert len({name.split("/")[1] for name in found}) == 10
    assert {name for name, code in codes.items() if code in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED")} == set()
    # grpc's own health service leaves List out; clusters are to come.
    assert {name for name, code in codes.items() if code == "UNIMPLEMENTED"} <= {
        "/grpc.health.v1.Health/List",
        "/penfield.v1.ClusteringService/Cluster",
        "/penfield.v1.ClusteringService/AssignUnits",
    }
    assert codes["/penfield.v1.ModelService/ListModels"] == codes["/penfield.v1.JobService/ListJobs"] == "OK"
    assert codes["/penfield.v1.ModelService/DescribeModel"] in ("NOT_FOUND", "INVALID_ARGUMENT")


def test_models_to_warm_up_are_loaded_and_an_absent_one_spares_the_rest(encoder_folder, capsys):
    async def main():
        async with server_of(encoder_folder, warm_up=("absent", "ridge"), metrics_port=0) as (server, channel):
            inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await until_ready(server)
            listed = await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest())
            states = {model.reference.name: model_pb2.ModelState.Name(model.state) for model in listed.models}
            loaded = server.metrics.registry.get_sample_value("penfield_model_loaded", {"model": "ridge@1"})
            ready = (await inference.ServerReady(grpc_service_pb2.ServerReadyRequest())).ready
            return states["ridge"], loaded, ready

    assert asyncio.run(main()) == ("MODEL_STATE_READY", 1, True)
    assert "absent was not loaded" in capsys.readouterr().err


def test_without_a_folder_for_data_there_are_neither_data_nor_jobs(encoder_folder):
    async def main():
        async with server_of(encoder_folder) as (_, channel):
            return {name.split("/")[1] for name in await methods(channel)}

    services = asyncio.run(main())
    assert "penfield.v1.EncodingService" in services
    assert not services & {"penfield.v1.DataService", "penfield.v1.JobService", "penfield.v1.AlignmentService"}


def test_run_until_sigterm(encoder_folder, tmp_path):
    command = [sys.executable, "-c", RUN, str(encoder_folder), str(tmp_path / "data")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            lines = []
            while not lines or '"ready"' not in lines[-1]:
                line = server.stderr.readline()
                assert line
                lines.append(line)
            server.send_signal(signal.SIGTERM)
            rest = server.communicate(timeout=60)[1]
        finally:
            server.kill()
    assert server.returncode == 0
    assert "Traceback" not in "".join(lines) + rest


def test_pool_reports_the_time_of_each_piece_of_work():
    seconds = []
    pool = TimedPool(1, seconds.append)
    assert pool.submit(int, "7").result() == 7
    with pytest.raises(ValueError, match="x"):
        pool.submit(int, "x").result()
    pool.shutdown()
    assert len(seconds) == 2


@pytest.mark.parametrize("limit", ["max_decode_seconds", "max_decode_gib"])
def test_decoding_that_would_take_too_much_is_refused_before_it_starts(models_folder, responses, limit):
    most = {"max_decode_seconds": 30, "max_decode_gib": 0.5}
    small = {"max_decode_seconds": {"steps": 50}, "max_decode_gib": {"samples": 2, "steps": 2}}
    large = {"max_decode_seconds": {"steps": 10**6}, "max_decode_gib": {"samples": 10**6, "steps": 2}}

    async def run():
        async with server_of(models_folder, **{limit: most[limit]}) as (_, channel):
            decode = decoding_pb2_grpc.DecodingServiceStub(channel).Decode
            for drawing, refused in ((small[limit], False), (large[limit], True)):
                request = decoding_pb2.DecodeRequest(
                    model=model_pb2.ModelReference(name=DECODER),
                    responses=to_tensor(responses.values[:1]),
                    outputs=[decoding_pb2.DECODE_OUTPUT_IMAGE],
                    drawing=decoding_pb2.DrawingOptions(**drawing),
                )
                kinds = set()
                try:
                    async for event in decode(request, timeout=120):
                        kinds.add(event.WhichOneof("event"))
                except grpc.aio.AioRpcError as error:
                    assert refused and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert "one request has" in error.details() and "progress" not in kinds
                else:
                    assert not refused and "result" in kinds

    asyncio.run(run())
