"""A real server in a thread of its own, with services that compute little and fail when they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from recordings.errors import ShapeError
from service.data import DataStore
from service.data.archive import pack
from service.errors import BusyError, UnavailableError
from service.generated.penfield.v1 import (
    data_pb2_grpc,
    decoding_pb2,
    decoding_pb2_grpc,
    encoding_pb2,
    encoding_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    media_pb2,
    model_pb2,
    model_pb2_grpc,
    progress_pb2,
    tensor_pb2,
)
from service.media import Limits, read_clip, read_image, write_image
from service.server import Server
from service.servicers.data import DataServicer
from service.settings import ServerSettings
from service.status import failure_of
from service.tensors import to_array, to_tensor

MODEL = model_pb2.Model(
    reference=model_pb2.ModelReference(name="mean", version="1"), fingerprint="f1", verbs=["encode"]
)
LIMITS = Limits()


class Plans:
    """What goes wrong: `fail` puts errors before the next calls of a method, `log` has what was called."""

    def __init__(self) -> None:
        self.failures: dict[str, list[Any]] = {}
        self.log: list[str] = []

    def fail(self, method: str, *errors: Any) -> None:
        self.failures.setdefault(method, []).extend(errors)

    def called(self, method: str) -> Any:
        self.log.append(method)
        waiting = self.failures.get(method, [])
        return waiting.pop(0) if waiting else None

    def check(self, method: str) -> None:
        error = self.called(method)
        if error is not None:
            raise error


class Encoders(encoding_pb2_grpc.EncodingServiceServicer):
    """Responses are the means of colours, so that order and pixels show in them."""

    def __init__(self, plans: Plans) -> None:
        self.plans, self.seen, self.fingerprint = plans, [], "f1"

    async def Encode(self, request: Any, context: Any) -> Any:
        self.plans.check("Encode")
        return self._answer(request)

    async def EncodeStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        breaks_after = self.plans.called("EncodeStream")
        number = 0
        async for message in requests:
            if number == breaks_after:
                raise UnavailableError("broken")
            failure = self.plans.called("part")
            if failure is not None:
                told = failure_of(failure, "r")
                yield encoding_pb2.EncodeStreamResponse(number=number, failure=told)
            else:
                yield encoding_pb2.EncodeStreamResponse(number=number, response=self._answer(message.request))
            number += 1

    def _answer(self, request: Any) -> Any:
        self.seen.append(request)
        kind = request.WhichOneof("stimuli")
        if kind == "images":
            rows = [read_image(image, LIMITS).mean((0, 1)) for image in request.images.images]
        elif kind == "clips":
            rows = [read_clip(clip, LIMITS).mean((0, 1, 2)) for clip in request.clips.clips]
        else:
            rows = [to_array(request.features.spaces[0].tensor, name="features")]
        values = np.asarray(rows, np.float32).reshape(-1, np.shape(rows)[-1])
        model = model_pb2.Model(reference=request.model, fingerprint=self.fingerprint)
        return encoding_pb2.EncodeResponse(responses=to_tensor(values), model=model)


class Decoders(decoding_pb2_grpc.DecodingServiceServicer):
    """Captions name the row's sum; pictures show its first unit; a row of zeros fails."""

    def __init__(self, plans: Plans) -> None:
        self.plans, self.seen, self.cancelled = plans, [], threading.Event()

    async def Decode(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.plans.check("Decode")
        self.seen.append(request)
        yield decoding_pb2.DecodeResponse(accepted=decoding_pb2.DecodeAccepted(queue_position=2, model=MODEL))
        self.plans.check("after accepted")
        try:
            if self.plans.called("hang"):
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        values = to_array(request.responses, name="responses", ndim=2)
        for step in range(2):
            progress = progress_pb2.Progress(stage="reconstruct", done=step, total=2)
            yield decoding_pb2.DecodeResponse(progress=progress)
            if request.drawing.preview_every:
                image = write_image(np.full((4, 4, 3), 9, np.uint8), media_pb2.IMAGE_FORMAT_PIXELS)
                shown = decoding_pb2.Preview(stimulus_id=request.stimulus_ids[0], sample=1, image=image)
                yield decoding_pb2.DecodeResponse(preview=shown)
        # Rows may be ready in any order.
        for name, row in reversed(list(zip(request.stimulus_ids, values, strict=True))):
            yield decoding_pb2.DecodeResponse(result=self._result(name, row))
        settings = '{"preset": "penfield"}'
        yield decoding_pb2.DecodeResponse(summary=decoding_pb2.DecodeSummary(settings_json=settings))

    def _result(self, name: str, row: np.ndarray) -> Any:
        if not row.any():
            failure = failure_of(ShapeError("nothing there", where=name), "r")
            return decoding_pb2.DecodeResult(stimulus_id=name, failure=failure)
        picture = np.full((4, 4, 3), row[0], np.uint8)
        return decoding_pb2.DecodeResult(
            stimulus_id=name,
            caption=f"{row.sum():.0f}",
            images=[write_image(picture + sample, media_pb2.IMAGE_FORMAT_PNG) for sample in range(2)],
            depth=to_tensor(np.full((2, 3), row[0], np.float32)),
            targets=[tensor_pb2.NamedTensor(name="z", tensor=to_tensor(row * 2))],
        )


class Models(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, plans: Plans) -> None:
        self.plans = plans

    async def ListModels(self, request: Any, context: Any) -> Any:
        self.plans.check("ListModels")
        return model_pb2.ListModelsResponse(models=[MODEL])

    async def DescribeModel(self, request: Any, context: Any) -> Any:
        units = model_pb2.UnitCoordinates(unit_ids=[f"v{i}" for i in range(2**20)])
        described = model_pb2.ModelDescription(model=MODEL, units=units if request.model.name == "wide" else None)
        described.delays.extend([0, 1] if request.model.name == "series" else [])
        return model_pb2.DescribeModelResponse(description=described)


class Jobs(job_pb2_grpc.JobServiceServicer):
    """One job of five events, whose watching breaks where the plans say; its result is a folder."""

    def __init__(self, plans: Plans, folder: Path) -> None:
        self.plans, self.folder, self.submitted, self.watched = plans, folder, [], []
        self.end, self.pack = job_pb2.JOB_STATE_SUCCEEDED, pack

    def _job(self, done: int) -> Any:
        state = self.end if done == 5 else job_pb2.JOB_STATE_RUNNING
        job = job_pb2.Job(id="0" * 16, state=state, progress=progress_pb2.Progress(stage="fit", done=done, total=5))
        if done == 5 and self.end == job_pb2.JOB_STATE_FAILED:
            job.failure.CopyFrom(failure_of(ShapeError("too short"), "r"))
        return job

    async def SubmitJob(self, request: Any, context: Any) -> Any:
        self.submitted.append((request.key, request.request.verb, json_format.MessageToDict(request.request.arguments)))
        self.plans.check("SubmitJob")
        return job_pb2.SubmitJobResponse(job=self._job(0))

    async def GetJob(self, request: Any, context: Any) -> Any:
        return job_pb2.GetJobResponse(job=self._job(0))

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.watched.append(request.from_sequence)
        breaks_at = self.plans.called("WatchJob")
        for number in range(request.from_sequence, 6):
            if number == breaks_at:
                raise UnavailableError("broken")
            yield job_pb2.WatchJobResponse(sequence=number, job=self._job(number))

    async def FetchJob(self, request: Any, context: Any) -> AsyncIterator[Any]:
        breaks = self.plans.called("FetchJob")
        yield job_pb2.FetchJobResponse(answer_json='{"score": 0.5}')
        archive = self.folder.with_name("archive.tar")
        archive.unlink(missing_ok=True)
        size, sha256 = self.pack(self.folder, archive)
        yield job_pb2.FetchJobResponse(header=job_pb2.ArchiveHeader(size=size, sha256=sha256))
        content = archive.read_bytes()
        for start in range(0, size, 4096):
            if start and breaks is not None:
                raise breaks
            yield job_pb2.FetchJobResponse(chunk=content[start : start + 4096])


class Uploads(DataServicer):
    """Real uploads, which break after as many chunks as the plans say."""

    def __init__(self, data: DataStore, plans: Plans) -> None:
        super().__init__(data)
        self.plans, self.offsets = plans, []

    async def UploadData(self, requests: Any, context: Any) -> Any:
        breaks_after = self.plans.called("UploadData")
        return await super().UploadData(self._counted(requests, breaks_after), context)

    async def _counted(self, requests: Any, breaks_after: int | None) -> AsyncIterator[Any]:
        number = 0
        async for request in requests:
            if request.WhichOneof("message") == "header":
                self.offsets.append(request.header.offset)
            elif number == breaks_after:
                raise UnavailableError("broken")
            else:
                number += 1
            yield request


class Services:
    def __init__(self, folder: Path) -> None:
        result = folder / "result"
        (result / "model").mkdir(parents=True)
        (result / "model" / "weights.bin").write_bytes(bytes(range(256)) * 64)
        self.plans = Plans()
        self.encoders, self.decoders = Encoders(self.plans), Decoders(self.plans)
        self.uploads = Uploads(DataStore(folder / "data", reserve=0), self.plans)
        self.jobs, self.models = Jobs(self.plans, result), Models(self.plans)

    async def add_to(self, server: Any) -> list[str]:
        encoding_pb2_grpc.add_EncodingServiceServicer_to_server(self.encoders, server)
        decoding_pb2_grpc.add_DecodingServiceServicer_to_server(self.decoders, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, server)
        data_pb2_grpc.add_DataServiceServicer_to_server(self.uploads, server)
        job_pb2_grpc.add_JobServiceServicer_to_server(self.jobs, server)
        return [encoding_pb2.DESCRIPTOR.services_by_name["EncodingService"].full_name]

    async def warm_up(self) -> None:
        pass

    async def close(self) -> None:
        pass


@contextmanager
def running(services: Any, **settings: Any) -> Iterator[Any]:
    """A server in a thread: `.target`, `.port`, `.services`."""
    loop, started = asyncio.new_event_loop(), Future[int]()

    async def serve() -> None:
        values = {"models": Path(), "port": 0, "grace": 0, "log_level": "error", **settings}
        server = Server(ServerSettings(**values), services)
        try:
            await server.start()
            started.set_result(server.port)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        except BaseException as error:
            started.set_exception(error)
        finally:
            await server.stop()

    serving = Future[Any]()

    def run() -> None:
        task = loop.create_task(serve())
        serving.set_result(task)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        port = started.result(30)
        yield SimpleNamespace(target=f"localhost:{port}", port=port, services=services)
    finally:
        loop.call_soon_threadsafe(serving.result().cancel)
        thread.join(30)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running(Services(tmp_path_factory.mktemp("server"))) as found:
        yield found


@pytest.fixture
def server(_server: Any) -> Any:
    """A running server: `.target`, `.services`, `.plans`, which are fresh."""
    services = _server.services
    services.plans.failures.clear()
    services.plans.log.clear()
    services.encoders.seen, services.encoders.fingerprint, services.decoders.seen = [], "f1", []
    services.decoders.cancelled.clear()
    services.uploads.offsets, services.jobs.watched, services.jobs.submitted = [], [], []
    services.jobs.end = job_pb2.JOB_STATE_SUCCEEDED
    _server.plans = services.plans
    return _server


@pytest.fixture
def token_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file with one token."""

    def write(token: str) -> Path:
        path = tmp_path / "tokens.toml"
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        path.write_text(f'[[tokens]]\nname = "ann"\nsha256 = "{sha256}"\nscopes = ["read", "predict"]\n')
        return path

    return write


def busy(seconds: float) -> BusyError:
    return BusyError("too much to do", retry_seconds=seconds)
