from __future__ import annotations

import os
from datetime import timedelta

import numpy as np
import pytest

from recordings.errors import Cancelled, FormatError, InputError, ShapeError, UnknownNameError
from service.client import Client
from service.errors import ChecksumError, ModelNotFoundError, UnavailableError
from service.generated.penfield.v1 import job_pb2

from .conftest import busy


@pytest.fixture
def client(server):
    with Client(server.target) as found:
        yield found


def stored_file(server, data):
    return server.services.uploads.data.path(data.id, "local")


def test_file_is_uploaded_with_its_terms_and_deleted(client, server, tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"some notes")
    data = client.upload(
        tmp_path / "notes.txt", "recording", consent="research", license="CC0-1.0", retention=timedelta(hours=2)
    )
    assert (data.name, data.kind, data.size) == ("notes.txt", "recording", 10)
    assert (data.consent, data.license, data.retention) == ("research", "CC0-1.0", timedelta(hours=2))
    assert abs(data.expires - data.created - timedelta(hours=2)) < timedelta(seconds=1)
    assert stored_file(server, data).read_bytes() == b"some notes"
    assert client.data() == [data]
    assert client.delete(data) == []
    assert client.data() == []
    with pytest.raises(ModelNotFoundError):
        client.delete(data.id)


def test_upload_that_breaks_goes_on_and_is_not_sent_twice(client, server, tmp_path):
    content = os.urandom(4 * 2**20 + 5)
    (tmp_path / "large.bin").write_bytes(content)
    server.plans.fail("UploadData", 1, 2, 0)
    events = []
    data = client.upload(tmp_path / "large.bin", "file", on_event=events.append)
    assert stored_file(server, data).read_bytes() == content
    offsets = server.services.uploads.offsets
    assert offsets[0] == 0 and offsets == sorted(offsets) and offsets[-1] == 3 * 2**20
    assert events[-1].done == events[-1].total == len(content)
    assert client.upload(tmp_path / "large.bin", "file") == data
    assert server.services.uploads.offsets == offsets
    client.delete(data)


def test_folder_is_uploaded_whole(client, server, tmp_path):
    (tmp_path / "shown" / "inner").mkdir(parents=True)
    (tmp_path / "shown" / "inner" / "a.txt").write_text("a")
    data = client.upload(tmp_path / "shown", "stimuli")
    assert (stored_file(server, data) / "inner" / "a.txt").read_text() == "a"
    client.delete(data)


def test_wrong_uploads_are_refused(client, tmp_path):
    with pytest.raises(UnknownNameError, match="music"):
        client.upload(tmp_path, "music")
    with pytest.raises(FormatError, match="nothing"):
        client.upload(tmp_path / "absent", "file")
    (tmp_path / "r").write_bytes(b"r")
    with pytest.raises(InputError, match="consent"):
        client.upload(tmp_path / "r", "recording")


def test_submission_that_is_repeated_has_one_key(client, server):
    server.plans.fail("SubmitJob", UnavailableError("lost"), busy(0.01))
    job = client.submit("encode fit", features=["data:1"], folds=np.int64(3), alphas=(1.5,), recording=client.job("0"))
    submitted = server.services.jobs.submitted
    assert len(submitted) == 3 and len({key for key, _, _ in submitted}) == 1
    verb, arguments = submitted[0][1:]
    assert verb == "encode fit"
    assert arguments == {"features": ["data:1"], "folds": 3, "alphas": [1.5], "recording": "job:0"}
    assert job.reference == f"job:{job.id}"
    client.submit("encode fit", "mine")
    assert server.services.jobs.submitted[-1][0] == "mine"
    with pytest.raises(InputError, match="argument"):
        client.submit("encode fit", features=object())


def test_watching_loses_no_event_where_the_connection_breaks(client, server):
    server.plans.fail("WatchJob", 3, 4)
    events = []
    status = client.job("0").watch(events.append)
    assert status.state == "succeeded" and status.is_over
    assert [event.done for event in events] == [1, 2, 3, 4, 5]
    assert server.services.jobs.watched == [1, 3, 4]


def test_result_and_files(client, server, tmp_path):
    job = client.job("job:0")
    assert job.result() == {"score": 0.5}
    events = []
    server.plans.fail("FetchJob", UnavailableError("broken"))
    assert job.fetch(tmp_path / "out", on_event=events.append) == {"score": 0.5}
    assert (tmp_path / "out" / "model" / "weights.bin").read_bytes() == bytes(range(256)) * 64
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert events[-1].stage == "fetch" and events[-1].done == events[-1].total
    with pytest.raises(InputError, match="exists already"):
        job.fetch(tmp_path / "out")
    assert job.fetch(tmp_path / "out", overwrite=True) == {"score": 0.5}


def test_files_that_do_not_arrive_whole_are_not_kept(client, server, tmp_path, monkeypatch):
    monkeypatch.setattr(server.services.jobs, "pack", _with_another_hash)
    with pytest.raises(ChecksumError):
        client.job("0").fetch(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _with_another_hash(folder, archive):
    archive.write_bytes(b"0" * 10240)
    return 10240, "0" * 64


def test_failure_of_a_job_is_raised_as_what_it_was(client, server, tmp_path):
    server.services.jobs.end = job_pb2.JOB_STATE_FAILED
    with pytest.raises(ShapeError, match="too short"):
        client.job("0").result()
    server.services.jobs.end = job_pb2.JOB_STATE_CANCELLED
    with pytest.raises(Cancelled, match="cancelled"):
        client.job("0").fetch(tmp_path / "out")
    assert not (tmp_path / "out").exists()
