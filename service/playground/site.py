"""`Playground`: the page, and what it asks of an engine."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import jinja2
import numpy as np

from recordings.errors import InputError
from service.engine import Accepted, DecodeEvent, Previewed, Stepped, Summary
from service.generated.penfield.v1 import media_pb2
from service.items import CAPTION, IMAGE, DecodedRow, DecodeItem, EncodeItem
from service.media import Limits, read_clip, read_image, write_image
from service.models.description import Description
from service.repository import DECODE, ENCODE, ModelEntry
from service.status import code_of, failure_of

from .maps import bars, cortex
from .rows import read_rows
from .web import Reply, Request, Web

if TYPE_CHECKING:
    from service.engine import Engine

log = logging.getLogger("penfield.playground")

TEMPLATES = Path(__file__).parent / "templates"
EVENTS = "text/event-stream"
MAX_ROWS = 8
# Of one picture or clip, so that all connections together hold no more than one large request over gRPC.
MAX_PIXEL_BYTES = 64 * 2**20
TOKENS = "tokens"
STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
Event = tuple[str, Mapping[str, Any]]


class Playground:
    """A web page on loopback that asks the models of an engine.

    Parameters
    ----------
    engine : whose models they are.
    limits : of pictures and clips. pool : threads that read and write them.
    max_body : bytes of a file that the page sends.
    deadline, stream_deadline : seconds for predictions and for decoding.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        pool: Executor,
        *,
        max_body: int = 16 * 2**20,
        deadline: float = 30,
        stream_deadline: float = 3600,
    ):
        self.engine, self.pool = engine, pool
        self.limits = replace(limits, max_bytes=min(limits.max_bytes, MAX_PIXEL_BYTES))
        self.deadline, self.stream_deadline = deadline, stream_deadline
        self.web = Web(self._answer, max_body=max_body)
        # Matplotlib's settings belong to the process: one drawing at a time.
        self._drawing = ThreadPoolExecutor(1, "penfield-maps")
        self._files = {
            "/playground.css": ("text/css", (TEMPLATES / "playground.css").read_bytes()),
            "/playground.js": ("text/javascript", (TEMPLATES / "playground.js").read_bytes()),
        }
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
        )
        self._page = environment.get_template("playground.html.j2")

    @property
    def port(self) -> int:
        """Where it listens, after `start`."""
        return self.web.port

    async def start(self, port: int = 0) -> None:
        """Listen; `InputError` if the port cannot be had."""
        await self.web.start(port)
        log.info("the playground is open", extra={"fields": {"address": f"http://127.0.0.1:{self.port}/"}})

    async def stop(self) -> None:
        """Close it; what it has asked for stops at its next step."""
        await self.web.stop()
        await asyncio.to_thread(self._drawing.shutdown, cancel_futures=True)

    # Pages -------------------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Reply:
        try:
            return await self._route(request)
        except Exception as error:
            return Reply(STATUS.get(code_of(error), 500), "application/json", _json(_failure(error)))

    async def _route(self, request: Request) -> Reply:
        asked = (request.method, request.path)
        if request.method == "GET" and request.path in self._files:
            return Reply(200, *self._files[request.path])
        if asked == ("GET", "/"):
            return Reply(200, "text/html; charset=utf-8", self._html())
        if asked == ("GET", "/model"):
            described = await self.engine.describe(*_named(request.query))
            return Reply(200, "application/json", _json(_about(described)))
        if asked == ("POST", "/encode"):
            return Reply(200, EVENTS, _told(self._encode(request)))
        if asked == ("POST", "/decode"):
            return Reply(200, EVENTS, _told(self._decode(request)))
        return Reply(404, "application/json", _json({"message": "no such page"}))

    def _html(self) -> bytes:
        found = {ENCODE: "Encoders", DECODE: "Decoders"}
        groups = {title: [e for e in self.engine.models() if verb in e.verbs] for verb, title in found.items()}
        return self._page.render(
            groups={title: [_option(entry) for entry in entries] for title, entries in groups.items() if entries},
            version=version("penfield"),
            max_rows=MAX_ROWS,
            max_body=self.web.max_body,
        ).encode()

    # Verbs -------------------------------------------------------------------------------------------------------

    async def _encode(self, request: Request) -> AsyncIterator[Event]:
        name, version = _named(request.query)
        described = await self.engine.describe(name, version)
        item = await self._in(self.pool, _shown, request.body, self.limits)
        deadline = asyncio.get_running_loop().time() + self.deadline
        encoded = await self.engine.encode(name, version, item, deadline=deadline)
        row = encoded.responses[0]
        units = described.units
        yield "regions", {"picture": await self._in(self._drawing, bars, row, units), "units": len(row)}
        on_cortex = await self._in(self._drawing, cortex, row, units)
        yield ("cortex", on_cortex) if on_cortex else ("nowhere", {})

    async def _decode(self, request: Request) -> AsyncIterator[Event]:
        name, version = _named(request.query)
        described = await self.engine.describe(name, version)
        outputs = _outputs(described)
        if not outputs:
            raise InputError("decodes numbers alone", where=name, remedy="Ask for its targets through the client")
        number = _whole(request.query)
        responses = await self._in(self.pool, read_rows, request.body)
        first, count = number("first", 0), min(number("count", 1), MAX_ROWS)
        if first >= len(responses):
            raise InputError(f"no row {first}", where="rows", remedy=f"The file has rows 0 to {len(responses) - 1}")
        rows = range(first, min(first + max(1, count), len(responses)))
        item = DecodeItem(
            responses[rows.start : rows.stop],
            outputs,
            tuple(map(str, rows)),
            preset=request.query.get("preset") or DecodeItem.preset,
            preview_every=number("preview_every", 1),
            seed=number("seed", 0),
        )
        deadline = asyncio.get_running_loop().time() + self.stream_deadline
        async with aclosing(self.engine.decode(name, version, item, deadline=deadline)) as events:
            async for event in events:
                yield await self._seen(event)

    async def _seen(self, event: DecodeEvent) -> Event:
        match event:
            case Accepted():
                return "accepted", {"before": event.queue_position}
            case Stepped():
                return "step", {"stage": event.stage, "done": event.done, "total": event.total}
            case Previewed():
                picture = await self._in(self.pool, _data_uri, event.pixels, media_pb2.IMAGE_FORMAT_JPEG)
                return "preview", {"row": event.stimulus_id, "sample": event.sample, "picture": picture}
            case DecodedRow():
                return "row", await self._in(self.pool, _row, event)
            case Summary():
                return "summary", {"succeeded": event.succeeded, "failed": event.failed, "settings": event.settings}

    async def _in(self, executor: Executor, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *args)


