"""Servers on loopback with the gate that every call passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from service.calls import Gate
from service.security.limits import Shares
from service.security.tokens import Tokens
from service.status import error_from

MIB = 2**20


@asynccontextmanager
async def _answering(module: Any, name: str, servicer: Any, tokens: Tokens | None = None) -> AsyncIterator[Any]:
    gate = Gate(Shares(total=64, at_once=64), tokens=tokens)
    options = [(f"grpc.max_{way}_message_length", 64 * MIB) for way in ("send", "receive")]
    server = grpc.aio.server(interceptors=[gate], options=options)
    getattr(module, f"add_{name}Servicer_to_server")(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield getattr(module, f"{name}Stub")(channel)
    finally:
        await server.stop(0)


@pytest.fixture
def answering() -> Callable[..., Any]:
    """``async with answering(module, "EncodingService", servicer) as stub``: a stub of a server on loopback."""
    return _answering


def _run(work: Awaitable[Any], seconds: float = 120) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work, seconds)

    try:
        return asyncio.run(within())
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from error


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a coroutine to its end; a status is raised as the error that the server raised."""
    return _run
