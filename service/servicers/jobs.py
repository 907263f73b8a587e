"""`JobServicer`: long work over gRPC."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from recordings.errors import InputError, disk_full_as_error
from service.data.archive import pack
from service.errors import ForbiddenError
from service.generated.penfield.v1 import job_pb2 as pb
from service.generated.penfield.v1 import job_pb2_grpc
from service.generated.penfield.v1.progress_pb2 import Failure, Progress
from service.jobs import Job, JobStore
from service.security.callers import current_caller
from service.verbs import VERBS
from service.verbs.publish import TERMS

from .data import terms_message, timestamp

CHUNK = 1 << 20
SECONDS_BETWEEN_LOOKS = 5.0
SPOOL = ".fetch-"


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """Jobs of the caller. Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    jobs : where they are kept; a `service.jobs.JobRunner` carries them out.
    """

    def __init__(self, jobs: JobStore):
        self.jobs = jobs
        # Archives of a server that was killed while it sent them.
        for left in (jobs.folder / "jobs").glob(f"*/{SPOOL}*"):
            left.unlink(missing_ok=True)

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Any) -> pb.SubmitJobResponse:
        """Queue a job."""
        caller, verb = current_caller(), request.request.verb
        needed = VERBS[verb].scope if verb in VERBS else ""
        if needed and needed not in caller.scopes:
            raise ForbiddenError(f"the token does not give the right {needed!r}", where=verb)
        arguments = _plain(json_format.MessageToDict(request.request.arguments))
        job = await asyncio.to_thread(self.jobs.submit, caller.name, verb, arguments, request.key)
        return pb.SubmitJobResponse(job=job_message(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        """Where a job stands."""
        job = await asyncio.to_thread(self.jobs.get, request.id, current_caller().name)
        return pb.GetJobResponse(job=job_message(job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """The caller's jobs."""
        found = await asyncio.to_thread(self.jobs.held_by, current_caller().name)
        return pb.ListJobsResponse(jobs=[job_message(job) for job in found])

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        """Stop a job."""
        job = await asyncio.to_thread(self.jobs.cancel, request.id, current_caller().name)
        return pb.CancelJobResponse(job=job_message(job))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        """Events of a job until it ends."""
        owner, number = current_caller().name, max(request.from_sequence, 1)
        job = await asyncio.to_thread(self.jobs.get, request.id, owner)
        with self._news(job.id) as news:
            while True:
                news.clear()
                job = await asyncio.to_thread(self.jobs.get, job.id, owner)
                events = await asyncio.to_thread(self.jobs.events, job.id, owner, number)
                for sequence, seen in events:
                    yield pb.WatchJobResponse(sequence=sequence, job=job_message(seen))
                    number = sequence + 1
                if not events:
                    if job.is_over:
                        return
                    # Another server's process may run it, whose news do not come here.
                    await _wait(news, SECONDS_BETWEEN_LOOKS)

    async def FetchJob(self, request: pb.FetchJobRequest, context: Any) -> AsyncIterator[pb.FetchJobResponse]:
        """The answer, and the folder that was written."""
        owner = current_caller().name
        answer, folder = await asyncio.to_thread(self.jobs.result, request.id, owner)
        yield pb.FetchJobResponse(answer_json=answer.strip())
        if not await asyncio.to_thread(_holds_files, folder):
            return
        archive = folder.with_name(f"{SPOOL}{uuid.uuid4().hex}")
        try:
            size, sha256 = await asyncio.to_thread(_pack, folder, archive)
            yield pb.FetchJobResponse(header=pb.ArchiveHeader(size=size, sha256=sha256))
            file = await asyncio.to_thread(archive.open, "rb")
            with file:
                while block := await asyncio.to_thread(file.read, CHUNK):
                    yield pb.FetchJobResponse(chunk=block)
        finally:
            archive.unlink(missing_ok=True)

    @contextmanager
    def _news(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something has happened to a job."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear(changed: str) -> None:
            if changed == id and not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        listener: Callable[[str], None] = hear
        self.jobs.listen(listener)
        try:
            yield news
        finally:
            self.jobs.unlisten(listener)


async def _wait(news: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(news.wait(), seconds)
    except TimeoutError:
        return


def _holds_files(folder: Path) -> bool:
    return any(path.name != TERMS for path in folder.iterdir())


def _pack(folder: Path, archive: Path) -> tuple[int, str]:
    with disk_full_as_error("the archive of the result"):
        return pack(folder, archive)


def _plain(value: Any) -> Any:
    """Whole numbers as such, which the wire carries as floats; `InputError` for NaN and infinity."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError("NaN or infinity", where="arguments")
        return int(value) if value.is_integer() else value
    return value


def job_message(job: Job) -> pb.Job:
    """A job on the wire."""
    message = pb.Job(
        id=job.id,
        request=pb.JobRequest(verb=job.verb),
        state=pb.JobState.Value(f"JOB_STATE_{job.state}"),
        progress=Progress(stage=job.stage, done=job.done, total=job.total),
        attempts=job.attempts,
        created=timestamp(job.created),
        terms=terms_message(job.terms),
    )
    message.request.arguments.update(job.arguments)
    if job.failure is not None:
        code, text, reason = job.failure
        message.failure.CopyFrom(Failure(code=code, message=text, reason=reason))
    if job.ended is not None:
        message.ended.CopyFrom(timestamp(job.ended))
    if job.expires is not None:
        message.expires.CopyFrom(timestamp(job.expires))
    return message
