"""A server in a process of its own: its exit, its output, its memory."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from service.generated.penfield.v1 import encoding_pb2, encoding_pb2_grpc, model_pb2

pytestmark = pytest.mark.slow

SERVE = """
import asyncio, importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("obedient", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from service.server import Server
from service.settings import ServerSettings

async def main():
    server = Server(ServerSettings(models=pathlib.Path(), port=0, grace=1, drain_pause=0.1), module.Obedient())
    await server.start()
    print(server.port, flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@contextmanager
def process():
    command = [sys.executable, "-c", SERVE, str(Path(__file__).with_name("conftest.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server, f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def peak_memory(server):
    """Bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_sigterm_with_calls_in_flight_ends_with_code_0_and_without_tracebacks():
    codes = []

    def call(stub, what):
        try:
            stub.Encode(encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name=what)))
            codes.append("OK")
        except grpc.RpcError as error:
            codes.append(error.code().name)

    with process() as (server, target), grpc.insecure_channel(target) as channel:
        stub = encoding_pb2_grpc.EncodingServiceStub(channel)
        calls = [threading.Thread(target=call, args=(stub, what)) for what in ("sleep:0.6", "sleep:0.7", "sleep:60")]
        for each in calls:
            each.start()
        time.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        errors = server.communicate(timeout=30)[1]
        for each in calls:
            each.join(10)
        assert server.returncode == 0
    assert sorted(codes) == ["OK", "OK", "UNAVAILABLE"]
    assert "Traceback" not in errors
    assert "stopping" in errors


def test_message_far_beyond_the_limit_costs_no_memory():
    huge = encoding_pb2.EncodeRequest(features=encoding_pb2.FeatureRows(fingerprints=["x" * 2**28]))
    with process() as (server, target), grpc.insecure_channel(target) as channel:
        stub = encoding_pb2_grpc.EncodingServiceStub(channel)
        stub.Encode(encoding_pb2.EncodeRequest())
        before = peak_memory(server)
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Encode(huge, compression=compression)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stub.Encode(encoding_pb2.EncodeRequest())
        grown = peak_memory(server) - before
    # The limit is 16 MiB.
    assert grown < 64 * 2**20
