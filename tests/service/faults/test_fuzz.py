"""10,000 messages that no client of ours would send."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor, message, message_factory

from service.client import Client
from service.generated.inference import grpc_service_pb2
from service.generated.penfield.v1 import (
    alignment_pb2,
    clustering_pb2,
    data_pb2,
    decoding_pb2,
    encoding_pb2,
    job_pb2,
    model_pb2,
)

from ..conftest import DECODER, ENCODER
from .test_faults import bystander

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*tokens and is cut")]

FILES = (
    alignment_pb2, clustering_pb2, data_pb2, decoding_pb2, encoding_pb2, job_pb2, model_pb2, grpc_service_pb2,
)  # fmt: skip
MESSAGES, AT_ONCE, SECONDS, CONNECTIONS = 10_000, 32, 10.0, 300
UNSENT = "unsent"
# Small drawings, so that what happens to be right does not take long.
SMALL = decoding_pb2.DrawingOptions(steps=2, samples=1)
NUMBERS = (-1, 0, 1, 2, 255, 2**31 - 1, -(2**31))
TEXTS = (ENCODER, DECODER, "", "..", "/etc/passwd", "a/b/c/d/e", "x" * 5000, "\0", "responses", "simulate", "é" * 70)


def methods() -> dict[str, type[message.Message]]:
    """The class of the requests of each method."""
    return {
        f"/{service.full_name}/{method.name}": message_factory.GetMessageClass(method.input_type)
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def filled(kind: type[message.Message], rng: random.Random, depth: int = 0) -> message.Message:
    """A message with random fields, many of which make sense."""
    made: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        if rng.random() < 0.3 or depth > 6:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for _ in range(rng.randint(1, 2) if field.is_repeated else 1):
            value = value_of(field, rng, depth)
            if field.message_type is None:
                getattr(made, field.name).append(value) if field.is_repeated else setattr(made, field.name, value)
            else:
                place = getattr(made, field.name)
                (place.add() if field.is_repeated else place).CopyFrom(value)
    return made


def value_of(field: descriptor.FieldDescriptor, rng: random.Random, depth: int) -> Any:
    kind = field.cpp_type
    if kind == field.CPPTYPE_MESSAGE:
        if field.message_type.full_name == "penfield.v1.DrawingOptions":
            return SMALL
        return filled(message_factory.GetMessageClass(field.message_type), rng, depth + 1)
    if kind == field.CPPTYPE_STRING:
        return rng.randbytes(rng.choice((0, 4, 64))) if field.type == field.TYPE_BYTES else rng.choice(TEXTS)
    if kind == field.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == field.CPPTYPE_ENUM:
        return rng.choice((0, 1, 2, 7))
    if kind in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5))
    least = 0 if kind in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -(2**31)
    return max(least, rng.choice(NUMBERS))


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some of them changed, cut off, doubled or made up."""
    how = rng.randrange(5)
    found = bytearray(content)
    if how == 0 or not found:
        return rng.randbytes(rng.randrange(1, 200))
    if how == 1:
        for _ in range(rng.randint(1, 4)):
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif how == 2:
        del found[rng.randrange(len(found)) :]
    elif how == 3:
        start = rng.randrange(len(found))
        found[start:start] = found[start : start + rng.randrange(1, 64)]
    return bytes(found)


async def throw(target: str, rng: random.Random) -> Counter[tuple[str, str]]:
    """How often each method answered with each code."""
    found = Counter[tuple[str, str]]()
    kinds = methods()
    names = sorted(kinds)

    async with grpc.aio.insecure_channel(target) as channel:

        async def ask(name: str, contents: list[bytes]) -> None:
            call = channel.stream_stream(name)(iter(contents), timeout=SECONDS)
            try:
                async for _ in call:
                    pass
                code = "OK"
            except grpc.aio.AioRpcError as error:
                # The client's own, where the call had ended before its message was sent.
                code = UNSENT if error.details() == "Internal error from Core" else error.code().name
            found[name, code] += 1

        sent = 0
        while sent < MESSAGES:
            batch = []
            while len(batch) < AT_ONCE and sent < MESSAGES:
                name = names[sent % len(names)]
                content = filled(kinds[name], rng).SerializeToString()
                batch.append(ask(name, [content if rng.random() < 0.4 else spoilt(content, rng)]))
                sent += 1
            await asyncio.gather(*batch)
    return found


def babble(port: int, rng: random.Random) -> None:
    """Connections that begin as HTTP/2 or not at all and go on with noise."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for number in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            noise = rng.randbytes(rng.randrange(1, 2000))
            if number % 3:
                # A frame of a random kind whose length is told wrong.
                noise = preface + b"\0\0\0\4\0\0\0\0\0" + rng.randbytes(3) + bytes([number % 11]) + noise
            try:
                connection.sendall(noise)
                if number % 5 == 0:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                continue


def test_ten_thousand_malformed_messages(server, pictures):
    rng = random.Random(0)
    with Client(server.target) as client:
        before = client.encode(ENCODER, images=pictures[:3])
    memory = server.memory()
    with bystander(server.target, pictures):
        codes = asyncio.run(throw(server.target, rng))
        babble(server.port, rng)
    assert codes.total() == MESSAGES
    # A bug would be told as INTERNAL or UNKNOWN.
    assert {code for _, code in codes} <= {
        "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED", "ALREADY_EXISTS", "DATA_LOSS", "OUT_OF_RANGE", UNSENT,
    }, codes  # fmt: skip
    assert sum(server.counted("rpc_requests_total", code=code) for code in ("INTERNAL", "UNKNOWN")) == 0
    assert sum(n for (_, code), n in codes.items() if code == "INVALID_ARGUMENT") > MESSAGES / 4
    assert server.memory() < memory + 200e6
    with Client(server.target) as another:
        np.testing.assert_array_equal(another.encode(ENCODER, images=pictures[:3]), before)
