"""The HTTP server of the playground: whom it answers, and that nobody holds it up."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from recordings.errors import InputError
from service.playground import web
from service.playground.web import Reply, Web

from .asking import sent

MAX_BODY = 1000


async def echo(request):
    found = [request.method, request.path, dict(request.query), request.body.decode()]
    return Reply(200, "application/json", json.dumps(found).encode())


@asynccontextmanager
async def listening(answer=echo):
    site = Web(answer, max_body=MAX_BODY)
    await site.start(0)
    try:
        yield site
    finally:
        await site.stop()


def ask(*heads, body=b"", answer=echo):
    async def main():
        async with listening(answer) as site:
            return [await sent(site, head, body) for head in heads]

    return asyncio.run(main())


def get(*headers, target="/", host="127.0.0.1:{port}"):
    return [f"GET {target} HTTP/1.1", f"Host: {host}", *headers]


def post(*headers, host="127.0.0.1:{port}", length=4):
    return ["POST /encode HTTP/1.1", f"Host: {host}", f"Content-Length: {length}", *headers]


OWN = "Origin: http://127.0.0.1:{port}"


def test_answers_a_request_and_says_what_a_page_may_do():
    ((status, headers, body),) = ask(get(target="/model?model=a%2Fb&version="))
    assert (status, json.loads(body)) == (200, ["GET", "/model", {"model": "a/b", "version": ""}, ""])
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (get(host="localhost:{port}"), 200),
        # A name that someone else's server points at this machine.
        (get(host="rebound.example:{port}"), 421),
        (get(host="127.0.0.1"), 421),
        (get(host="127.0.0.1:1"), 421),
        (post(OWN), 200),
        (post("Origin: http://localhost:{port}", host="localhost:{port}"), 200),
        (post(), 403),
        (post("Origin: null"), 403),
        (post("Origin: http://127.0.0.1:1"), 403),
        (post("Origin: https://127.0.0.1:{port}"), 403),
        (post("Origin: http://rebound.example:{port}"), 403),
        (post(OWN, "Sec-Fetch-Site: cross-site"), 403),
        (get("Sec-Fetch-Site: same-origin"), 200),
        (get("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), 403),
        (get("Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"), 403),
        (get("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), 403),
        # A link on another page, followed by the user.
        (get("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"), 200),
        (["PUT / HTTP/1.1", "Host: 127.0.0.1:{port}"], 405),
        (["GET / HTTP/1.1"], 400),
        (["nonsense"], 400),
        (get("X: " + "x" * (web.HEAD_BYTES + web.BLOCK)), 431),
        (get(target="/?" + "&".join("abcdefghijklmnopqrstuvwxyzabcdefgh")), 400),
        (get(target="/?a=%ff"), 400),
    ],
)
def test_refuses_what_other_sites_send_and_what_is_no_request(head, status):
    ((found, headers, _),) = ask(head, body=b"abcd" if head[0].startswith("POST") else b"")
    assert found == status
    assert "content-security-policy" in headers


def test_refuses_large_bodies_by_their_head_and_by_their_size():
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n"
    chunked = ["POST /encode HTTP/1.1", "Host: 127.0.0.1:{port}", OWN, "Transfer-Encoding: chunked"]
    ((told, _, _),) = ask(post(OWN, length=MAX_BODY + 1))
    ((counted, _, _),) = ask(chunked, body=chunk)
    assert (told, counted) == (413, 413)


def test_silent_and_slow_browsers_are_left(monkeypatch):
    monkeypatch.setattr(web, "READ_SECONDS", 0.1)

    async def main():
        async with listening() as site, asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(b"GET / HT")
            left = await reader.read()
            writer.close()
            return left, await sent(site, get())

    left, (status, _, _) = asyncio.run(main())
    assert (left, status) == (b"", 200)


def test_more_connections_than_it_holds_are_closed(monkeypatch):
    monkeypatch.setattr(web, "CONNECTIONS", 2)

    async def main():
        async with listening() as site, asyncio.timeout(5):
            held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            refused = await reader.read()
            for _, each in held:
                each.close()
                await each.wait_closed()
            await asyncio.sleep(0.05)
            writer.close()
            return refused, await sent(site, get())

    refused, (status, _, _) = asyncio.run(main())
    assert (refused, status) == (b"", 200)


def test_work_ends_when_the_browser_leaves_and_parts_arrive_one_by_one():
    ended = []

    async def answer(request):
        async def parts():
            try:
                yield b"first\n"
                await asyncio.sleep(60)
                yield b"never\n"
            finally:
                ended.append(True)

        return Reply(200, "text/event-stream", parts())

    async def main():
        async with listening(answer) as site, asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write("\r\n".join([*get(), "", ""]).format(port=site.port).encode())
            await reader.readuntil(b"first\n")
            before = list(ended)
            writer.close()
            while not ended:
                await asyncio.sleep(0.01)
            return before

    assert asyncio.run(main()) == []


def test_stopping_leaves_nobody_waiting():
    async def answer(request):
        await asyncio.sleep(60)

    async def main():
        async with listening(answer) as site, asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write("\r\n".join([*get(), "", ""]).format(port=site.port).encode())
            await asyncio.sleep(0.05)
            await site.stop()
            left = await reader.read()
            writer.close()
            return left

    assert asyncio.run(main()) == b""


def test_a_port_in_use_is_told():
    async def main():
        async with listening() as site:
            await Web(echo, max_body=1).start(site.port)

    with pytest.raises(InputError, match="playground_port"):
        asyncio.run(main())
