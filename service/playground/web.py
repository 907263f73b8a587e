"""`Web`: a small HTTP server on loopback that answers the pages of one site and no other site's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11

from recordings.errors import InputError

HOST = "127.0.0.1"
# A browser opens a handful of connections, some of which it never uses.
CONNECTIONS = 16
READ_SECONDS, SEND_SECONDS, LINGER_SECONDS = 30.0, 30.0, 2.0
HEAD_BYTES, BLOCK = 16 * 1024, 64 * 1024
HEADERS = {
    # Everything comes from here; pictures that are made for one answer stand in it as data.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "connection": "close",
}


@dataclass(frozen=True)
class Request:
    """What a browser asks: `query` holds the last value of each name, `headers` are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer: a whole body, or the parts of one that comes bit by bit."""

    status: int
    kind: str
    body: bytes | AsyncIterator[bytes]


class Refused(Exception):
    """A request that is not answered, with the status that says so."""

    def __init__(self, status: int, what: str):
        super().__init__(what)
        self.status = status


class Web:
    """Answers on 127.0.0.1, one request a connection.

    Only requests whose Host is this server's own are answered, so that no name that an attacker's server points here
    makes a stranger's page one of this site; and only those that this site's pages, or the user's own address bar,
    have sent.

    Parameters
    ----------
    answer : what to answer; cancelled when the browser leaves.
    max_body : bytes of a request beyond which it is refused.
    """

    def __init__(self, answer: Callable[[Request], Awaitable[Reply]], *, max_body: int):
        self.answer, self.max_body = answer, max_body
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, port: int) -> None:
        """Listen on a port, 0 for any; `InputError` if it cannot be had."""
        try:
            self._server = await asyncio.start_server(self._connected, HOST, port)
        except OSError as error:
            raise InputError(
                f"port {port} for the playground cannot be had ({error.strerror})",
                where="playground_port",
                remedy="Choose another one",
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and leave whoever is being answered."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        try:
            # Cancelled by `stop` alone, which asyncio would report as a failure.
            with suppress(ConnectionError, TimeoutError, asyncio.CancelledError, h11.LocalProtocolError):
                await self._serve(connection, reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._tasks) > CONNECTIONS:
            return
        try:
            async with asyncio.timeout(READ_SECONDS):
                request = await self._read(connection, reader)
        except h11.RemoteProtocolError as error:
            await _refuse(connection, reader, writer, error.error_status_hint, "not a request")
        except Refused as error:
            await _refuse(connection, reader, writer, error.status, str(error))
        else:

            async def work() -> None:
                await _send(connection, writer, await self.answer(request))

            await _while_there(reader, work())

    async def _read(self, connection: h11.Connection, reader: asyncio.StreamReader) -> Request:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(BLOCK))
            elif isinstance(event, h11.Request):
                head = event
                self._admit(head)
            elif isinstance(event, h11.Data):
                body += event.data
                self._check_size(len(body))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(body))
            else:
                raise ConnectionResetError

    def _admit(self, head: h11.Request) -> None:
        """Refuse what another site sent, before its body is read."""
        headers = _headers(head)
        host = headers.get("host", "").lower()
        if host not in {f"{name}:{self.port}" for name in (HOST, "localhost")}:
            raise Refused(421, f"this is {HOST}:{self.port}")
        if head.method not in (b"GET", b"POST"):
            raise Refused(405, "GET and POST alone")
        if head.method == b"POST" and headers.get("origin") != f"http://{host}":
            raise Refused(403, "sent by another site")
        visited = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not visited:
            raise Refused(403, "sent by another site")
        length = headers.get("content-length", "0")
        self._check_size(int(length) if length.isdecimal() else 0)

    def _check_size(self, n: int) -> None:
        if n > self.max_body:
            raise Refused(413, f"more than {self.max_body} bytes")


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}


def _request(head: h11.Request, body: bytes) -> Request:
    try:
        parts = urlsplit(head.target.decode("ascii"))
        query = dict(parse_qsl(parts.query, keep_blank_values=True, errors="strict", max_num_fields=32))
    except ValueError as error:
        raise Refused(400, "not an address") from error
    return Request(head.method.decode(), parts.path, query, _headers(head), body)


async def _refuse(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, what: str
) -> None:
    await _send(connection, writer, Reply(status, "application/json", json.dumps({"message": what}).encode()))
    # Closed with something unread, a connection is reset, and the answer may be lost on its way.
    writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        while await reader.read(BLOCK):
            pass


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    fields = {**HEADERS, "content-type": reply.kind}
    if isinstance(reply.body, bytes):
        fields["content-length"] = str(len(reply.body))
    head = h11.Response(status_code=reply.status, headers=list(fields.items()))
    await _write(writer, connection.send(head))
    if isinstance(reply.body, bytes):
        await _write(writer, connection.send(h11.Data(data=reply.body)))
    else:
        async with aclosing(reply.body) as parts:  # type: ignore[type-var]
            async for part in parts:
                await _write(writer, connection.send(h11.Data(data=part)))
    await _write(writer, connection.send(h11.EndOfMessage()))


async def _write(writer: asyncio.StreamWriter, content: bytes | None) -> None:
    writer.write(content or b"")
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()


async def _while_there(reader: asyncio.StreamReader, work: Any) -> None:
    """Work, and stop it when the browser leaves; nothing more is expected from it."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
