"""Uploads: a file, or a folder as an archive, in chunks; one that breaks goes on from what has arrived."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from recordings.errors import FormatError, InputError, UnknownNameError
from recordings.events import Event, OnEvent

from ..data.archive import pack
from ..generated.penfield.v1 import data_pb2, data_pb2_grpc
from ..status import error_from
from .connection import Connection
from .values import StoredData

CHUNK = 2**20
KINDS = ("recording", "stimuli", "features", "rdms", "file")


async def upload(
    connection: Connection,
    path: Path,
    kind: str,
    *,
    consent: str = "",
    license: str = "",
    retention: timedelta | None = None,
    on_event: OnEvent | None = None,
) -> StoredData:
    """Upload a file or folder; content that the server has already is not sent."""
    if kind not in KINDS:
        raise UnknownNameError(f"no kind {kind!r}", where="kind", remedy=f"There are {', '.join(KINDS)}")
    if not path.exists():
        raise FormatError("there is nothing", where=path)
    terms = data_pb2.DataTerms(consent=consent, license=license)
    if retention is not None:
        span = Duration()
        span.FromTimedelta(retention)
        terms.retention.CopyFrom(span)
    with tempfile.TemporaryDirectory(prefix="penfield-upload-") as scratch:
        name, file = path.name, path
        if path.is_dir():
            name, file = f"{path.resolve().name}.tar", Path(scratch) / "folder.tar"
            await asyncio.to_thread(pack, path, file)
        header = data_pb2.UploadHeader(
            name=name,
            kind=data_pb2.DataKind.Value(f"DATA_KIND_{kind.upper()}"),
            size=file.stat().st_size,
            sha256=await asyncio.to_thread(_digest, file),
            terms=terms,
        )
        return await _Sending(file, header, on_event).send(connection)


@dataclass
class _Sending:
    file: Path
    header: data_pb2.UploadHeader
    on_event: OnEvent | None
    failed: Exception | None = None

    async def send(self, connection: Connection) -> StoredData:
        service = connection.stub(data_pb2_grpc.DataServiceStub)
        tries = connection.tries(connection.stream_timeout)
        furthest = 0
        while True:
            asked = data_pb2.GetUploadRequest(sha256=self.header.sha256)
            known = await connection.call(service.GetUpload, asked)
            if known.HasField("data"):
                return StoredData.of(known.data)
            if known.offset > furthest:
                furthest = known.offset
                tries.progressed()
            self.header.offset = known.offset
            call = service.UploadData(self._messages(), timeout=tries.left(), metadata=connection.metadata)
            try:
                return StoredData.of((await call).data)
            except grpc.aio.AioRpcError as failed:
                if self.failed is not None:
                    raise self.failed from failed
                await tries.wait(error_from(failed))
            finally:
                call.cancel()

    async def _messages(self) -> AsyncIterator[data_pb2.UploadDataRequest]:
        yield data_pb2.UploadDataRequest(header=self.header)
        try:
            with self.file.open("rb") as file:
                done = file.seek(self.header.offset)
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    yield data_pb2.UploadDataRequest(chunk=chunk)
                    done += len(chunk)
                    self._tell(done)
        except Exception as error:
            # grpc would only log it. The server refuses what is too short, and then it is raised.
            self.failed = error

    def _tell(self, done: int) -> None:
        if done > self.header.size:
            raise InputError("grew while it was sent", where=self.file.name, remedy="Upload it when it is finished")
        if self.on_event is not None:
            self.on_event(Event("upload", done, self.header.size))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