async def _told(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Events as a browser reads them; an error is the last of them."""
    async with aclosing(events) as found:  # type: ignore[type-var]
        try:
            async for name, fields in found:
                yield _event(name, fields)
        except Exception as error:
            yield _event("failure", _failure(error))


def _event(name: str, fields: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _json(fields) + b"\n\n"


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, default=_plain, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value.tolist()


def _failure(error: Exception) -> dict[str, str]:
    """What the user is told; of an error that nobody raised on purpose the log has the rest."""
    request_id = uuid.uuid4().hex
    if code_of(error) is grpc.StatusCode.INTERNAL:
        log.error("failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    return {"message": failure_of(error, request_id).message}


def _named(query: Mapping[str, str]) -> tuple[str, str]:
    if not query.get("model"):
        raise InputError("no model named", where="model", remedy="Choose one")
    return query["model"], query.get("version", "")


def _whole(query: Mapping[str, str]) -> Callable[[str, int], int]:
    def number(name: str, default: int) -> int:
        value = query.get(name) or str(default)
        if not (value.isascii() and value.isdecimal() and len(value) <= 10):
            raise InputError(f"{value!r}", where=name, remedy="Give a whole number from 0 on")
        return int(value)

    return number


def _option(entry: ModelEntry) -> dict[str, str]:
    return {"name": entry.key.name, "version": entry.key.version, "verb": entry.verbs[0], "reason": entry.reason}


def _about(described: Description) -> dict[str, Any]:
    """What the page says of a model and offers for it."""
    units = described.units
    return {
        "units": len(units.unit_ids),
        "space": json.loads(units.space_json)["name"],
        "regions": list(described.rois),
        "reason": next((f.reason for f in described.features if f.reason), ""),
        "presets": sorted(described.presets, key=lambda name: name != DecodeItem.preset),
        "outputs": sorted(_outputs(described)),
        "license": described.license,
    }


def _outputs(described: Description) -> frozenset[str]:
    words = any(target.name.partition(".")[0] == TOKENS for target in described.targets)
    return frozenset({CAPTION} if words else ()) | frozenset({IMAGE} if described.presets else ())


def _shown(content: bytes, limits: Limits) -> EncodeItem:
    """A picture, or a clip by the first bytes of its file; reading blocks, so call it in a thread."""
    if content.startswith(b"GIF8") or content[4:8] == b"ftyp":
        return EncodeItem(clips=[read_clip(media_pb2.Clip(encoded=content), limits)])
    return EncodeItem(images=[read_image(media_pb2.Image(encoded=content), limits)])


def _row(row: DecodedRow) -> dict[str, Any]:
    pictures: Sequence[np.ndarray] = () if row.images is None else list(row.images)
    return {
        "row": row.stimulus_id,
        "caption": row.caption,
        "pictures": [_data_uri(pixels, media_pb2.IMAGE_FORMAT_PNG) for pixels in pictures],
        "failure": None if row.failure is None else _failure(row.failure)["message"],
    }


def _data_uri(pixels: np.ndarray, format: media_pb2.ImageFormat) -> str:
    image = write_image(pixels, format)
    return f"data:{image.media_type};base64,{base64.b64encode(image.encoded).decode()}"
