"""Clients that mean harm, against a whole server in its own process: refused, logged, and bounded in memory."""

from __future__ import annotations

import asyncio
import io
import shutil
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from google.protobuf import descriptor, message, message_factory
from PIL import Image

from encoders import Features, RidgeEncoder
from recordings import Recording
from recordings.errors import CorruptImageError, ImageTooLargeError
from service.client import Client
from service.errors import BudgetError
from service.generated.inference import grpc_service_pb2
from service.generated.penfield.v1 import (
    alignment_pb2,
    data_pb2,
    decoding_pb2,
    encoding_pb2,
    encoding_pb2_grpc,
    job_pb2,
    media_pb2,
    model_pb2,
)
from service.generated.penfield.v1.tensor_pb2 import NamedTensor
from service.media import Limits
from service.status import error_from
from service.tensors import to_tensor

from .conftest import ENCODER
from .faults.process import ServerProcess, server_process

pytestmark = pytest.mark.slow

WIDE, N_UNITS = "wide", 4000
MIB = 2**20
# Pixels of one request, and beside them what threads and allocators keep.
SLACK = Limits().max_bytes + 200 * MIB
SECRET = "do not read me"
FILES = (alignment_pb2, data_pb2, decoding_pb2, encoding_pb2, job_pb2, model_pb2, grpc_service_pb2)


@pytest.fixture(scope="module")
def house(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, data, and beside them what nobody may reach: a model and a file."""
    house = tmp_path_factory.mktemp("house")
    shutil.copytree(encoder_folder, house / "models")
    shutil.copytree(encoder_folder / ENCODER, house / "private")
    (house / "private" / "README.md").write_text(SECRET)
    (house / "models" / "linked").symlink_to(house / "private")
    rng = np.random.default_rng(0)
    values, ids = rng.standard_normal((20, 4), np.float32), [str(number) for number in range(20)]
    neuroids = pd.DataFrame({"neuroid_id": [f"v{number}" for number in range(N_UNITS)]})
    recording = Recording(values @ rng.standard_normal((4, N_UNITS), np.float32), {"stimulus_id": ids}, neuroids)
    features = Features.from_arrays(values, ids, uri="planted", layer="four")
    RidgeEncoder(alphas=(1.0,), cv=2, device="cpu").fit(features, recording).save_pretrained(house / "models" / WIDE)
    return house


@pytest.fixture(scope="module")
def server(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that must outlive all tests, and end in order."""
    log = tmp_path_factory.mktemp("abused") / "log"
    warm = {"warm_up": (ENCODER, WIDE), "handshake_timeout": 3, "max_connections": 100}
    with server_process(
        log, models=house / "models", data=house / "data", audit_log=log.with_name("audit"), **warm
    ) as s:
        yield s
        assert s.end() == 0


@pytest.fixture(autouse=True)
def unharmed(server: ServerProcess, pictures: list[np.ndarray]) -> Iterator[None]:
    """After each test the server answers, has no error of its own in its log, and its memory has not grown."""
    with Client(server.target) as client:
        client.encode(ENCODER, images=pictures[:1])
        before, lines = server.memory(), len(server.lines())
        server.forget_peak()
        yield
        assert client.encode(ENCODER, images=pictures[:1]).shape[0] == 1
    assert server.memory("VmHWM") < before + SLACK
    errors = [line for line in server.lines()[lines:] if line["level"] == "error"]
    assert not errors, errors[0]


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield encoding_pb2_grpc.EncodingServiceStub(channel)


def refused(call: Any, *args: Any, **how: Any) -> Exception:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, timeout=60, **how)
    return error_from(caught.value)


# Names --------------------------------------------------------------------------------------------------------------

NAMES = (
    "../private", "ridge/../../private", "..", ".", "/etc/passwd", "linked", "ridge/../ridge", "./ridge", "ridge/",
    "..\\private", "%2e%2e/private", "private\0", "~/private", "file:///etc/passwd", "C:\\private",
    "data:../../private", "job:../../private", "model:../private", "${HOME}", "ridge@../../private", "x" * 100_000,
)  # fmt: skip


