"""`AlignmentServicer`: scores of models against brains, on uploaded data."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from recordings.errors import DiskFullError, InputError, UnknownNameError
from recordings.storage import remove
from service.data import DataStore
from service.errors import BusyError, UnavailableError
from service.generated.penfield.v1 import alignment_pb2 as pb
from service.generated.penfield.v1 import alignment_pb2_grpc
from service.generated.penfield.v1.progress_pb2 import Failure, Progress
from service.jobs.child import LOG, WORKER, Child
from service.jobs.store import ANSWER
from service.security.callers import current_caller, current_request_id
from service.status import error_of
from service.verbs import parse

log = logging.getLogger("penfield.calls")

SCORE = "score"
OPTIONS = ("readout", "roi", "compare", "baselines")
FOLDER = "scores"
GRACE_SECONDS = 10.0
ABANDONED = 86400.0
LOG_BYTES = 4096


class AlignmentServicer(alignment_pb2_grpc.AlignmentServiceServicer):
    """Scores, each computed in a process of its own, as jobs are: what strangers uploaded is read there, and a network
    that does not fit into memory ends that process alone. Nothing of it stays when the call is over.

    Methods raise typed errors, which an interceptor turns into statuses.

    Parameters
    ----------
    data : what callers have uploaded.
    device : auto, cpu, cuda or mps. at_once : scores at work. waiting : calls that may wait for their turn.
    command : of the process.
    """

    def __init__(
        self,
        data: DataStore,
        *,
        device: str = "auto",
        at_once: int = 1,
        waiting: int = 16,
        command: Sequence[str] = WORKER,
    ):
        self.data, self.device, self.command = data, device, command
        self.folder = data.folder / FOLDER
        self._most = at_once + waiting
        self._turns = asyncio.Semaphore(at_once)
        self._asked = 0
        self._ending: set[asyncio.Task[None]] = set()
        # Of a server that was killed; what is younger may be another server's on the same data.
        for left in self.folder.glob("*"):
            if time.time() - left.stat().st_mtime > ABANDONED:
                remove(left)

    async def Score(self, request: pb.ScoreRequest, context: Any) -> AsyncIterator[pb.ScoreResponse]:
        """Progress, then what ``penfield score --json`` prints; leaving stops the work at its next step."""
        spec = await asyncio.to_thread(self._spec, request, current_caller().name)
        async with self._turn(), aclosing(self._run(spec)) as events:
            async for event in events:
                yield event

    def _spec(self, request: pb.ScoreRequest, owner: str) -> dict[str, Any]:
        arguments = _arguments(request)
        references = parse(SCORE, arguments).references()
        places = {str(reference): str(self.data.path(reference.root, owner)) for reference in references}
        return {
            "id": current_request_id() or uuid.uuid4().hex,
            "verb": SCORE,
            "arguments": arguments,
            "folder": str(self.folder / uuid.uuid4().hex),
            "places": places,
            "models": str(self.data.folder / "models"),
            "terms": {},
            "device": self.device,
        }

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._asked >= self._most:
            raise BusyError(f"{self._asked} scores are computed or wait already", retry_seconds=30)
        self._asked += 1
        try:
            async with self._turns:
                yield
        finally:
            self._asked -= 1

    async def _run(self, spec: dict[str, Any]) -> AsyncGenerator[pb.ScoreResponse, None]:
        folder = Path(spec["folder"])
        child = None
        try:
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True)
            child = await Child.start(spec, self.command)
            end: dict[str, Any] = {}
            async for event in child.events():
                if "stage" in event:
                    yield pb.ScoreResponse(progress=Progress(**event))
                elif "end" in event:
                    end = event
            words = await child.ended()
            yield pb.ScoreResponse(result_json=await asyncio.to_thread(_answer, folder, end, words))
        finally:
            ending = asyncio.ensure_future(_leave_nothing(child, folder))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            await asyncio.shield(ending)


async def _leave_nothing(child: Child | None, folder: Path) -> None:
    if child is not None:
        child.stop()
        try:
            await asyncio.wait_for(child.ended(), GRACE_SECONDS)
        except TimeoutError:
            child.kill()
            await child.ended()
    await asyncio.to_thread(remove, folder)


def _answer(folder: Path, end: dict[str, Any], words: str) -> str:
    """The answer of a process that has ended, or its error."""
    how = end.get("end")
    if how == "done":
        return (folder / ANSWER).read_text().strip()
    if how == "full":
        raise DiskFullError("no room on the server's disk", where=SCORE, remedy="Try again later")
    tail = (folder / LOG).read_bytes()[-LOG_BYTES:].decode(errors="replace")
    if how == "failed":
        code, message, reason = end["failure"]
        if reason == "PenfieldError":
            log.error("a score failed: %s", tail)
        raise error_of(Failure(code=code, message=message, reason=reason))
    log.error("a score was lost, %s: %s", words, tail)
    raise UnavailableError("the process that computes it was lost", where=SCORE, remedy="Try again, or ask for less")


def _arguments(request: pb.ScoreRequest) -> dict[str, Any]:
    """Arguments of the verb `score`."""
    names = {"features_id": "features", "extractor_uri": "model", "recording_id": "recording", "rdms_id": "rdms"}
    arguments: dict[str, Any] = {"metric": request.metric, "layer": list(request.layers), "seed": request.seed}
    for given in (request.WhichOneof("model"), request.WhichOneof("brain")):
        if given is not None:
            value = getattr(request, given)
            arguments[names[given]] = value if given == "extractor_uri" else _reference(value)
    if request.stimuli_id:
        arguments["stimuli"] = _reference(request.stimuli_id)
    return arguments | _options(request.options_json)


def _reference(id: str) -> str:
    return id if id.startswith("data:") else f"data:{id}"


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON", where="options_json") from error
    if not isinstance(options, dict):
        raise InputError("not a JSON object", where="options_json")
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError(
                f"no option {name[:50]!r}", where="options_json", remedy=f"There are {', '.join(OPTIONS)}"
            )
    return options
