"""`DecodingServicer`: from brain responses to words, pictures and depth."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import numpy as np

from recordings.errors import InputError
from service.engine import Accepted, DecodeEvent, Previewed, Stepped, Summary
from service.generated.penfield.v1 import decoding_pb2 as pb
from service.generated.penfield.v1 import decoding_pb2_grpc, media_pb2
from service.generated.penfield.v1.progress_pb2 import Progress
from service.generated.penfield.v1.tensor_pb2 import NamedTensor
from service.items import CAPTION, DEPTH, IMAGE, SHAPE, TARGETS, DecodedRow, DecodeItem
from service.media import write_image
from service.security.callers import current_request_id
from service.status import failure_of
from service.tensors import to_array, to_tensor

from .replies import deadline_of, model_message, named

if TYPE_CHECKING:
    from service.engine import Engine

OUTPUTS: dict[int, str] = {
    pb.DECODE_OUTPUT_CAPTION: CAPTION,
    pb.DECODE_OUTPUT_IMAGE: IMAGE,
    pb.DECODE_OUTPUT_DEPTH: DEPTH,
    pb.DECODE_OUTPUT_SHAPE: SHAPE,
    pb.DECODE_OUTPUT_TARGETS: TARGETS,
}
# Fields of DrawingOptions that the preset decides where they are absent.
CHOICES = ("strength", "guidance", "steps", "samples")


class DecodingServicer(decoding_pb2_grpc.DecodingServiceServicer):
    """Asks the decoders of an engine. Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    engine : whose decoders answer.
    pool : threads that write pictures.
    """

    def __init__(self, engine: Engine, pool: Executor):
        self.engine, self.pool = engine, pool

    async def Decode(self, request: pb.DecodeRequest, context: Any) -> AsyncIterator[pb.DecodeResponse]:
        """Progress, previews, and a result a row; leaving stops the work within one denoising step."""
        name, version = named(request.model)
        item = await asyncio.to_thread(_item, request)
        async with aclosing(self.engine.decode(name, version, item, deadline=deadline_of(context))) as events:
            async for event in events:
                yield await self._message(event, request.drawing.format)

    async def _message(self, event: DecodeEvent, format: media_pb2.ImageFormat) -> pb.DecodeResponse:
        match event:
            case Accepted():
                model = model_message(self.engine, event.entry)
                accepted = pb.DecodeAccepted(queue_position=event.queue_position, model=model)
                return pb.DecodeResponse(accepted=accepted)
            case Stepped():
                return pb.DecodeResponse(progress=Progress(stage=event.stage, done=event.done, total=event.total))
            case Previewed():
                small = format if format == media_pb2.IMAGE_FORMAT_PIXELS else media_pb2.IMAGE_FORMAT_JPEG
                image = await self._image(event.pixels, small)
                preview = pb.Preview(stimulus_id=event.stimulus_id, sample=event.sample, image=image)
                return pb.DecodeResponse(preview=preview)
            case DecodedRow():
                return pb.DecodeResponse(result=await self._result(event, format))
            case Summary():
                return pb.DecodeResponse(summary=_summary(event))

    async def _result(self, row: DecodedRow, format: media_pb2.ImageFormat) -> pb.DecodeResult:
        if row.failure is not None:
            failure = failure_of(row.failure, current_request_id())
            return pb.DecodeResult(stimulus_id=row.stimulus_id, failure=failure)
        pictures = () if row.images is None else row.images
        return pb.DecodeResult(
            stimulus_id=row.stimulus_id,
            caption=row.caption or "",
            images=await asyncio.gather(*(self._image(pixels, format) for pixels in pictures)),
            depth=None if row.depth is None else to_tensor(row.depth),
            targets=[NamedTensor(name=name, tensor=to_tensor(v)) for name, v in (row.targets or {}).items()],
        )

    async def _image(self, pixels: np.ndarray, format: media_pb2.ImageFormat) -> media_pb2.Image:
        return await asyncio.get_running_loop().run_in_executor(self.pool, write_image, pixels, format)


def _item(request: pb.DecodeRequest) -> DecodeItem:
    """What is asked of the model."""
    drawing = request.drawing
    if drawing.format not in media_pb2.ImageFormat.values():
        raise InputError(f"no image format {drawing.format}", where="format", remedy="Ask for PNG, JPEG or pixels")
    chosen = {name: getattr(drawing, name) for name in CHOICES if drawing.HasField(name)}
    if drawing.preset:
        chosen["preset"] = drawing.preset
    return DecodeItem(
        # Infinite and missing numbers are refused by DecodeItem.
        responses=to_array(request.responses, name="responses", dtypes={"float32"}, ndim=2, finite=False),
        outputs=frozenset(map(_output, request.outputs)),
        stimulus_ids=tuple(request.stimulus_ids),
        preview_every=drawing.preview_every,
        seed=request.seed,
        units_fingerprint=request.units_fingerprint,
        **chosen,
    )


def _output(number: int) -> str:
    if number not in OUTPUTS:
        raise InputError(f"no output {number}", where="outputs", remedy="Ask for caption, image, depth or targets")
    return OUTPUTS[number]


def _summary(event: Summary) -> pb.DecodeSummary:
    return pb.DecodeSummary(
        succeeded=event.succeeded,
        failed=event.failed,
        settings_json=json.dumps(event.settings),
        queued_seconds=event.queued_seconds,
        computed_seconds=event.computed_seconds,
    )
