from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from recordings.errors import InputError, UnknownNameError
from service import status
from service.calls import Gate
from service.data import DataStore, Header, Kind, Terms
from service.errors import BusyError, ConflictError, ForbiddenError, ModelNotFoundError, NotReadyError
from service.generated.penfield.v1 import data_pb2, data_pb2_grpc, job_pb2, job_pb2_grpc
from service.jobs import JobQueue, JobRunner, JobStore, State
from service.jobs.answers import Places
from service.security.callers import Caller, set_caller
from service.security.limits import Shares
from service.servicers.data import DataServicer
from service.servicers.jobs import JobServicer

TERMS = Terms("research", "CC0-1.0", 100.0)
ROOT = Path(__file__).resolve().parents[2]
# Speaks as a job's process does, without the seconds that the libraries take to import.
CHILD = """
import json, os, signal, sys, time
spec, how = json.loads(sys.stdin.readline()), sys.argv[1]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def say(**event): print(json.dumps(event), flush=True)
tries = os.path.getsize("tries") if os.path.exists("tries") else 0
with open("tries", "a") as file: file.write(".")
say(stage="work", done=0, total=2)
if how == "crash" or (how == "crash once" and not tries): os.kill(os.getpid(), signal.SIGSEGV)
if how == "full once" and not tries: say(end="full"); sys.exit()
if how == "refuse": say(end="failed", failure=[3, "bad", "InputError"]); sys.exit()
if how == "deaf": stop = type("Deaf", (list,), {"__bool__": lambda self: False})()
if how in ("long", "deaf") or (how == "long once" and not tries):
    while not stop: time.sleep(0.01)
    say(end="cancelled"); sys.exit()
os.makedirs("part/made"); open("part/made/file", "w").write(spec["id"])
open("part/terms.json", "w").write(json.dumps(spec["terms"]))
open("answer.json", "w").write(json.dumps({"verb": spec["verb"], **spec["arguments"]}))
os.rename("part", "result")
say(stage="work", done=2, total=2)
say(end="done")
"""


class Clock:
    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.time() + self.ahead


class Models:
    def __init__(self, folder):
        self.root = folder

    def find(self, name, version=""):
        folder = self.root / name / (version or "1")
        if not folder.exists():
            raise ModelNotFoundError(f"no model {name!r}")
        return type("Entry", (), {"folder": folder})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    (tmp_path / "models").mkdir()
    data = DataStore(tmp_path / "server", retention=1000.0, clock=clock)
    made = JobStore(
        tmp_path / "server", data, Models(tmp_path / "models"), tmp_path / "models", retention=500.0, clock=clock
    )
    yield made
    made.close()


def keep(store, content=b"content", owner="ann", terms=TERMS):
    said = Header("file.bin", Kind.recording, len(content), hashlib.sha256(content).hexdigest(), terms)
    with store.data.open(owner, said) as sent:
        sent.write(content)
        return store.data.finish(owner, said, sent)


@asynccontextmanager
async def running(store, how="done", **options):
    command = (sys.executable, "-S", "-c", CHILD, how)
    runner = JobRunner(store, **{"lease": 5.0, "pause": 0.0, **options}, command=command)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop()


