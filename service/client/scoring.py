"""Scores that a server computes of what was uploaded to it."""

from __future__ import annotations

import json
from typing import Any

import grpc

from recordings.events import Event, OnEvent

from ..errors import UnavailableError
from ..generated.penfield.v1 import alignment_pb2, alignment_pb2_grpc
from ..status import error_from
from .connection import Connection


async def score(
    connection: Connection,
    request: alignment_pb2.ScoreRequest,
    *,
    on_event: OnEvent | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """What ``penfield score --json`` prints. A score that breaks is computed anew: nothing else comes of it."""
    method = connection.stub(alignment_pb2_grpc.AlignmentServiceStub).Score
    tries = connection.tries(connection.stream_timeout if timeout is None else timeout)
    while True:
        call = method(request, timeout=tries.left(), metadata=connection.metadata)
        try:
            async for response in call:
                if response.WhichOneof("event") == "result_json":
                    return dict(json.loads(response.result_json))
                if on_event is not None:
                    progress = response.progress
                    on_event(Event(progress.stage, progress.done, progress.total))
            await tries.wait(UnavailableError("the server ended the stream early"))
        except grpc.aio.AioRpcError as failed:
            await tries.wait(error_from(failed))
        finally:
            call.cancel()
