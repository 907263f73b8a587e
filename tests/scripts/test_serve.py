from __future__ import annotations

import tomllib

import pytest

from service.errors import UnauthenticatedError
from service.security.tokens import Tokens


def test_token_is_shown_once_and_its_hash_is_added_to_the_file(penfield, tmp_path):
    path = tmp_path / "tokens.toml"
    first = penfield("token", "ann", "--scope", "read", "--scope", "predict", "--tokens", path, "--json").json
    second = penfield("token", "bob", "--scope", "data", "--expires", "2999-12-31", "--tokens", path, "--json").json
    assert first["token"] not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    tokens = Tokens(path)
    ann, bob = (tokens.caller(f"Bearer {made['token']}") for made in (first, second))
    assert (ann.name, ann.scopes, bob.name, bob.scopes) == ("ann", {"read", "predict"}, "bob", {"data"})
    assert tomllib.loads(second["entry"])["tokens"][0]["name"] == "bob"


def test_token_that_has_expired_is_of_no_use(penfield, tmp_path):
    path = tmp_path / "tokens.toml"
    made = penfield("token", "ann", "--scope", "read", "--expires", "2001-01-01", "--tokens", path, "--json").json
    with pytest.raises(UnauthenticatedError):
        Tokens(path).caller(f"Bearer {made['token']}")


def test_wrong_tokens_are_refused_and_nothing_is_written(refused, tmp_path):
    path = tmp_path / "tokens.toml"
    assert "name" in refused("token", "a b", "--scope", "read", "--tokens", path)
    assert "expires" in refused("token", "ann", "--scope", "read", "--expires", "soon", "--tokens", path)
    assert "--scope" in refused("token", "ann", "--tokens", path)
    assert not path.exists()
    path.write_text("not a token")
    assert "tokens.toml" in refused("token", "ann", "--scope", "read", "--tokens", path)
    assert path.read_text() == "not a token"


def test_settings_that_cannot_be_are_refused_before_anything_starts(refused, tmp_path):
    assert "models" in refused("serve")
    config = tmp_path / "serve.toml"
    config.write_text('models = "models"\nprot = 1\n')
    assert "prot" in refused("serve", "--config", config)
    told = refused("serve", "--models", tmp_path, "--host", "0.0.0.0")
    assert "tls_certificate" in told and "tokens" in told
    assert "on" in refused("serve", "--models", tmp_path, "--replicas", 2)
    assert "tls_key" in refused("serve", "--models", tmp_path, "--tls-cert", tmp_path / "c.pem")


def test_every_option_reaches_the_settings(penfield, tmp_path, monkeypatch):
    found = {}

    async def keep(settings, run):
        found["settings"] = settings

    monkeypatch.setattr("scripts.serve._serve", keep)
    (tmp_path / "serve.toml").write_text("queue_size = 5\nbatch_size = 7\n")
    options = ["--models", tmp_path, "--data", tmp_path / "d", "--config", tmp_path / "serve.toml", "--port", 1]
    options += [
        "--on",
        "ray",
        "--replicas",
        3,
        "--tls-cert",
        "c",
        "--tls-key",
        "k",
        "--client-ca",
        "a",
        "--tokens",
        "t",
    ]
    options += ["--audit-log", "l", "--batch-size", 9, "--batch-wait", 1, "--load", "m@2"]
    options += ["--metrics-port", 2, "--log-format", "json", "--traces", "http://127.0.0.1:4317", "--device", "cpu"]
    assert penfield("serve", *options).exit_code == 0
    settings = found["settings"]
    assert (settings.models, settings.data, settings.port) == (tmp_path, tmp_path / "d", 1)
    assert (settings.on, settings.replicas, settings.device, settings.warm_up) == ("ray", 3, "cpu", ("m@2",))
    names = ("tls_certificate", "tls_key", "tls_client_ca", "tokens", "audit_log")
    assert [str(getattr(settings, name)) for name in names] == ["c", "k", "a", "t", "l"]
    assert (settings.batch_wait_ms, settings.metrics_port) == (1, 2)
    # What stands in the file gives way to the command line, and holds where that says nothing.
    assert (settings.batch_size, settings.queue_size) == (9, 5)
    assert (settings.log_format, settings.traces) == ("json", "http://127.0.0.1:4317")
    assert penfield("serve", "--models", tmp_path, "--memory-budget", 2.5, "--playground", 0).exit_code == 0
    assert (found["settings"].memory_budget_gb, found["settings"].playground_port) == (2.5, 0)
