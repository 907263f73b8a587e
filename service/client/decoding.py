"""Words, pictures, depth and objects from a server's decoder, as they become ready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np

from recordings.errors import UnknownNameError
from recordings.events import Event, OnEvent

from ..errors import UnavailableError
from ..generated.penfield.v1 import decoding_pb2, decoding_pb2_grpc
from ..status import error_from
from ..tensors import to_tensor
from .connection import Connection
from .inputs import reference, responses_of, row_parts
from .values import Decoded, pixels_of

OUTPUTS = ("caption", "image", "depth", "shape", "targets")


async def decode(
    connection: Connection,
    model: str,
    responses: Any,
    outputs: Sequence[str],
    *,
    stimulus_ids: Sequence[str] | None = None,
    drawing: decoding_pb2.DrawingOptions,
    seed: int = 0,
    on_event: OnEvent | None = None,
    timeout: float | None = None,
) -> list[Decoded]:
    """A row each, in order; several calls if the responses do not fit into one, which changes no number."""
    for name in outputs:
        if name not in OUTPUTS:
            raise UnknownNameError(f"no output {name!r}", where="outputs", remedy=f"There are {', '.join(OUTPUTS)}")
    values, names, fingerprint = responses_of(responses, stimulus_ids)
    rows: list[Decoded] = []
    for part in row_parts(values):
        request = decoding_pb2.DecodeRequest(
            model=reference(model),
            responses=to_tensor(values[part]),
            stimulus_ids=names[part],
            units_fingerprint=fingerprint,
            outputs=[decoding_pb2.DecodeOutput.Value(f"DECODE_OUTPUT_{name.upper()}") for name in outputs],
            drawing=drawing,
            seed=seed,
        )
        rows += await _Call(request, frozenset(outputs), len(rows), len(values), on_event).rows(connection, timeout)
    return rows


class _Call:
    """One call of Decode, of rows that follow `before` others of `total`."""

    def __init__(
        self,
        request: decoding_pb2.DecodeRequest,
        outputs: frozenset[str],
        before: int,
        total: int,
        on_event: OnEvent | None,
    ):
        self.request, self.outputs, self.before, self.total = request, outputs, before, total
        self.on_event = on_event or (lambda event: None)
        self._found: dict[str, Decoded] = {}
        self._settings: dict[str, Any] = {}
        self._at = Event("queued", 0, 0)
        self._begun = self._ended = False

    async def rows(self, connection: Connection, timeout: float | None) -> list[Decoded]:
        """What was decoded, in the order of the request. A call of which anything has come is never sent again."""
        method = connection.stub(decoding_pb2_grpc.DecodingServiceStub).Decode
        tries = connection.tries(connection.stream_timeout if timeout is None else timeout)
        while not self._ended:
            call = method(self.request, timeout=tries.left(), metadata=connection.metadata)
            try:
                async for response in call:
                    self._begun = True
                    await self._take(response)
            except grpc.aio.AioRpcError as failed:
                error = error_from(failed)
                if self._begun:
                    raise error from failed
                await tries.wait(error)
            else:
                if not self._ended:
                    raise UnavailableError("the server ended the stream early", remedy="Decode again")
            finally:
                # The server stops at its next step when it is left, also because `on_event` raised.
                call.cancel()
        return [replace(self._found[name], settings=self._settings) for name in self.request.stimulus_ids]

    async def _take(self, response: decoding_pb2.DecodeResponse) -> None:
        kind = response.WhichOneof("event")
        if kind == "accepted":
            accepted = response.accepted
            place = {"queue_position": accepted.queue_position, "fingerprint": accepted.model.fingerprint}
            self.on_event(replace(self._at, payload=place))
        elif kind == "progress":
            progress = response.progress
            self._at = Event(progress.stage, progress.done, progress.total)
            self.on_event(self._at)
        elif kind == "preview":
            self.on_event(replace(self._at, payload=await _preview(response.preview)))
        elif kind == "result":
            row = await asyncio.to_thread(Decoded.of, response.result, self.outputs)
            self._found[row.stimulus_id] = row
            self.on_event(Event("decode", self.before + len(self._found), self.total, {"row": row}))
        elif kind == "summary":
            self._settings = json.loads(response.summary.settings_json or "{}")
            self._ended = set(self._found) == set(self.request.stimulus_ids)


async def _preview(preview: decoding_pb2.Preview) -> dict[str, Any]:
    """As events of `decoders.ImageReconstructor` carry them: pixels (1, height, width, 3), names and samples."""
    pixels = await asyncio.to_thread(pixels_of, preview.image)
    return {"preview": pixels[np.newaxis], "stimulus_ids": [preview.stimulus_id], "samples": [preview.sample]}
