"""What the page gets from fitted models: the numbers and pictures that the engine gives to anybody."""

from __future__ import annotations

import asyncio
import base64
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest
from PIL import Image

from service.engine import Previewed, Summary
from service.items import DecodedRow, DecodeItem, EncodeItem
from service.media import Limits
from service.playground.maps import bars
from service.playground.site import MAX_PIXEL_BYTES, Playground
from service.playground.web import CONNECTIONS
from service.servicers.encoding import MOST_HELD

from .asking import posted, sent

pytestmark = pytest.mark.slow

DRAW = "/decode?model=subject-01/decoder&preset=takagi-cvpr&preview_every=10"


@asynccontextmanager
async def playground_of(opened):
    async with opened() as engine:
        with ThreadPoolExecutor(2) as pool:
            playground = Playground(engine, Limits(max_pixels=200 * 200), pool)
            await playground.start()
            try:
                yield playground
            finally:
                await playground.stop()


def encoded_as(format, *frames):
    file = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    first.save(file, format, **({"save_all": True, "append_images": others} if others else {}))
    return file.getvalue()


def saved(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_lists_models_and_describes_them(engine):
    async def main():
        async with playground_of(engine) as site:
            own = "Host: 127.0.0.1:{port}"
            page = await sent(site, ["GET / HTTP/1.1", own])
            known = await sent(site, ["GET /model?model=ridge&version=1 HTTP/1.1", own], seconds=60)
            absent = await sent(site, ["GET /model?model=../ridge HTTP/1.1", own])
            return page, known, absent, await sent(site, ["GET /../site.py HTTP/1.1", own])

    (status, headers, page), (known, _, about), (absent, _, why), (nowhere, _, _) = asyncio.run(main())
    assert (status, known, absent, nowhere) == (200, 200, 404, 404)
    assert headers["content-type"].startswith("text/html")
    assert b'value="subject-01/decoder" data-version="1" data-verb="decode"' in page
    assert b'"units": 40' in about and b'"regions": ["A", "B"]' in about
    assert b"no such model" in why


def test_predicts_as_the_engine_does(engine, pictures):
    async def main():
        async with playground_of(engine) as site:
            found = await posted(site, "/encode?model=ridge", encoded_as("PNG", pictures[0]))
            own = await site.engine.encode("ridge", "", EncodeItem(images=[pictures[0]]))
            return found, bars(own.responses[0], (await site.engine.describe("ridge")).units)

    events, expected = asyncio.run(main())
    assert [name for name, _ in events] == ["regions", "nowhere"]
    assert events[0][1]["picture"]["alt"] == expected.alt
    assert events[0][1]["units"] == 40


def test_decodes_the_rows_that_are_chosen_as_the_engine_does(engine, responses):
    rows = np.asarray(responses.data, np.float32)

    async def main():
        async with playground_of(engine) as site:
            found = await posted(site, f"{DRAW}&first=3&count=2&seed=5", saved(rows))
            item = DecodeItem(
                rows[3:5], frozenset({"image", "caption"}), ("3", "4"), "takagi-cvpr", preview_every=10, seed=5
            )
            return found, [event async for event in site.engine.decode("subject-01/decoder", "", item)]

    events, own = asyncio.run(main())
    names = [name for name, _ in events]
    assert names[0] == "accepted" and names[-3:] == ["row", "row", "summary"]
    assert names.count("preview") == sum(isinstance(event, Previewed) for event in own) > 0
    expected = [event for event in own if isinstance(event, DecodedRow)]
    found = [fields for name, fields in events if name == "row"]
    assert [row["row"] for row in found] == ["3", "4"]
    for row, whole in zip(found, expected, strict=True):
        assert row["caption"] == whole.caption
        np.testing.assert_array_equal([pixels(uri) for uri in row["pictures"]], whole.images)


@pytest.mark.parametrize(
    ("target", "body", "why"),
    [
        ("/encode?model=ridge", b"no picture", "image"),
        ("/encode?model=ridge", encoded_as("PNG", np.zeros((300, 300, 3), np.uint8)), "300 x 300"),
        # The encoder was fitted on pictures.
        (
            "/encode?model=ridge",
            encoded_as("GIF", *(np.full((64, 64, 3), k, np.uint8) for k in (0, 80, 160))),
            "(3, 192)",
        ),
        ("/encode?model=subject-01/decoder", encoded_as("PNG", np.zeros((9, 9, 3), np.uint8)), "not encode"),
        ("/encode?model=absent", b"", "no such model"),
        ("/encode", b"", "no model named"),
        (DRAW, b"no rows", "numpy.save"),
        (DRAW, saved(np.zeros((2, 3))), "3 units, the model reads 300"),
        (DRAW, saved(np.full((1, 300), np.nan)), "nan at [0, 0]"),
        (f"{DRAW}&first=2", saved(np.zeros((2, 300))), "rows 0 to 1"),
        (f"{DRAW}&seed=-1", saved(np.zeros((2, 300))), "seed"),
        ("/decode?model=subject-01/decoder&preset=absent", saved(np.zeros((2, 300))), "absent"),
        ("/decode?model=subject-01/latents", saved(np.zeros((2, 300))), "numbers alone"),
    ],
)
def test_says_what_is_wrong(engine, target, body, why):
    async def main():
        async with playground_of(engine) as site:
            return await posted(site, target, body)

    name, fields = asyncio.run(main())[-1]
    assert name == "failure"
    assert why in fields["message"]
    assert "/tmp" not in fields["message"]


def test_a_clip_may_be_no_larger_than_what_all_may_hold(engine):
    async def main():
        async with playground_of(engine) as site:
            return site.limits

    limits = asyncio.run(main())
    assert (limits.max_pixels, limits.max_bytes) == (200 * 200, MAX_PIXEL_BYTES)
    assert CONNECTIONS * limits.max_bytes <= MOST_HELD


def test_leaving_stops_the_work(engine, responses):
    body = saved(np.asarray(responses.data, np.float32))

    async def main():
        async with playground_of(engine) as site:
            told, ended, decode = [], asyncio.Event(), site.engine.decode

            async def watched(*args, **options):
                try:
                    async with aclosing(decode(*args, **options)) as events:
                        async for event in events:
                            told.append(event)
                            yield event
                finally:
                    ended.set()

            site.engine.decode = watched
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            own = f"127.0.0.1:{site.port}"
            head = [f"POST {DRAW}&count=8 HTTP/1.1", f"Host: {own}", f"Origin: http://{own}"]
            writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
            async with asyncio.timeout(60):
                await reader.readuntil(b"event: preview")
            writer.close()
            async with asyncio.timeout(10):
                await ended.wait()
            return told

    told = asyncio.run(main())
    assert any(isinstance(event, Previewed) for event in told)
    assert not any(isinstance(event, DecodedRow | Summary) for event in told)
