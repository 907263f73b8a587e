"""`DataServicer`: uploads over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from recordings.errors import InputError
from service.data import DataStore, Header, Kind, Stored, Terms
from service.errors import DeadlineError
from service.generated.penfield.v1 import data_pb2 as pb
from service.generated.penfield.v1 import data_pb2_grpc
from service.security.callers import current_caller

SECONDS_BETWEEN_CHUNKS = 60.0


class DataServicer(data_pb2_grpc.DataServiceServicer):
    """Uploads of the caller. Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    data : where they go.
    """

    def __init__(self, data: DataStore):
        self.data = data

    async def UploadData(self, requests: AsyncIterator[pb.UploadDataRequest], context: Any) -> pb.UploadDataResponse:
        """A header and chunks become stored data; what has arrived of a broken upload stays."""
        owner = current_caller().name
        first = await _next(requests)
        if first is None or first.WhichOneof("message") != "header":
            raise InputError("an upload begins with its header", where="UploadData")
        header = _header(first.header)
        _, stored = await asyncio.to_thread(self.data.arrived, owner, header.sha256)
        if stored is None:
            stored = await self._receive(owner, header, first.header.offset, requests)
        return pb.UploadDataResponse(data=stored_message(stored))

    async def _receive(self, owner: str, header: Header, offset: int, requests: AsyncIterator[Any]) -> Stored:
        upload = await asyncio.to_thread(self.data.open, owner, header, offset)
        try:
            while (request := await _next(requests)) is not None:
                if request.WhichOneof("message") != "chunk":
                    raise InputError("a second header", where=header.name, remedy="Send chunks after the first")
                await asyncio.to_thread(upload.write, request.chunk)
            # Storing goes on where the caller leaves now: nothing but the answer is missing.
            return await asyncio.shield(asyncio.to_thread(self._finish, owner, header, upload))
        finally:
            await asyncio.shield(asyncio.to_thread(upload.__exit__))

    def _finish(self, owner: str, header: Header, upload: Any) -> Stored:
        return self.data.finish(owner, header, upload)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        """How much of an upload is safe."""
        offset, stored = await asyncio.to_thread(self.data.arrived, current_caller().name, request.sha256)
        return pb.GetUploadResponse(offset=offset, data=None if stored is None else stored_message(stored))

    async def ListData(self, request: pb.ListDataRequest, context: Any) -> pb.ListDataResponse:
        """What the caller has stored."""
        found = await asyncio.to_thread(self.data.held_by, current_caller().name)
        return pb.ListDataResponse(data=[stored_message(stored) for stored in found])

    async def DeleteData(self, request: pb.DeleteDataRequest, context: Any) -> pb.DeleteDataResponse:
        """Delete data and what was derived from them."""
        jobs = await asyncio.to_thread(self.data.delete, request.id, current_caller().name)
        return pb.DeleteDataResponse(job_ids=jobs)


async def _next(requests: AsyncIterator[Any]) -> Any:
    try:
        return await asyncio.wait_for(anext(requests), SECONDS_BETWEEN_CHUNKS)
    except StopAsyncIteration:
        return None
    except TimeoutError as error:
        raise DeadlineError(
            f"no chunk for {SECONDS_BETWEEN_CHUNKS:.0f} s", remedy="Go on from the offset that GetUpload tells"
        ) from error


def _header(message: pb.UploadHeader) -> Header:
    name = pb.DataKind.Name(message.kind) if message.kind in pb.DataKind.values() else ""
    kind = name.removeprefix("DATA_KIND_").lower()
    if kind not in list(Kind):
        raise InputError("no kind of data", where="kind", remedy=f"There are: {', '.join(Kind)}")
    terms = message.terms
    retention = terms.retention.seconds + terms.retention.nanos / 1e9 if terms.HasField("retention") else None
    return Header(
        message.name, Kind(kind), message.size, message.sha256, Terms(terms.consent, terms.license, retention)
    )


def terms_message(terms: Terms) -> pb.DataTerms:
    """Terms on the wire."""
    retention = None if terms.retention is None else duration(terms.retention)
    return pb.DataTerms(consent=terms.consent, license=terms.license, retention=retention)


def stored_message(stored: Stored) -> pb.StoredData:
    """Stored data on the wire."""
    return pb.StoredData(
        id=stored.id,
        name=stored.name,
        kind=pb.DataKind.Value(f"DATA_KIND_{stored.header.kind.upper()}"),
        size=stored.header.size,
        sha256=stored.header.sha256,
        terms=terms_message(stored.header.terms),
        created=timestamp(stored.created),
        expires=timestamp(stored.expires),
    )


def timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 on the wire."""
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))


def duration(seconds: float) -> Duration:
    """Seconds on the wire."""
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
