"""Tokens and scopes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from recordings.errors import FormatError
from service.errors import ForbiddenError, UnauthenticatedError
from service.security.scopes import scope_of
from service.security.tokens import Tokens, check_scope, hash_token, new_token


def entry(name, token, scopes="['read']", more=""):
    return f"[[tokens]]\nname = '{name}'\nsha256 = '{hash_token(token)}'\nscopes = {scopes}\n{more}\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.toml"


def test_caller_of_a_token(path):
    token = new_token()
    path.write_text(entry("ada", token, "['read', 'predict']") + entry("bob", "b"))
    caller = Tokens(path).caller(f"Bearer {token}")
    assert (caller.name, caller.scopes) == ("ada", {"read", "predict"})
    assert token not in path.read_text()
    assert hash_token(token) == hashlib.sha256(token.encode()).hexdigest()
    assert len({new_token() for _ in range(100)}) == 100


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic b", "b", "Bearer c", "Bearer b b"])
def test_no_or_unknown_token(path, header):
    path.write_text(entry("bob", "b"))
    with pytest.raises(UnauthenticatedError, match="token"):
        Tokens(path).caller(header)


@pytest.mark.parametrize(
    ("expires", "last"),
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00+01:00", datetime(2026, 3, 1, 11, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 2, tzinfo=UTC)),
    ],
)
def test_expiry_to_the_second(path, expires, last):
    path.write_text(entry("bob", "b", more=f"expires = {expires}"))
    assert Tokens(path, now=lambda: last.timestamp() - 1).caller("Bearer b").name == "bob"
    with pytest.raises(UnauthenticatedError, match="bob has expired"):
        Tokens(path, now=lambda: last.timestamp() + 1).caller("Bearer b")


def test_file_is_read_again_when_it_changes_and_kept_when_it_is_broken(path):
    path.write_text(entry("bob", "b"))
    tokens = Tokens(path)
    assert not tokens.refresh()
    path.write_text("half a")
    with pytest.raises(FormatError, match="not a readable file of tokens"):
        tokens.refresh()
    assert tokens.caller("Bearer b").name == "bob"
    path.write_text(entry("ada", "a"))
    assert tokens.refresh()
    assert tokens.caller("Bearer a").name == "ada"
    with pytest.raises(UnauthenticatedError):
        tokens.caller("Bearer b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tokens"),
        ("tokens = []", "tokens"),
        (entry("a b", "x"), "name"),
        (entry("a", "x", "['root']"), "scopes"),
        (entry("a", "x", more="expire = 2026-03-01"), "expire"),
        ("[[tokens]]\nname = 'a'\nscopes = []\nsha256 = 'my-plain-secret'", "sha256"),
    ],
)
def test_file_that_does_not_fit(path, text, message):
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        Tokens(path)
    assert "my-plain-secret" not in str(caught.value)


def test_file_that_anybody_may_write(path):
    path.write_text(entry("a", "x"))
    path.chmod(0o666)
    with pytest.raises(FormatError, match="anybody"):
        Tokens(path)


def test_scope_of_every_method():
    from service.generated.inference import grpc_service_pb2
    from service.generated.penfield.v1 import (
        alignment_pb2,
        clustering_pb2,
        data_pb2,
        decoding_pb2,
        encoding_pb2,
        job_pb2,
        model_pb2,
    )

    files = (alignment_pb2, clustering_pb2, data_pb2, decoding_pb2, encoding_pb2, job_pb2, model_pb2, grpc_service_pb2)
    scopes = {
        f"{service.name}/{method.name}": scope_of(f"/{service.full_name}/{method.name}")
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {name for name, scope in scopes.items() if scope is None} == {
        "GRPCInferenceService/ServerLive",
        "GRPCInferenceService/ServerReady",
    }
    # "admin" is also what a method gets that was forgotten.
    assert {name for name, scope in scopes.items() if scope == "admin"} == {
        "ModelService/LoadModel",
        "ModelService/UnloadModel",
    }
    assert scopes["EncodingService/Encode"] == scopes["GRPCInferenceService/ModelInfer"] == "predict"
    assert scopes["DataService/DeleteData"] == scopes["JobService/SubmitJob"] == "data"
    assert scope_of("/penfield.v1.New/Method") == scope_of("nonsense") == "admin"


def test_scope_is_missing(path):
    path.write_text(entry("bob", "b"))
    caller = Tokens(path).caller("bearer b")
    check_scope(caller, "read", "/a/B")
    check_scope(caller, None, "/a/B")
    with pytest.raises(ForbiddenError, match="bob does not hold the scope 'admin'"):
        check_scope(caller, "admin", "/a/B")
