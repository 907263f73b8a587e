"""`EncodingServicer`: from stimuli to predicted responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from recordings.errors import DuplicateIdError, InputError, PenfieldError, ShapeError
from service.errors import BusyError
from service.generated.penfield.v1 import encoding_pb2 as pb
from service.generated.penfield.v1 import encoding_pb2_grpc
from service.items import EncodeItem
from service.media import Limits, read_clip, read_image
from service.security.callers import current_request_id
from service.status import failure_of
from service.tensors import to_array, to_tensor

from .ordered import answered_in_order
from .replies import deadline_of, model_message, named, units_message
from .room import Room, Share

if TYPE_CHECKING:
    from service.engine import Engine

# Requests of one stream that are at work: enough to fill a batch while the next ones are read.
AT_ONCE = 8
# Pixels of all requests that are at work.
MOST_HELD = 1 << 30
BUSY_SECONDS = 0.5
SHORT_BYTES = 1 << 20


class EncodingServicer(encoding_pb2_grpc.EncodingServiceServicer):
    """Asks the encoders of an engine. Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    engine : whose encoders answer.
    limits : of a picture or clip; all those of one request together may be as large as the largest clip.
    pool : threads that read pictures and clips.
    at_once : requests of one stream that are at work.
    """

    def __init__(self, engine: Engine, limits: Limits, pool: Executor, *, at_once: int = AT_ONCE):
        self.engine, self.limits, self.pool, self.at_once = engine, limits, pool, at_once
        self.room = Room(MOST_HELD)

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> pb.EncodeResponse:
        """Responses to a few stimuli."""
        return await self._encode(request, deadline_of(context))

    async def EncodeStream(
        self, requests: AsyncIterator[pb.EncodeStreamRequest], context: Any
    ) -> AsyncGenerator[pb.EncodeStreamResponse, None]:
        """Responses to any number of stimuli; the queue's being full makes the client wait."""
        first = await anext(requests, None)
        if first is None:
            return
        # A stream whose model is not there ends before its stimuli are read.
        await self.engine.describe(*named(first.request.model))
        deadline, head = deadline_of(context), first.request

        async def answer(numbered: tuple[int, pb.EncodeStreamRequest]) -> pb.EncodeStreamResponse:
            number, message = numbered
            try:
                response = await self._patiently(_as_first(message.request, head), deadline)
            except (PenfieldError, MemoryError) as error:
                return pb.EncodeStreamResponse(number=number, failure=failure_of(error, current_request_id()))
            return pb.EncodeStreamResponse(number=number, response=response)

        async with aclosing(answered_in_order(_numbered(first, requests), answer, self.at_once)) as answers:
            async for response in answers:
                yield response

    async def _patiently(self, request: pb.EncodeRequest, deadline: float | None) -> pb.EncodeResponse:
        """The answer, asked for again while the server is busy; a stream waits where a call is refused."""
        while True:
            try:
                return await self._encode(request, deadline)
            except BusyError as error:
                await asyncio.sleep(min(error.retry_seconds, BUSY_SECONDS))

    async def _encode(self, request: pb.EncodeRequest, deadline: float | None) -> pb.EncodeResponse:
        name, version = named(request.model)
        described = await self.engine.describe(name, version)
        with Share(self.room) as share:
            item = await asyncio.get_running_loop().run_in_executor(self.pool, self._read, request, share)
            encoded = await self.engine.encode(name, version, item, deadline=deadline)
        if described.entry.fingerprint != encoded.entry.fingerprint:
            # The model was replaced after it was described and before it was asked.
            described = await self.engine.describe(name, version)
        responses = encoded.responses
        # A thread takes longer than a short copy.
        short = responses.nbytes <= SHORT_BYTES
        return pb.EncodeResponse(
            responses=to_tensor(responses) if short else await asyncio.to_thread(to_tensor, responses),
            units=units_message(described.units, described.units.columns(item.rois) if item.rois else ()),
            model=model_message(self.engine, encoded.entry),
        )

    def _read(self, request: pb.EncodeRequest, share: Share) -> EncodeItem:
        """What is asked of the model, and the memory it takes; in a thread, so that few requests are read at a time."""
        share.check()
        item = _item(request, self.limits)
        share.take(sum(pixels.nbytes for pixels in item.stimuli))
        return item


def _as_first(request: pb.EncodeRequest, first: pb.EncodeRequest) -> pb.EncodeRequest:
    """The request with the model and regions of the first of its stream."""
    if request is not first:
        if request.HasField("model") and request.model != first.model:
            raise InputError("another one than in the first message", where="model", remedy="Open another stream")
        if request.rois and request.rois != first.rois:
            raise InputError("others than in the first message", where="rois", remedy="Open another stream")
        request.model.CopyFrom(first.model)
        request.rois[:] = first.rois
    return request


async def _numbered(
    first: pb.EncodeStreamRequest, rest: AsyncIterator[pb.EncodeStreamRequest]
) -> AsyncIterator[tuple[int, pb.EncodeStreamRequest]]:
    yield 0, first
    number = 1
    async for request in rest:
        yield number, request
        number += 1


def _item(request: pb.EncodeRequest, limits: Limits) -> EncodeItem:
    kind, rois = request.WhichOneof("stimuli"), tuple(request.rois)
    if kind == "images":
        return EncodeItem(images=_pixels(request.images.images, read_image, "images", limits), rois=rois)
    if kind == "clips":
        return EncodeItem(clips=_pixels(request.clips.clips, read_clip, "clips", limits), rois=rois)
    if kind == "features":
        return _features(request.features, rois)
    raise InputError("nothing shown", where="stimuli", remedy="Give images, clips or features")


def _pixels(messages: Iterable[Any], read: Callable[..., np.ndarray], name: str, limits: Limits) -> list[np.ndarray]:
    found, left = [], limits.max_bytes
    for number, message in enumerate(messages):
        found.append(read(message, replace(limits, max_bytes=left), name=f"{name}[{number}]"))
        left -= found[-1].nbytes
    return found


def _features(rows: pb.FeatureRows, rois: tuple[str, ...]) -> EncodeItem:
    names = [space.name for space in rows.spaces]
    if len(set(names)) < len(names):
        raise DuplicateIdError("a space stands twice", where="features", remedy="Give one tensor a space")
    if len(rows.fingerprints) > len(names):
        raise ShapeError(f"{len(rows.fingerprints)} for {len(names)} spaces", where="fingerprints")
    features = {space.name: _array(space) for space in rows.spaces}
    told = {name: told for name, told in zip_longest(names, rows.fingerprints, fillvalue="") if told}
    return EncodeItem(features=features, rois=rois, fingerprints=told)


def _array(space: Any) -> np.ndarray:
    # Infinite and missing numbers are refused by EncodeItem.
    where = f"features {space.name}" if space.name else "features"
    array = to_array(space.tensor, name=where, dtypes={"float16", "float32"}, finite=False)
    return array.astype(np.float32, copy=False)
