"""Tokens, certificates and the audit log, over real connections."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recordings.errors import FormatError
from service.generated.penfield.v1 import encoding_pb2, encoding_pb2_grpc, model_pb2, model_pb2_grpc
from service.security.transport import server_credentials

LIST = model_pb2.ListModelsRequest()


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


async def code(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def test_tokens_scopes_and_what_is_open(serving, token_file, tmp_path):
    tokens = token_file(
        ada=("a" * 40, ["read", "predict"], None),
        bob=("b" * 40, ["read"], None),
        old=("c" * 40, ["read", "predict"], "2020-01-01T00:00:00Z"),
    )
    audit = tmp_path / "audit.jsonl"

    async def main():
        async with (
            serving(tokens=tokens, audit_log=audit) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            models, encoding = model_pb2_grpc.ModelServiceStub(channel), encoding_pb2_grpc.EncodingServiceStub(channel)
            secret = encoding_pb2.EncodeRequest(model=model_pb2.ModelReference(name="private-name"))
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            codes = {
                "none": await code(models.ListModels(LIST)),
                "unknown": await code(models.ListModels(LIST, metadata=bearer("d" * 40))),
                "expired": await code(models.ListModels(LIST, metadata=bearer("c" * 40))),
                "read": await code(models.ListModels(LIST, metadata=bearer("b" * 40))),
                "predict without": await code(encoding.Encode(secret, metadata=bearer("b" * 40))),
                "predict": await code(encoding.Encode(secret, metadata=bearer("a" * 40))),
                "admin": await code(models.LoadModel(model_pb2.LoadModelRequest(), metadata=bearer("a" * 40))),
                "health": await code(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())),
                "reflection": await code(reflection(iter([asked])).read()),
                "streams": await code(encoding.EncodeStream(iter([])).read()),
            }
            answer = await models.ListModels(LIST, metadata=bearer("b" * 40))
            return codes, answer.models[0].kind

    codes, caller = asyncio.run(main())
    assert codes == {
        "none": "UNAUTHENTICATED",
        "unknown": "UNAUTHENTICATED",
        "expired": "UNAUTHENTICATED",
        "read": "OK",
        "predict without": "PERMISSION_DENIED",
        "predict": "OK",
        "admin": "PERMISSION_DENIED",
        "health": "OK",
        "reflection": "UNAUTHENTICATED",
        "streams": "UNAUTHENTICATED",
    }
    assert caller == "bob"
    text = audit.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["caller"], line["code"]) for line in lines if line["method"].endswith("/Encode")] == [
        ("bob", "PERMISSION_DENIED"),
        ("ada", "OK"),
    ]
    assert sum(line["code"] == "UNAUTHENTICATED" for line in lines) == 5
    assert all(line["request_id"] and line["time"] and line["peer"] == "127.0.0.1" for line in lines)
    # Neither what was sent, nor a token.
    assert "private-name" not in text
    assert all(letter * 8 not in text for letter in "abcd")


def test_refused_before_the_request_is_read(serving, token_file):
    async def main():
        async with (
            serving(tokens=token_file(ada=("a", ["predict"], None))) as found,
            grpc.aio.insecure_channel(found.target) as channel,
        ):
            # The client never sends its message, and is refused all the same.
            call = channel.stream_unary("/penfield.v1.EncodingService/Encode")()
            return await asyncio.wait_for(code(call), timeout=5)

    assert asyncio.run(main()) == "UNAUTHENTICATED"


def test_new_tokens_hold_without_a_restart(serving, token_file, monkeypatch):
    monkeypatch.setattr("service.server.REFRESH_SECONDS", 0.02)
    path = token_file(ada=("a", ["read"], None))

    async def main():
        async with serving(tokens=path) as found, grpc.aio.insecure_channel(found.target) as channel:
            ask = model_pb2_grpc.ModelServiceStub(channel).ListModels
            assert await code(ask(LIST, metadata=bearer("a"))) == "OK"
            path.write_text("broken")
            await asyncio.sleep(0.1)
            assert await code(ask(LIST, metadata=bearer("a"))) == "OK"
            token_file(bob=("b", ["read"], None))
            for _ in range(200):
                if await code(ask(LIST, metadata=bearer("b"))) == "OK":
                    break
                await asyncio.sleep(0.02)
            return await code(ask(LIST, metadata=bearer("a"))), await code(ask(LIST, metadata=bearer("b")))

    assert asyncio.run(main()) == ("UNAUTHENTICATED", "OK")


def tls(folder, *, ca="ca", client=None):
    pair = [(folder / f"{client}.{end}").read_bytes() for end in ("key", "pem")] if client else [None, None]
    return grpc.ssl_channel_credentials((folder / f"{ca}.pem").read_bytes(), *pair)


async def over_tls(found, credentials):
    async with grpc.aio.secure_channel(found.target, credentials) as channel:
        call = model_pb2_grpc.ModelServiceStub(channel).ListModels(LIST, timeout=5)
        try:
            return (await call).models[0].kind
        except grpc.aio.AioRpcError as error:
            return error.code().name


def test_tls(serving, certificates):
    async def main():
        pair = {"tls_certificate": certificates / "server.pem", "tls_key": certificates / "server.key"}
        async with serving(**pair) as found:
            async with grpc.aio.insecure_channel(found.target) as plain:
                plaintext = await code(model_pb2_grpc.ModelServiceStub(plain).ListModels(LIST, timeout=5))
            seen = [await over_tls(found, tls(certificates, ca=ca)) for ca in ("ca", "other_ca")]
            return [*seen, plaintext]

    assert asyncio.run(main()) == ["local", "UNAVAILABLE", "UNAVAILABLE"]


def test_mutual_tls(serving, certificates):
    async def main():
        async with serving(
            tls_certificate=certificates / "server.pem",
            tls_key=certificates / "server.key",
            tls_client_ca=certificates / "ca.pem",
        ) as found:
            return {who: await over_tls(found, tls(certificates, client=who)) for who in
                    ("client", None, "expired", "stranger")}  # fmt: skip

    assert asyncio.run(main()) == {
        "client": "client",
        None: "UNAVAILABLE",
        "expired": "UNAVAILABLE",
        "stranger": "UNAVAILABLE",
    }


def test_expired_server_is_refused_by_its_clients(serving, certificates):
    async def main():
        pair = {"tls_certificate": certificates / "expired.pem", "tls_key": certificates / "expired.key"}
        async with serving(**pair) as found:
            return await over_tls(found, tls(certificates))

    assert asyncio.run(main()) == "UNAVAILABLE"


def test_new_certificate_holds_without_a_restart(serving, certificates, tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"

    def put(name, ends=("pem", "key")):
        for end, target in zip(("pem", "key"), (certificate, key), strict=True):
            if end in ends:
                shutil.copy(certificates / f"{name}.{end}", target)

    async def served_name(found):
        _, writer = await asyncio.open_connection(*found.target.split(":"), ssl=trusting)
        names = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
        writer.close()
        return names["commonName"]

    trusting = ssl.create_default_context(cafile=certificates / "ca.pem")
    trusting.set_alpn_protocols(["h2"])
    put("server")

    async def main():
        async with serving(tls_certificate=certificate, tls_key=key) as found:
            names = [await served_name(found)]
            put("renewed", ends=("pem",))
            names.append(await served_name(found))
            put("renewed")
            names.append(await served_name(found))
            return names, await over_tls(found, tls(certificates))

    # Half a pair leaves the old one in place.
    assert asyncio.run(main()) == (["server", "server", "renewed"], "local")


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "message"),
    [
        ("server.pem", "client.key", None, "not a pair"),
        ("absent.pem", "server.key", None, "cannot be read"),
        ("text", "server.key", None, "not a PEM file"),
        ("server.pem", "server.key", "garbled.pem", "not certificates of an authority"),
    ],
)
def test_certificates_that_cannot_be_used(certificates, certificate, key, client_ca, message):
    (certificates / "text").write_text("hello")
    (certificates / "garbled.pem").write_text("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")
    with pytest.raises(FormatError, match=message):
        server_credentials(certificates / certificate, certificates / key, client_ca and certificates / client_ca)


@pytest.mark.parametrize("secure", [False, True])
def test_connection_that_says_nothing_is_closed(serving, certificates, secure):
    pair = {"tls_certificate": certificates / "server.pem", "tls_key": certificates / "server.key"} if secure else {}

    async def main():
        async with serving(handshake_timeout=0.2, **pair) as found:
            reader, writer = await asyncio.open_connection(*found.target.split(":"))
            left = await asyncio.wait_for(reader.read(), timeout=5)
            writer.close()
            return left

    # At most the server's own greeting, then the end.
    assert len(asyncio.run(main())) < 200
