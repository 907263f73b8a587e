from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest

from encoders import Features
from recordings import Recording
from recordings.errors import DiskFullError, InputError, UnknownNameError
from service.data import DataStore, Header, Kind, Terms
from service.errors import BusyError, ModelNotFoundError, UnavailableError
from service.generated.penfield.v1 import alignment_pb2 as pb
from service.generated.penfield.v1 import alignment_pb2_grpc as services
from service.jobs.answers import plain
from service.servicers.alignment import AlignmentServicer
from studies.agreement import score_layers
from studies.sources import open_recording

OWNER = "local"
# Speaks as the process of a score does, without the seconds that the libraries take to import.
CHILD = """
import json, os, signal, sys, time
spec, how = json.loads(sys.stdin.readline()), sys.argv[1]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def say(**event): print(json.dumps(event), flush=True)
say(start=os.getpid())
say(stage="compare layers", done=0, total=2)
if how == "crash": os.kill(os.getpid(), signal.SIGSEGV)
if how == "full": say(end="full"); sys.exit()
if how == "refuse": say(end="failed", failure=[3, "no layer 'x'", "UnknownNameError"]); sys.exit()
if how == "long":
    while not stop: time.sleep(0.01)
    open(os.path.join(sys.argv[2], "stopped"), "w").close(); say(end="cancelled"); sys.exit()
open("answer.json", "w").write(json.dumps({"given": spec["arguments"], "places": spec["places"]}))
say(end="done")
"""


def store(data: DataStore, name: str, content: bytes, kind: Kind, owner: str = OWNER) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    header = Header(name, kind, len(content), sha256, Terms("research", "CC0-1.0"))
    with data.open(owner, header) as upload:
        for start in range(0, len(content), 2**20):
            upload.write(content[start : start + 2**20])
        return data.finish(owner, header, upload).id


def packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, folder.name)
    return content.getvalue()


@pytest.fixture
def data(tmp_path) -> DataStore:
    return DataStore(tmp_path / "server")


@pytest.fixture
def asked(data, tmp_path, answering, run):
    """Events of a score whose process does as told."""

    def ask(how: str = "well", **fields):
        async def calling():
            command = (sys.executable, "-c", CHILD, how, str(tmp_path))
            servicer = AlignmentServicer(data, command=command)
            async with answering(services, "AlignmentService", servicer) as stub:
                return [event async for event in stub.Score(pb.ScoreRequest(**fields), timeout=30)]

        return run(calling())

    return ask


@pytest.fixture
def uploaded(data) -> dict[str, str]:
    return {
        "features_id": store(data, "f.zarr", b"features", Kind.features),
        "recording_id": store(data, "r.zarr", b"recording", Kind.recording),
    }


def test_request_becomes_the_verb_with_the_callers_own_data(asked, data, uploaded):
    first, last = asked(metric="rsa", layers=["a"], seed=7, options_json='{"compare": "cosine"}', **uploaded)
    assert (first.progress.stage, first.progress.done, first.progress.total) == ("compare layers", 0, 2)
    answer = json.loads(last.result_json)
    assert answer["given"] == {
        "metric": "rsa",
        "layer": ["a"],
        "seed": 7,
        "features": uploaded["features_id"],
        "recording": uploaded["recording_id"],
        "compare": "cosine",
    }
    assert answer["places"] == {id: str(data.path(id, OWNER)) for id in uploaded.values()}


def test_nothing_of_a_score_stays_on_the_server(asked, data, uploaded):
    asked(metric="rsa", **uploaded)
    with pytest.raises(UnknownNameError, match="no layer 'x'"):
        asked("refuse", metric="rsa", **uploaded)
    assert not list((data.folder / "scores").iterdir())