def named(kind: type[message.Message], name: str, depth: int = 0) -> message.Message:
    """A message with the name in every field that holds text."""
    made: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        text = field.type == descriptor.FieldDescriptor.TYPE_STRING
        inner = field.message_type is not None and not field.message_type.GetOptions().map_entry
        if text:
            getattr(made, field.name).append(name) if field.is_repeated else setattr(made, field.name, name)
        elif inner and depth < 5 and field.message_type.full_name != "google.protobuf.Struct":
            place = getattr(made, field.name)
            value = named(message_factory.GetMessageClass(field.message_type), name, depth + 1)
            (place.add() if field.is_repeated else place).CopyFrom(value)
        elif field.message_type is not None and field.message_type.full_name == "google.protobuf.Struct":
            getattr(made, field.name).update({"path": name, "stimuli": name, "model": name, "out": name})
    return made


def test_names_lead_nowhere(server, house):
    def asked() -> Iterator[tuple[str, bytes]]:
        for file in FILES:
            for service in file.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    kind = message_factory.GetMessageClass(method.input_type)
                    for name in NAMES:
                        yield f"/{service.full_name}/{method.name}", named(kind, name).SerializeToString()

    async def main() -> list[tuple[str, str, bytes]]:
        async with grpc.aio.insecure_channel(server.target) as channel:

            async def ask(method: str, content: bytes) -> tuple[str, str, bytes]:
                call, told = channel.stream_stream(method)(iter([content]), timeout=30), b""
                try:
                    async for answer in call:
                        told += answer
                    return method, "OK", told
                except grpc.aio.AioRpcError as error:
                    return method, error.code().name, (error.details() or "").encode()

            return [await ask(method, content) for method, content in asked()]

    before = {path for path in house.rglob("*") if house / "data" not in path.parents}
    found = asyncio.run(main())
    assert {code for _, code, _ in found} <= {
        "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED",
    }, {(method, code) for method, code, _ in found}  # fmt: skip
    # Names are needed where these answer; lists need none.
    answered = {method.rpartition("/")[2] for method, code, _ in found if code == "OK"}
    lists = {"ListModels", "ListData", "ListJobs", "ServerLive", "ServerReady", "ServerMetadata", "ModelReady"}
    # A stream answers each of its requests, with a failure where one failed.
    assert answered <= {*lists, "EncodeStream"}
    assert not any(SECRET.encode() in told or b"root:" in told or str(house).encode() in told for *_, told in found)
    assert {path for path in house.rglob("*") if house / "data" not in path.parents} == before


