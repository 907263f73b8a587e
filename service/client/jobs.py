"""`AsyncRemoteJob`: long work on a server, which goes on when its client leaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import grpc

from recordings.errors import Cancelled, InputError
from recordings.events import Event, OnEvent
from recordings.storage import atomic_path

from ..data.archive import unpack
from ..errors import ChecksumError, DeadlineError, UnavailableError
from ..generated.penfield.v1 import job_pb2, job_pb2_grpc
from ..status import error_from
from .connection import Connection
from .values import JobStatus, StoredData


class AsyncRemoteJob:
    """A job of the server.

    Attributes
    ----------
    id : with it, `AsyncClient.job` finds the job again.
    """

    def __init__(self, connection: Connection, id: str):
        self.id = id
        self._connection = connection

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def reference(self) -> str:
        """How other jobs name its result: "job:ID"."""
        return f"job:{self.id}"

    @property
    def _service(self) -> Any:
        return self._connection.stub(job_pb2_grpc.JobServiceStub)

    async def status(self) -> JobStatus:
        """Where it stands."""
        answer = await self._connection.call(self._service.GetJob, job_pb2.GetJobRequest(id=self.id))
        return JobStatus.of(answer.job)

    async def cancel(self) -> JobStatus:
        """Tell it to stop at its next step; how it stood then."""
        answer = await self._connection.call(self._service.CancelJob, job_pb2.CancelJobRequest(id=self.id))
        return JobStatus.of(answer.job)

    async def watch(self, on_event: OnEvent | None = None, *, timeout: float | None = None) -> JobStatus:
        """Wait until it ends; how it ended. A connection that breaks is made anew, and no event is lost.

        Parameters
        ----------
        on_event : gets an event a change, from the first on; its payload holds the `JobStatus`.
        timeout : seconds to wait; by default as long as the job takes.
        """
        tries, number, last = self._connection.tries(timeout), 1, None
        while last is None or not last.is_over:
            request = job_pb2.WatchJobRequest(id=self.id, from_sequence=number)
            left = tries.left(self._connection.stream_timeout)
            call = self._service.WatchJob(request, timeout=left, metadata=self._connection.metadata)
            try:
                async for response in call:
                    number, last = response.sequence + 1, JobStatus.of(response.job)
                    tries.progressed()
                    if on_event is not None:
                        stage = last.stage or last.state
                        on_event(Event(stage, last.done, last.total, {"status": last}))
                if last is None or not last.is_over:
                    last = await self.status()
            except grpc.aio.AioRpcError as failed:
                error = error_from(failed)
                # A server ends every stream after a while.
                if isinstance(error, DeadlineError):
                    tries.left()
                else:
                    await tries.wait(error)
            finally:
                call.cancel()
        return last

    async def result(self, on_event: OnEvent | None = None, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait for what the verb prints with --json.

        Raises
        ------
        PenfieldError : the error that the job failed with, of its own class. Cancelled : it was stopped.
        """
        await self._success(on_event, timeout)
        async with aclosing(self._fetched()) as parts:
            first = await anext(parts)
        return dict(json.loads(first.answer_json))

    async def fetch(
        self,
        out: str | PathLike[str],
        *,
        overwrite: bool = False,
        on_event: OnEvent | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Wait for the result and write the files of it to the folder `out`, whole or not at all; see `result`.

        Raises
        ------
        InputError : `out` exists. ChecksumError : what arrived is not what was sent.
        """
        out = Path(out)
        if out.exists() and not overwrite:
            raise InputError("exists already", where=out, remedy="Choose another name or pass overwrite")
        await self._success(on_event, timeout)
        archive = out.with_name(f".{out.name}.{self.id}.tar")
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            answer, size = await self._download(archive, on_event)
            if size:
                with atomic_path(out, overwrite=overwrite) as part:
                    # An archive holds a block more a file than the files themselves do.
                    await asyncio.to_thread(unpack, archive, part, max_bytes=size)
        finally:
            archive.unlink(missing_ok=True)
        return answer

    async def _success(self, on_event: OnEvent | None, timeout: float | None) -> None:
        status = await self.watch(on_event, timeout=timeout)
        if status.failure is not None:
            raise status.failure
        if status.state != "succeeded":
            raise Cancelled(f"{self.reference} was {status.state}", remedy="Submit it again to go on")

    async def _download(self, archive: Path, on_event: OnEvent | None) -> tuple[dict[str, Any], int]:
        """The answer, and the size of the archive, 0 if there is none."""
        answer: dict[str, Any] = {}
        header, digest = job_pb2.ArchiveHeader(), hashlib.sha256()
        with archive.open("wb") as file:
            async with aclosing(self._fetched()) as parts:
                async for part in parts:
                    kind = part.WhichOneof("message")
                    if kind == "answer_json":
                        # A stream that broke begins anew.
                        answer, digest = json.loads(part.answer_json), hashlib.sha256()
                        file.seek(0)
                        file.truncate()
                    elif kind == "header":
                        header = part.header
                    else:
                        await asyncio.to_thread(_write, file, part.chunk, digest)
                        if on_event is not None:
                            on_event(Event("fetch", file.tell(), header.size))
            size = file.tell()
        if size != header.size or (size and digest.hexdigest() != header.sha256):
            raise ChecksumError("what arrived is not what was sent", where=self.reference, remedy="Fetch it again")
        return answer, size

    async def _fetched(self) -> AsyncGenerator[job_pb2.FetchJobResponse, None]:
        """Messages of the result; after a break from the first one on."""
        tries = self._connection.tries(self._connection.stream_timeout)
        request = job_pb2.FetchJobRequest(id=self.id)
        while True:
            call = self._service.FetchJob(request, timeout=tries.left(), metadata=self._connection.metadata)
            begun = False
            try:
                async for response in call:
                    begun = True
                    yield response
                if begun:
                    return
                await tries.wait(UnavailableError("the server ended the stream early"))
            except grpc.aio.AioRpcError as failed:
                await tries.wait(error_from(failed))
            finally:
                call.cancel()


def plain_arguments(value: Any) -> Any:
    """Arguments of a job as JSON values: data, jobs and models by reference; a tuple is a list."""
    if isinstance(value, StoredData):
        return value.id
    if hasattr(value, "reference"):
        return value.reference
    if isinstance(value, Mapping):
        return {str(k): plain_arguments(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_arguments(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item"):
        return plain_arguments(value.item())
    raise InputError(
        f"{type(value).__name__} cannot be an argument", remedy="Upload data first, and give numbers, texts and lists"
    )


def _write(file: BinaryIO, chunk: bytes, digest: Any) -> None:
    file.write(chunk)
    digest.update(chunk)
