from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest

from recordings.errors import FormatError, InputError
from service.client import AsyncClient, Client
from service.client.connection import Connection, Tries
from service.errors import BusyError, DeadlineError, ForbiddenError, UnauthenticatedError, UnavailableError

from ..server.conftest import certificates as certificates
from .conftest import Services, running


def test_both_clients_have_the_same_methods():
    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
    assert Client.encode.__doc__ == AsyncClient.encode.__doc__


def test_coroutines_run_beside_each_other(server):
    async def main():
        async with AsyncClient(server.target) as client:
            assert await client.health()
            images = [np.full((2, 2, 3), n, np.uint8) for n in range(20)]
            found = await asyncio.gather(*(client.encode("mean", images=image) for image in images))
            assert [int(row[0, 0]) for row in found] == list(range(20))

    asyncio.run(main())


def test_client_of_many_threads(server):
    found = {}
    with Client(server.target) as client:

        def ask(number):
            found[number] = client.encode("mean", images=np.full((2, 2, 3), number, np.uint8))[0, 0]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in range(8)}


def test_closed_client_and_calls_from_its_own_thread_say_so(server):
    client = Client(server.target)

    def on_event(event):
        client.models()

    with pytest.raises(InputError, match="on_event must not call the client"):
        client.decode("d", np.ones((1, 2)), on_event=on_event)
    client.close()
    client.close()
    with pytest.raises(InputError, match="closed"):
        client.models()


def test_thread_ends_with_the_client(server):
    client = Client(server.target)
    assert client.models()[0].name == "mean"
    thread = client._loop._thread
    del client
    thread.join(5)
    assert not thread.is_alive()


def test_server_that_is_not_there():
    with Client("localhost:1", timeout=0.5, retries=1) as client, pytest.raises(UnavailableError):
        client.health()


def test_services_that_the_server_does_not_have(server):
    from service.errors import NotOfferedError

    with Client(server.target) as client, pytest.raises(NotOfferedError):
        client.score(metric="rsa", model="miniature:backbone", recording="data:0")
    with Client(server.target) as client, pytest.raises(InputError):
        client.score(metric="rsa", recording="data:0")


def test_tokens_and_their_scopes(tmp_path, token_file):
    with running(Services(tmp_path), tokens=token_file("secret")) as server:
        with Client(server.target) as client, pytest.raises(UnauthenticatedError):
            client.models()
        with Client(server.target, token="secret") as client:
            assert client.models()
            with pytest.raises(ForbiddenError):
                client.data()


def test_certificates_of_both_sides(tmp_path, certificates):
    settings = {
        "tls_certificate": certificates / "server.pem",
        "tls_key": certificates / "server.key",
        "tls_client_ca": certificates / "ca.pem",
    }
    own = {"certificate": certificates / "client.pem", "key": certificates / "client.key"}
    with running(Services(tmp_path), **settings) as server:
        with Client(server.target, ca=certificates / "ca.pem", **own) as client:
            assert client.models()
        for wrong in ({"ca": certificates / "other_ca.pem", **own}, {"ca": certificates / "ca.pem"}):
            with Client(server.target, retries=0, timeout=5, **wrong) as client, pytest.raises(UnavailableError):
                client.models()


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("", {}, InputError),
        ("ftp://localhost:1", {}, InputError),
        ("http://192.0.2.1:50051", {"token": "t"}, InputError),
        ("localhost:1", {"certificate": "c.pem"}, InputError),
        ("localhost:1", {"ca": "absent.pem"}, FormatError),
        ("localhost:1", {"ca": __file__}, FormatError),
    ],
)
def test_connections_that_cannot_be_or_would_tell_the_token(target, options, error):
    with pytest.raises(error):
        Client(target, **options)


@pytest.mark.parametrize(
    ("target", "secure"),
    [
        ("localhost:50051", False),
        ("127.0.0.1:50051", False),
        ("[::1]:50051", False),
        ("unix:/tmp/socket", False),
        ("192.0.2.1:50051", True),
        ("https://localhost:50051", True),
        ("http://192.0.2.1:50051", False),
    ],
)
def test_other_machines_are_spoken_to_over_tls(target, secure):
    assert (Connection(target)._credentials is not None) is secure


def test_waits_are_drawn_and_end(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("service.client.connection.sleep", sleep)

    async def main():
        tries = Tries(20, None)
        for _ in range(20):
            await tries.wait(UnavailableError("x"))
        with pytest.raises(UnavailableError):
            await tries.wait(UnavailableError("x"))
        assert all(0 <= wait <= min(0.1 * 2**n, 5) for n, wait in enumerate(slept))
        assert len(set(slept)) == 20 and max(slept) > 0.5
        slept.clear()
        tries.progressed()
        await tries.wait(BusyError("x", retry_seconds=7))
        assert 7 <= slept[0] <= 7.1
        with pytest.raises(UnavailableError):
            await Tries(3, None, repeatable=False).wait(UnavailableError("x"))
        await Tries(3, None, repeatable=False).wait(BusyError("x", retry_seconds=1))
        with pytest.raises(DeadlineError):
            Tries(3, 0).left()

    asyncio.run(main())


def test_replies_larger_than_grpc_takes_by_itself(server):
    rows = np.zeros((1, 1_100_000), np.float32)
    with Client(server.target) as client:
        assert client.encode("mean", features=rows).shape == rows.shape


def test_statuses_of_others_are_typed_too():
    from service.status import error_from

    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "proxy")
    assert isinstance(error_from(error), UnavailableError)


@pytest.mark.slow
def test_client_is_light():
    program = "import sys; from service import Client; print(*{'torch', 'ray', 'pandas', 'zarr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
