"""Servers that are told to end, killed, or left without room: nothing that was acknowledged is lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from recordings.errors import DiskFullError, PenfieldError
from service.client import Client
from service.errors import UnavailableError
from service.generated.penfield.v1 import data_pb2, data_pb2_grpc
from service.status import error_from

from ..conftest import ENCODER
from .process import ServerProcess, server_process

pytestmark = pytest.mark.slow

CLIENTS, PICTURES, MIB = 6, 4, 2**20


def load(target: str, pictures: list[np.ndarray], stop: threading.Event, told: list[Any]) -> None:
    """Encode until the server says that it goes; every answer, or what was raised instead, is noted."""
    with Client(target, retries=0) as client:
        while not stop.is_set():
            try:
                told.append(client.encode(ENCODER, images=pictures))
            except PenfieldError as error:
                told.append(error)
                return


def simulate(client: Client, seed: int, scenes: int = 8) -> Any:
    return client.submit("simulate", f"job-{seed}", scenes=scenes, repetitions=1, seed=seed)


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_sigterm_under_load_loses_no_answer_and_no_job(encoder_folder, pictures, tmp_path):
    settings = {"models": encoder_folder, "data": tmp_path / "data", "warm_up": (ENCODER,), "grace": 30}
    shown, stop, told = pictures[:PICTURES], threading.Event(), [[] for _ in range(CLIENTS)]
    with server_process(tmp_path / "log", **settings) as server:
        threads = [threading.Thread(target=load, args=(server.target, shown, stop, mine)) for mine in told]
        for thread in threads:
            thread.start()
        with Client(server.target) as client:
            # The last of them wait in the queue when the server ends.
            ids = [simulate(client, seed).id for seed in range(2)]
            until(lambda: all(len(mine) >= 3 for mine in told))
        assert server.end(signal.SIGTERM) == 0
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert "Traceback" not in server.log.read_text()
    first = told[0][0]
    for mine in told:
        *answers, last = mine
        for answer in answers:
            np.testing.assert_allclose(answer, first, rtol=0, atol=1e-4)
        # Refused when no more calls were taken, none cut off on its way.
        assert isinstance(last, UnavailableError)
        assert "Cancelling all calls" not in str(last)
    with server_process(tmp_path / "log2", **settings) as server, Client(server.target) as client:
        for id in ids:
            assert client.job(id).result(timeout=120)


def test_sigkill_and_the_next_server_goes_on_with_what_was_acknowledged(encoder_folder, tmp_path):
    settings = {"models": encoder_folder, "data": tmp_path / "data"}
    whole, half = os.urandom(3 * MIB), os.urandom(3 * MIB)
    (tmp_path / "whole.bin").write_bytes(whole)
    (tmp_path / "half.bin").write_bytes(half)
    with server_process(tmp_path / "log", **settings) as server, Client(server.target) as client:
        stored = client.upload(tmp_path / "whole.bin", kind="file")
        jobs = [simulate(client, 0, scenes=40), simulate(client, 1)]
        channel = grpc.insecure_channel(server.target)
        never = threading.Event()
        breaking = data_pb2_grpc.DataServiceStub(channel).UploadData.future(sending(half, MIB, never))
        until(lambda: arrived(channel, half) >= MIB)
        until(lambda: jobs[0].status().state == "running")
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        never.set()
        with pytest.raises(grpc.RpcError):
            breaking.result(timeout=30)
    with server_process(tmp_path / "log2", **settings) as server, Client(server.target) as client:
        assert stored.id in {found.id for found in client.data()}
        with grpc.insecure_channel(server.target) as channel:
            assert MIB <= arrived(channel, half) < len(half)
        # Goes on where it was broken off.
        client.upload(tmp_path / "half.bin", kind="file")
        found = {data.sha256 for data in client.data()}
        assert found == {hashlib.sha256(content).hexdigest() for content in (whole, half)}
        for job in jobs:
            assert client.job(job.id).result(timeout=150)
        assert client.job(jobs[0].id).status().attempts == 2
        # The same key is still the same job.
        assert simulate(client, 1).id == jobs[1].id


def sending(content: bytes, size: int, going: threading.Event) -> Iterator[data_pb2.UploadDataRequest]:
    """An upload that waits after its first `size` bytes."""
    digest = hashlib.sha256(content).hexdigest()
    header = data_pb2.UploadHeader(name="half.bin", kind=data_pb2.DATA_KIND_FILE, size=len(content), sha256=digest)
    yield data_pb2.UploadDataRequest(header=header)
    for start in range(0, len(content), MIB):
        if start == size:
            going.wait(60)
        yield data_pb2.UploadDataRequest(chunk=content[start : start + MIB])


def arrived(channel: grpc.Channel, content: bytes) -> int:
    request = data_pb2.GetUploadRequest(sha256=hashlib.sha256(content).hexdigest())
    return int(data_pb2_grpc.DataServiceStub(channel).GetUpload(request).offset)


@pytest.fixture
def small_disk(encoder_folder: Path, tmp_path: Path) -> Iterator[tuple[ServerProcess, Path]]:
    """A server whose data lie on a disk of 300 MiB, and the folder by which this process reaches it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=300m tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here; that takes unshare and namespaces of users")
    before = [*inside, f'{mount} && exec "$@"', "sh"]
    settings = {"models": encoder_folder, "data": disk / "data", "warm_up": (ENCODER,)}
    with server_process(tmp_path / "log", before=before, **settings) as server:
        yield server, Path(f"/proc/{server.process.pid}/root{disk}")


def fill(disk: Path) -> None:
    """Take all room that is left."""
    with suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
        while filler.write(bytes(MIB)):
            pass


def submitted(client: Client, seed: int) -> PenfieldError | None:
    try:
        simulate(client, seed)
    except PenfieldError as error:
        return error
    return None


def test_full_disk_is_told_and_loses_nothing_and_room_mends_it(small_disk, tmp_path, pictures):
    server, disk = small_disk
    before, large = tmp_path / "before.bin", tmp_path / "half.bin"
    before.write_bytes(os.urandom(MIB))
    large.write_bytes(os.urandom(12 * MIB))
    with Client(server.target, retries=0) as client, grpc.insecure_channel(server.target) as channel:
        stored, content, going = client.upload(before, kind="file"), large.read_bytes(), threading.Event()
        coming = data_pb2_grpc.DataServiceStub(channel).UploadData.future(sending(content, MIB, going))
        until(lambda: arrived(channel, content) >= MIB)
        fill(disk)
        going.set()
        with pytest.raises(grpc.RpcError) as caught:
            coming.result(timeout=60)
        assert isinstance(error_from(caught.value), DiskFullError)
        # What had arrived of it made room.
        fill(disk)
        refusals = [submitted(client, seed) for seed in range(90)]
        assert {type(refusal) for refusal in refusals} <= {DiskFullError, type(None)}
        assert DiskFullError in map(type, refusals)
        # Who needs no room is answered, and what was there before is still there.
        assert client.encode(ENCODER, images=pictures[:1]).shape[0] == 1
        assert {found.id for found in client.data()} == {stored.id}
        (disk / "filler").unlink()
        assert client.upload(large, kind="file").size == len(content)
        assert submitted(client, 1000) is None
        jobs = client.jobs()
        assert len(jobs) == refusals.count(None) + 1
        assert {job.state for job in jobs} <= {"queued", "running", "paused", "succeeded"}
    assert server.end() == 0
