"""nginx before several servers: its configuration is accepted, and the death of a server loses no call that is safe."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "penfield.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
PURE, CHANGING = "/penfield.v1.EncodingService/Encode", "/penfield.v1.DecodingService/Decode"

# Answers with its process id after a moment; what is asked to kill dies over it, and counts before.
BACKEND = """
import asyncio, os, sys, grpc
async def answer(request, context):
    if request == b"kill":
        with open(sys.argv[2], "a") as file:
            file.write(f"{os.getpid()}\\n")
        os._exit(1)
    await asyncio.sleep(0.02)
    return str(os.getpid()).encode()
class Any(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(answer)
async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Any(),))
    assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()
asyncio.run(main())
"""

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")


@dataclass
class Balanced:
    """nginx at `port`, with the servers behind it."""

    port: int
    certificate: bytes
    servers: list[subprocess.Popen[str]]
    killed: Path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_certificate(folder: Path) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1)).add_extension(names, False)
    text = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(text)
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return text


def write_configuration(folder: Path, port: int, backends: list[int]) -> Path:
    """The shipped file with other ports and paths, within the least that nginx needs around it."""
    text = CONFIGURATION.read_text()
    for shipped, ours in zip((50061, 50062), backends, strict=True):
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{ours}")
    text = text.replace("listen 50051", f"listen 127.0.0.1:{port}").replace("/etc/penfield/tls", str(folder))
    places = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    around = f"{user}daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log warn;\nworker_processes 1;\n"
    whole = folder / "nginx.conf"
    whole.write_text(f"{around}events {{ }}\nhttp {{\naccess_log off;\n{places}{text}\n}}\n")
    return whole


def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    assert NGINX is not None
    command = [NGINX, "-t", "-p", tmp_path, "-c", write_configuration(tmp_path, free_port(), [50061, 50062])]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert found.returncode == 0, found.stderr


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Balanced]:
    certificate, port, killed = write_certificate(tmp_path), free_port(), tmp_path / "killed"
    ports = [free_port(), free_port()]
    servers = [
        subprocess.Popen([sys.executable, "-c", BACKEND, str(at), killed], stdout=subprocess.PIPE, text=True)
        for at in ports
    ]
    assert NGINX is not None
    front = subprocess.Popen([NGINX, "-p", tmp_path, "-c", write_configuration(tmp_path, port, ports)])
    try:
        for server in servers:
            assert server.stdout is not None and server.stdout.readline().strip() == "ready"
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Balanced(port, certificate, servers, killed)
    finally:
        for process in (front, *servers):
            process.terminate()
        for process in (front, *servers):
            process.wait(timeout=20)


# As a client that knows what is safe: encoding is asked again, decoding is not.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "penfield.v1.EncodingService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def channel_to(balanced: Balanced) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(balanced.certificate)
    options = [("grpc.service_config", json.dumps(RETRIES))]
    return grpc.aio.secure_channel(f"localhost:{balanced.port}", credentials, options)


@pytest.mark.slow
def test_a_server_that_dies_under_load_loses_no_safe_call(balanced: Balanced) -> None:
    async def work() -> Counter[str]:
        async with channel_to(balanced) as channel:
            call, served = channel.unary_unary(PURE), Counter[str]()

            async def client() -> None:
                for _ in range(60):
                    served[(await call(b"row", timeout=20)).decode()] += 1

            clients = [asyncio.ensure_future(client()) for _ in range(8)]
            while sum(served.values()) < 150:
                await asyncio.sleep(0.005)
            balanced.servers[0].send_signal(signal.SIGKILL)
            await asyncio.gather(*clients)
        return served

    served = asyncio.run(work())
    assert sum(served.values()) == 480 and set(served) == {str(server.pid) for server in balanced.servers}
    assert 20 < served[str(balanced.servers[0].pid)] < 200


@pytest.mark.slow
def test_a_call_that_changes_something_is_never_asked_twice(balanced: Balanced) -> None:
    async def work() -> None:
        async with channel_to(balanced) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(CHANGING)(b"kill", timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert (await channel.unary_unary(CHANGING)(b"row", timeout=20)).isdigit()

    asyncio.run(work())
    assert len(balanced.killed.read_text().splitlines()) == 1


@pytest.mark.slow
def test_without_any_server_the_client_hears_unavailable(balanced: Balanced) -> None:
    for server in balanced.servers:
        server.kill()
        server.wait()

    async def work() -> None:
        async with channel_to(balanced) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(PURE)(b"row", timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    asyncio.run(work())
