"""Servers on loopback with services that do as they are told, and certificates of several authorities."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recordings.errors import ShapeError
from service.errors import BusyError, UnavailableError
from service.generated.penfield.v1 import (
    data_pb2,
    data_pb2_grpc,
    decoding_pb2,
    decoding_pb2_grpc,
    encoding_pb2,
    encoding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from service.security import current_caller, current_request_id
from service.server import Server
from service.settings import ServerSettings

PROTOS = (
    (model_pb2, model_pb2_grpc, "ModelService"),
    (encoding_pb2, encoding_pb2_grpc, "EncodingService"),
    (decoding_pb2, decoding_pb2_grpc, "DecodingService"),
    (data_pb2, data_pb2_grpc, "DataService"),
)


class Obedient(
    model_pb2_grpc.ModelServiceServicer,
    encoding_pb2_grpc.EncodingServiceServicer,
    decoding_pb2_grpc.DecodingServiceServicer,
    data_pb2_grpc.DataServiceServicer,
):
    """Services of all four kinds of calls; what they do stands in the name of the model that is asked for."""

    def __init__(self) -> None:
        self.at_work = 0
        self.cancelled = 0
        self.sent = 0
        self.warm = asyncio.Event()
        self.warm.set()
        self.closed = False

    async def add_to(self, server: Any) -> list[str]:
        for _, services, name in PROTOS:
            getattr(services, f"add_{name}Servicer_to_server")(self, server)
        return [messages.DESCRIPTOR.services_by_name[name].full_name for messages, _, name in PROTOS]

    async def warm_up(self) -> None:
        await self.warm.wait()

    async def close(self) -> None:
        self.closed = True

    async def ListModels(self, request: Any, context: Any) -> Any:
        model = model_pb2.Model(kind=current_caller().name, fingerprint=current_request_id())
        return model_pb2.ListModelsResponse(models=[model])

    async def Encode(self, request: Any, context: Any) -> Any:
        await self._do(request.model.name)
        return encoding_pb2.EncodeResponse(model=model_pb2.Model(reference=request.model))

    async def EncodeStream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        number = 0
        async for message in requests:
            await self._do(message.request.model.name)
            yield encoding_pb2.EncodeStreamResponse(number=number)
            number += 1

    async def Decode(self, request: Any, context: Any) -> AsyncIterator[Any]:
        kind, _, count = request.model.name.partition(":")
        if kind != "flood":
            await self._do(request.model.name)
        for _ in range(int(count or 1)):
            yield decoding_pb2.DecodeResponse(result=decoding_pb2.DecodeResult(caption="x" * 2**20))
            self.sent += 1

    async def UploadData(self, requests: AsyncIterator[Any], context: Any) -> Any:
        size = 0
        async for request in requests:
            size += len(request.chunk)
        return data_pb2.UploadDataResponse(data=data_pb2.StoredData(size=size))

    async def _do(self, what: str) -> None:
        kind, _, value = what.partition(":")
        self.at_work += 1
        try:
            if kind == "sleep":
                await asyncio.sleep(float(value))
            elif kind == "shape":
                raise ShapeError("has the wrong length", where="responses", remedy="Give as many as the model has")
            elif kind == "busy":
                raise BusyError("too much to do", retry_seconds=2)
            elif kind == "unavailable":
                raise UnavailableError("starting")
            elif kind == "bug":
                raise RuntimeError("secret of /home/somebody")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_work -= 1


@asynccontextmanager
async def _serving(services: Any = None, **settings: Any) -> AsyncIterator[Any]:
    services = services or Obedient()
    values = {"models": Path(), "port": 0, "grace": 0, "log_level": "error", **settings}
    server = Server(ServerSettings(**values), services)
    await server.start()
    try:
        yield SimpleNamespace(server=server, services=services, target=f"127.0.0.1:{server.port}")
    finally:
        await server.stop()


@pytest.fixture
def serving() -> Callable[..., Any]:
    """`async with serving(tokens=...) as found`: a server with obedient services; found.server, .services, .target."""
    return _serving


@pytest.fixture
def obedient() -> type[Obedient]:
    return Obedient


@pytest.fixture
def token_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of tokens: name to (token, scopes, expires or None)."""

    def write(**tokens: tuple[str, list[str], str | None]) -> Path:
        path = tmp_path / "tokens.toml"
        lines = []
        for name, (token, scopes, expires) in tokens.items():
            lines += ["[[tokens]]", f'name = "{name}"', f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"']
            lines += [f"scopes = {scopes}"] + ([f"expires = {expires}"] if expires else [])
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: ca, server, renewed, client and expired (client) of one authority; other_ca and stranger of another."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = _authority(folder, "ca"), _authority(folder, "other_ca")
    for name in ("server", "renewed", "client"):
        _issue(folder, name, authority)
    _issue(folder, "expired", authority, days=-1)
    _issue(folder, "stranger", other)
    return folder


def _authority(folder: Path, name: str) -> tuple[Any, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(name, name, key.public_key(), key, days=1, authority=True)
    _write(folder, name, certificate, key)
    return certificate, key


def _issue(folder: Path, name: str, authority: tuple[Any, Any], *, days: int = 1) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    _write(folder, name, _certificate(name, issuer, key.public_key(), authority[1], days=days), key)


def _certificate(name: str, issuer: str, key: Any, signer: Any, *, days: int, authority: bool = False) -> Any:
    def named(value: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])

    now, hosts = datetime.datetime.now(datetime.UTC), [x509.DNSName("localhost")]
    hosts.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _write(folder: Path, name: str, certificate: Any, key: Any) -> None:
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(plain)