async def until(store, job, wanted, owner="ann", seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen = store.get(job.id, owner)
        if wanted(seen):
            return seen
        await asyncio.sleep(0.02)
    raise AssertionError(store.get(job.id, owner))


def over(job):
    return job.is_over


def carried_out(store, how, **options):
    async def go():
        job = store.submit("ann", "simulate", {"scenes": 5})
        async with running(store, how, **options):
            return await until(store, job, over)

    return asyncio.run(go())


def test_job_runs_and_its_result_is_fetched(store):
    job = carried_out(store, "done")
    assert (job.state, job.attempts, job.stage, job.done) == (State.succeeded, 1, "work", 2)
    answer, folder = store.result(job.id, "ann")
    assert json.loads(answer) == {"verb": "simulate", "scenes": 5}
    assert (folder / "made" / "file").read_text() == job.id
    seen = store.events(job.id, "ann", 0)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    states = [event.state for _, event in seen]
    assert states[:2] == [State.queued, State.running] and states[-1] == State.succeeded
    assert [number for number, _ in store.events(job.id, "ann", 3)] == list(range(3, len(seen) + 1))


def test_crash_is_tried_again_and_then_given_up(store):
    assert carried_out(store, "crash once").attempts == 2
    job = carried_out(store, "crash")
    assert (job.state, job.attempts) == (State.failed, 3)
    assert job.failure[0] == 14 and "SIGSEGV" in job.failure[1]
    with pytest.raises(NotReadyError):
        store.result(job.id, "ann")


def test_refused_input_is_not_tried_again(store):
    job = carried_out(store, "refuse")
    assert (job.state, job.attempts, job.failure) == (State.failed, 1, (3, "bad", "InputError"))


def test_full_disk_pauses(store):
    job = carried_out(store, "full once")
    assert (job.state, job.attempts) == (State.succeeded, 1)
    assert State.paused in [event.state for _, event in store.events(job.id, "ann", 0)]


@pytest.mark.parametrize("how", ["long", "deaf"])
def test_cancel_stops_a_running_job(store, how):
    async def go():
        job = store.submit("ann", "simulate", {})
        async with running(store, how, grace=0.3):
            await until(store, job, lambda seen: seen.stage)
            began = time.monotonic()
            store.cancel(job.id, "ann")
            ended = await until(store, job, over)
            return ended, time.monotonic() - began

    ended, seconds = asyncio.run(go())
    assert ended.state is State.cancelled and seconds < 3
    assert store.cancel(ended.id, "ann") == ended


def test_cancelled_job_goes_on_when_it_is_asked_for_again(store):
    waiting = store.submit("ann", "simulate", {})
    assert store.cancel(waiting.id, "ann").state is State.cancelled
    again = store.submit("ann", "simulate", {})
    assert (again.id, again.state) == (waiting.id, State.queued)
    assert store.submit("ann", "simulate", {}).id != waiting.id


def test_draining_server_leaves_jobs_to_the_next(store):
    async def go():
        job = store.submit("ann", "simulate", {})
        async with running(store, "long once"):
            await until(store, job, lambda seen: seen.stage)
        left = store.get(job.id, "ann")
        async with running(store, "long once"):
            return left, await until(store, job, over)

    left, ended = asyncio.run(go())
    assert (left.state, left.attempts) == (State.queued, 0)
    assert (ended.state, ended.attempts) == (State.succeeded, 1)


def test_lease_that_runs_out_is_taken_over(store, clock):
    job = store.submit("ann", "simulate", {})
    first, second = JobQueue(store, "first", lease=10), JobQueue(store, "second", lease=10)
    assert first.claim().id == job.id and second.claim() is None
    clock.ahead += 8
    assert first.beat(job.id).mine
    clock.ahead += 8
    assert second.claim() is None
    clock.ahead += 3
    assert second.claim().attempts == 2
    assert not first.beat(job.id).mine
    first.succeed(job.id)
    assert store.get(job.id, "ann").state is State.running
    for _ in range(2):
        clock.ahead += 11
        second.claim()
    ended = store.get(job.id, "ann")
    assert (ended.state, ended.failure[2]) == (State.failed, "UnavailableError")


def test_same_key_is_one_job(store):
    job = store.submit("ann", "simulate", {"scenes": 5}, "key")
    assert store.submit("ann", "simulate", {"scenes": 5}, "key") == job
    assert store.submit("bob", "simulate", {"scenes": 6}, "key").id != job.id
    with pytest.raises(ConflictError):
        store.submit("ann", "simulate", {"scenes": 6}, "key")
    assert [found.id for found in store.held_by("ann")] == [job.id]


def test_bad_requests_are_refused_when_they_are_made(store):
    for arguments in ({"scenes": 1}, {"scene": 5}):
        with pytest.raises(InputError):
            store.submit("ann", "simulate", arguments)
    with pytest.raises(UnknownNameError):
        store.submit("ann", "serve", {})
    mine = keep(store)
    store.submit("ann", "describe", {"path": mine.id})
    for path in (mine.id, "job:0123456789abcdef", "model:nothing"):
        with pytest.raises(ModelNotFoundError):
            store.submit("bob", "describe", {"path": path})
    waiting = store.submit("ann", "simulate", {})
    with pytest.raises(NotReadyError):
        store.submit("ann", "describe", {"path": f"job:{waiting.id}"})
    with pytest.raises(ModelNotFoundError):
        store.get(waiting.id, "bob")


def test_jobs_of_a_caller_are_bounded(store):
    store.max_active = 2
    for _ in range(2):
        store.submit("ann", "simulate", {})
    with pytest.raises(BusyError):
        store.submit("ann", "simulate", {})
    store.submit("bob", "simulate", {})


def test_terms_travel_and_results_go_with_their_data(store, clock, tmp_path):
    data = keep(store)
    first = store.submit("ann", "describe", {"path": data.id})
    assert first.terms == data.header.terms and first.sources == (data.id,)

    async def go():
        async with running(store):
            await until(store, first, over)
            second = store.submit("ann", "describe", {"path": f"job:{first.id}/made"})
            return await until(store, second, over)

    second = asyncio.run(go())
    assert second.sources == (data.id,) and second.terms == data.header.terms
    assert second.expires == pytest.approx(data.expires)
    terms = json.loads((store.result(second.id, "ann")[1] / "terms.json").read_text())
    assert terms["consent"] == "research" and terms["sources"] == [data.id]
    model = tmp_path / "models" / "lab" / "1"
    model.mkdir(parents=True)
    (model / "terms.json").write_text(json.dumps(terms))
    free = store.submit("ann", "simulate", {})
    assert set(store.data.delete(data.id, "ann")) == {first.id, second.id}
    assert [job.id for job in store.held_by("ann")] == [free.id]
    assert not store.place(second.id).exists() and not model.exists()


def test_data_deleted_under_a_running_job_take_it_along(store):
    data = keep(store)

    async def go():
        job = store.submit("ann", "describe", {"path": data.id})
        async with running(store, "long"):
            await until(store, job, lambda seen: seen.stage)
            assert store.data.delete(data.id, "ann") == [job.id]
            with pytest.raises(ModelNotFoundError):
                store.get(job.id, "ann")
            end = time.monotonic() + 5
            while store.place(job.id).exists() and time.monotonic() < end:
                await asyncio.sleep(0.02)
            return job

    assert not store.place(asyncio.run(go()).id).exists()


def test_results_expire(store, clock):
    job = carried_out(store, "done")
    assert store.sweep() == []
    clock.ahead += 501
    assert store.sweep() == [job.id]
    assert store.held_by("ann") == [] and not store.place(job.id).exists()


def test_answers_name_no_folder_of_the_server(tmp_path):
    folder = tmp_path / "jobs" / "0123456789abcdef"
    part = folder / "part"
    part.mkdir(parents=True)
    places = {"data:0123456789abcdef/sub": str(tmp_path / "data" / "x"), "model:a@1": str(tmp_path / "m" / "a" / "1")}
    spec = {"id": folder.name, "folder": str(folder), "places": places, "models": str(tmp_path / "m")}
    hidden = Places(spec).hide_in({"out": str(part / "y"), "all": [str(tmp_path / "data" / "x" / "z"), 3]})
    assert hidden == {"out": "job:0123456789abcdef/y", "all": ["data:0123456789abcdef/z", 3]}
    (part / "report.json").write_text(f'{{"model": "{tmp_path}/m/a/1/config.json"}}')
    Places(spec).hide_in_folder(part)
    assert (part / "report.json").read_text() == '{"model": "model:a@1/config.json"}'


# Over gRPC ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(store):
    server = grpc.aio.server(interceptors=[Gate(Shares(total=100, at_once=100))])
    data_pb2_grpc.add_DataServiceServicer_to_server(DataServicer(store.data), server)
    job_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(store), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield data_pb2_grpc.DataServiceStub(channel), job_pb2_grpc.JobServiceStub(channel)
    finally:
        await server.stop(0)


def requests(content, offset=0, broken_after=None, **about):
    said = {"name": "a.bin", "kind": data_pb2.DATA_KIND_FILE, "size": len(content)}
    said["sha256"] = hashlib.sha256(content).hexdigest()
    yield data_pb2.UploadDataRequest(header=data_pb2.UploadHeader(**{**said, **about, "offset": offset}))
    for start in range(offset, len(content), 1 << 20):
        if broken_after is not None and start >= broken_after:
            return
        yield data_pb2.UploadDataRequest(chunk=content[start : start + (1 << 20)])


def test_upload_over_the_wire_survives_a_broken_connection(store):
    content = os.urandom(3 << 20)
    sha256 = hashlib.sha256(content).hexdigest()

    async def go():
        async with serving(store) as (data, _):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await data.UploadData(requests(content, broken_after=1 << 20))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            have = await data.GetUpload(data_pb2.GetUploadRequest(sha256=sha256))
            assert have.offset == 1 << 20 and not have.HasField("data")
            terms = data_pb2.DataTerms(consent="c", license="l")
            terms.retention.seconds = 50
            made = (await data.UploadData(requests(content, offset=have.offset, terms=terms))).data
            assert made.terms == terms and made.expires.seconds - made.created.seconds in (50, 51)
            assert list((await data.ListData(data_pb2.ListDataRequest())).data) == [made]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await data.UploadData(requests(b"x", kind=data_pb2.DATA_KIND_RECORDING))
            assert "consent" in caught.value.details()
            assert store.data.path(made.id, "local").read_bytes() == content
            assert (await data.DeleteData(data_pb2.DeleteDataRequest(id=made.id))).job_ids == []

    asyncio.run(go())


def test_job_over_the_wire(store):
    async def go():
        async with serving(store) as (_, jobs), running(store):
            asked = job_pb2.JobRequest(verb="simulate")
            asked.arguments.update({"scenes": 5})
            job = (await jobs.SubmitJob(job_pb2.SubmitJobRequest(request=asked, key="k"))).job
            seen = [event async for event in jobs.WatchJob(job_pb2.WatchJobRequest(id=job.id))]
            last = seen[-1].job
            assert last.state == job_pb2.JOB_STATE_SUCCEEDED and last.progress.done == 2 and last.attempts == 1
            late = [e async for e in jobs.WatchJob(job_pb2.WatchJobRequest(id=job.id, from_sequence=seen[-1].sequence))]
            assert late == seen[-1:]
            answer, head, *chunks = [part async for part in jobs.FetchJob(job_pb2.FetchJobRequest(id=job.id))]
            assert json.loads(answer.answer_json) == {"verb": "simulate", "scenes": 5}
            content = b"".join(part.chunk for part in chunks)
            assert (head.header.size, head.header.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                assert sorted(archive.getnames()) == ["made", "made/file", "terms.json"]
            assert [found.id for found in (await jobs.ListJobs(job_pb2.ListJobsRequest())).jobs] == [job.id]
            again = await jobs.CancelJob(job_pb2.CancelJobRequest(id=job.id))
            assert again.job.state == job_pb2.JOB_STATE_SUCCEEDED
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await jobs.GetJob(job_pb2.GetJobRequest(id="nothing"))
            assert isinstance(status.error_from(caught.value), ModelNotFoundError)
        assert not list(store.folder.glob("jobs/*/.fetch-*"))

    asyncio.run(go())


def test_publishing_needs_a_right_of_its_own(store):
    servicer = JobServicer(store)
    asked = job_pb2.SubmitJobRequest(request=job_pb2.JobRequest(verb="publish"))

    async def go():
        set_caller(Caller("ann", frozenset({"data"})))
        with pytest.raises(ForbiddenError):
            await servicer.SubmitJob(asked, None)
        set_caller(Caller("ann", frozenset({"data", "admin"})))
        with pytest.raises(InputError, match="model"):
            await servicer.SubmitJob(asked, None)

    asyncio.run(go())


# With the real process ---------------------------------------------------------------------------------------------

SERVER = """
import asyncio, sys
from pathlib import Path
from service.data import DataStore
from service.jobs import JobRunner, JobStore
folder = Path(sys.argv[1])
async def main():
    store = JobStore(folder, DataStore(folder), None, folder / "models")
    await JobRunner(store, lease=3.0).start()
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.slow
def test_job_of_a_killed_server_is_resumed(store):
    """Also that what the first attempt has extracted is not extracted again, and that no process is left behind."""
    world = store.submit("ann", "simulate", {"scenes": 120, "repetitions": 1})
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(store.folder)], env=environment)

    async def go():
        await until(store, world, over, seconds=200)
        asked = {"stimuli": f"job:{world.id}/subject-01", "model": "miniature:backbone", "batch_size": 1}
        job = store.submit("ann", "features", {**asked, "layer": ["blocks.3"]})
        await until(store, job, lambda seen: seen.stage == "extract" and seen.done >= 3, seconds=200)
        server.send_signal(signal.SIGKILL)
        server.wait()
        runner = JobRunner(store, lease=3.0)
        await runner.start()
        try:
            return await until(store, job, over, seconds=200)
        finally:
            await runner.stop()

    job = asyncio.run(go())
    assert (job.state, job.attempts) == (State.succeeded, 2), job.failure
    seen = [event for _, event in store.events(job.id, "ann", 0) if event.stage == "extract" and event.attempts == 2]
    assert seen[0].done > 0
    answer = json.loads(store.result(job.id, "ann")[0])
    assert answer["layers"] == [{"layer": "blocks.3", "shape": [120, 192]}]
    assert str(store.folder) not in json.dumps(answer)