def test_what_a_killed_server_left_goes_and_what_is_another_servers_stays(data):
    old, young = data.folder / "scores" / "old", data.folder / "scores" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 1e5,) * 2)
    AlignmentServicer(data)
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("refuse", UnknownNameError, "no layer 'x'"),
        ("full", DiskFullError, "no room"),
        ("crash", UnavailableError, "was lost"),
    ],
)
def test_end_of_the_process_is_told_as_an_error(asked, uploaded, how, error, words):
    with pytest.raises(error, match=words):
        asked(how, metric="rsa", **uploaded)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"metric": "rsa", "extractor_uri": "python:os:system"}, InputError, "python: models run code"),
        ({"metric": "rsa", "extractor_uri": "untrained:python:os:system"}, InputError, "python: models run code"),
        ({"metric": "rsa", "extractor_uri": "/etc/passwd"}, InputError, "no name of a model"),
        ({"metric": "nearness"}, InputError, "score: metric"),
        ({"metric": "rsa", "features_id": ""}, InputError, "score: features"),
        ({"metric": "rsa", "features_id": "../../etc"}, InputError, "score: features"),
        ({"metric": "rsa", "features_id": "0" * 16}, ModelNotFoundError, "no data"),
        ({"metric": "rsa", "options_json": "{"}, InputError, "not JSON"),
        ({"metric": "rsa", "options_json": "[" * 100_000}, InputError, "not JSON"),
        ({"metric": "rsa", "options_json": "[]"}, InputError, "not a JSON object"),
        ({"metric": "rsa", "options_json": '{"recording": "model:x"}'}, UnknownNameError, "no option 'recording'"),
        ({"metric": "rsa", "options_json": '{"compare": "taste"}'}, InputError, "score: compare"),
        ({"metric": "rsa", "rdms_id": "0" * 16}, ModelNotFoundError, "no data"),
    ],
)
def test_request_that_is_wrong_is_refused_by_name(asked, uploaded, fields, error, words):
    with pytest.raises(error, match=words):
        asked(**uploaded | fields)


def test_data_of_another_caller_are_not_there(asked, data, uploaded):
    uploaded["features_id"] = store(data, "theirs.zarr", b"theirs", Kind.features, "somebody")
    with pytest.raises(ModelNotFoundError, match="no data"):
        asked(metric="rsa", **uploaded)


def test_leaving_stops_the_process_and_lets_the_next_one_in(data, uploaded, answering, run, tmp_path):
    async def ask():
        command = (sys.executable, "-c", CHILD, "long", str(tmp_path))
        servicer = AlignmentServicer(data, command=command, waiting=1)
        request = pb.ScoreRequest(metric="rsa", **uploaded)
        async with answering(services, "AlignmentService", servicer) as stub:
            first = stub.Score(request, timeout=30)
            await first.read()
            second = stub.Score(request, timeout=30)
            waits = asyncio.ensure_future(second.read())
            await asyncio.sleep(0.2)
            assert not waits.done()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Score(request, timeout=30).read()
            first.cancel()
            assert (await waits).progress.total == 2
            second.cancel()
            await stopped(data.folder / "scores")
            return refused.value.code()

    assert run(ask()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (tmp_path / "stopped").exists()


async def stopped(folder: Path) -> None:
    end = time.monotonic() + 20
    while list(folder.iterdir()):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_refusal_of_a_full_queue_says_when_to_ask_again(data, uploaded, run):
    async def ask():
        servicer = AlignmentServicer(data, at_once=1, waiting=0)
        async with servicer._turn(), servicer._turn():
            pass

    with pytest.raises(BusyError) as refused:
        run(ask())
    assert refused.value.retry_seconds > 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Features, Path]:
    """A feature store and a recording that reads it, with two regions."""
    rng, ids = np.random.default_rng(0), [f"s{i}" for i in range(20)]
    values = rng.standard_normal((20, 6)).astype(np.float32)
    folder = tmp_path_factory.mktemp("measured")
    features = Features.from_arrays(values, ids, uri="planted", layer="six").save(folder / "f.zarr")
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(10)], "roi": ["A"] * 6 + ["B"] * 4})
    responses = values @ rng.standard_normal((6, 10)) + rng.standard_normal((20, 10))
    recording = Recording(responses, {"stimulus_id": ids}, neuroids)
    recording.save(folder / "r.zarr")
    return features, folder


@pytest.mark.slow
def test_score_of_uploads_is_that_of_the_command_line(measured, data, answering, run):
    features, folder = measured
    fields = {
        "features_id": store(data, "f.zarr.tar", packed(folder / "f.zarr"), Kind.features),
        "recording_id": store(data, "r.zarr.tar", packed(folder / "r.zarr"), Kind.recording),
    }

    async def ask():
        async with answering(services, "AlignmentService", AlignmentServicer(data, device="cpu")) as stub:
            request = pb.ScoreRequest(metric="rsa", seed=3, options_json='{"roi": ["A"]}', **fields)
            return [event async for event in stub.Score(request, timeout=100)]

    *steps, last = run(ask())
    assert [step.progress.stage for step in steps] == ["compare layers"]
    local = score_layers({"six": features}, open_recording(folder / "r.zarr", ("A",)), metric="rsa", seed=3)
    assert json.loads(last.result_json) == plain(local)