# Sizes --------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width: int, height: int) -> bytes:
    """A whole and right PNG of one colour, a thousandth of the size of its pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" + bytes(width // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def film_bomb(frames: int) -> bytes:
    """A film of black."""
    file, frame = io.BytesIO(), Image.new("1", (2048, 2048))
    frame.save(file, "TIFF", save_all=True, append_images=[frame] * (frames - 1), compression="tiff_deflate")
    return file.getvalue()


def shown(*contents: bytes) -> encoding_pb2.EncodeRequest:
    images = [media_pb2.Image(encoded=content) for content in contents]
    return encoding_pb2.EncodeRequest(
        model=model_pb2.ModelReference(name=ENCODER), images=encoding_pb2.Images(images=images)
    )


def test_picture_bombs_are_refused_by_their_headers(server, stub):
    bomb, before = png_bomb(40_000, 40_000), server.memory()
    assert len(bomb) < 2 * MIB
    assert isinstance(refused(stub.Encode, shown(bomb)), ImageTooLargeError)
    assert server.memory("VmHWM") < before + 20 * MIB
    # Each small enough, and together too many.
    assert isinstance(refused(stub.Encode, shown(*[png_bomb(4096, 4096)] * 100)), ImageTooLargeError)


def test_film_bombs_are_refused(stub):
    clips = encoding_pb2.Clips(clips=[media_pb2.Clip(encoded=film_bomb(60))])
    request = encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name=ENCODER), clips=clips)
    assert isinstance(refused(stub.Encode, request), ImageTooLargeError)


def test_picture_that_ends_early_or_holds_more_than_it_says(stub):
    bomb = png_bomb(1024, 1024)
    assert isinstance(refused(stub.Encode, shown(bomb[: len(bomb) // 2])), CorruptImageError)
    # Says 8 x 8, holds 16 million pixels.
    packed = zlib.compress(bytes(16 * MIB), 9)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    liar = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    try:
        stub.Encode(shown(liar), timeout=60)
    except grpc.RpcError as error:
        assert isinstance(error_from(error), CorruptImageError)


def test_message_of_a_gigabyte(server, stub):
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/penfield.v1.EncodingService/Encode")
        assert isinstance(refused(call, bytes(2**30)), BudgetError)
        packed = channel.unary_unary("/penfield.v1.EncodingService/Encode")
        assert isinstance(refused(packed, bytes(256 * MIB), compression=grpc.Compression.Gzip), BudgetError)


def test_metadata_of_a_megabyte(server):
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/penfield.v1.ModelService/ListModels")
        with pytest.raises(grpc.RpcError):
            call(b"", metadata=(("x-large", "x" * MIB),), timeout=30)


def test_small_message_whose_answer_would_fill_the_memory(server):
    rows = np.zeros((200_000, 4), np.float16)
    with Client(server.target, retries=0) as client:
        began = time.monotonic()
        with pytest.raises(BudgetError, match="one answer has"):
            ask_raw(server.target, rows)
        assert time.monotonic() - began < 20
        # Within the limit it is answered.
        assert client.encode(WIDE, features=rows[:1000]).shape == (1000, N_UNITS)


def ask_raw(target: str, rows: np.ndarray) -> None:
    """One message, which the client would have sent in parts."""
    features = encoding_pb2.FeatureRows(spaces=[NamedTensor(tensor=to_tensor(rows))])
    request = encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name=WIDE), features=features)
    with grpc.insecure_channel(target) as channel:
        try:
            encoding_pb2_grpc.EncodingServiceStub(channel).Encode(request, timeout=60)
        except grpc.RpcError as error:
            raise error_from(error) from error


# Slow clients -------------------------------------------------------------------------------------------------------


def test_crowd_of_silent_connections_keeps_nobody_out_for_long(server, pictures):
    connections = []
    with Client(server.target) as known:
        known.models()
        try:
            for _ in range(400):
                connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            # Who is there already is served all the while; of the others no more than the limit are held.
            assert known.encode(ENCODER, images=pictures[:1]).shape[0] == 1
            files = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
            assert files < 100 + 100
            # Silence is cut off, and then there is room for a new one.
            end = time.monotonic() + 30
            while True:
                try:
                    with Client(server.target, timeout=3, retries=0) as new:
                        assert new.models()
                    break
                except Exception:
                    assert time.monotonic() < end
        finally:
            for connection in connections:
                connection.close()


def test_request_that_trickles_in_holds_nothing_of_others(server, pictures):
    def trickle() -> Iterator[bytes]:
        for _ in range(40):
            time.sleep(0.1)
            yield b""

    with grpc.insecure_channel(server.target) as channel, Client(server.target) as client:
        method = channel.stream_stream("/penfield.v1.EncodingService/EncodeStream")
        calls = [method(trickle(), timeout=3) for _ in range(20)]
        began = time.monotonic()
        assert client.encode(ENCODER, images=pictures[:1]).shape[0] == 1
        assert time.monotonic() - began < 20
        for call in calls:
            with pytest.raises(grpc.RpcError):
                list(call)


def test_refusals_are_in_the_audit_log(server, stub):
    refused(stub.Encode, shown(b"no picture"))
    end, text = time.monotonic() + 10, ""
    while "INVALID_ARGUMENT" not in text:
        assert time.monotonic() < end
        text = server.log.with_name("audit").read_text()
    assert "no picture" not in text
