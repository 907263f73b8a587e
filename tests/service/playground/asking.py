"""Requests as bytes, so that a test decides what stands in them."""

from __future__ import annotations

import asyncio
import json
from typing import Any


async def sent(site: Any, head: list[str], body: bytes = b"", seconds: float = 5) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request whose head may name {port}."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write("\r\n".join([*head, "", ""]).format(port=site.port).encode() + body)
    async with asyncio.timeout(seconds):
        answer = await reader.read()
    writer.close()
    first, _, content = answer.partition(b"\r\n\r\n")
    line, *fields = first.decode().split("\r\n")
    return int(line.split()[1]), dict(field.lower().split(": ", 1) for field in fields), content


async def posted(site: Any, target: str, body: bytes, seconds: float = 60) -> list[tuple[str, Any]]:
    """Events that a page of the site gets for what it posts."""
    own = "127.0.0.1:{port}"
    head = [f"POST {target} HTTP/1.1", f"Host: {own}", f"Origin: http://{own}", f"Content-Length: {len(body)}"]
    _, headers, content = await sent(site, head, body, seconds)
    assert headers["content-type"] == "text/event-stream"
    return events(unchunked(content))


def unchunked(content: bytes) -> bytes:
    """A body of chunks in one piece."""
    whole = b""
    while content:
        size, _, rest = content.partition(b"\r\n")
        whole, content = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return whole


def events(content: bytes) -> list[tuple[str, Any]]:
    """Names and fields of server-sent events."""
    found = []
    for block in content.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
