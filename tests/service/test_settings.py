"""Settings of a server: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recordings.errors import FormatError
from service.settings import ServerSettings

PUBLIC = {"tls_certificate": Path("c.pem"), "tls_key": Path("k.pem"), "tokens": Path("t.toml")}


def test_file_then_environment_then_caller(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text('models = "models"\nport = 1\nqueue_size = 3\nbatch_size = 4\nwarm_up = ["a"]\n')
    environment = {"PENFIELD_SERVE_QUEUE_SIZE": "5", "PENFIELD_SERVE_WARM_UP": "a,b@2", "PENFIELD_DATA": "elsewhere"}
    found = ServerSettings.load(path, environment=environment, batch_size=6, device=None)
    assert (found.port, found.queue_size, found.batch_size, found.device) == (1, 5, 6, "auto")
    assert found.warm_up == ("a", "b@2")
    assert found.models == tmp_path / "models"
    assert found.data is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("prot = 1", "prot: Extra inputs"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ("batch_size = 0", "batch_size"),
        ("deadline = inf", "deadline"),
        ("deadline = 400", "longer than max_deadline"),
        ('tls_key = "k"', "go together"),
        ("replicas = 2", "on = 'ray'"),
        ('on = "ray"\nreplicas = 2\nmax_replicas = 1', "smaller than replicas"),
        ('on = "ray"\nmemory_budget_gb = 1', "run on Ray"),
        ('tls_client_ca = "k"', "needs tls_certificate"),
        ("port = ", "not a readable TOML file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, line, message):
    path = tmp_path / "server.toml"
    path.write_text(f'models = "m"\n{line}\n')
    with pytest.raises(FormatError, match=message) as caught:
        ServerSettings.load(path, environment={})
    assert str(path) in str(caught.value)


def test_environment_is_named_in_the_error():
    with pytest.raises(FormatError, match="PENFIELD_SERVE_PORT"):
        ServerSettings.load(environment={"PENFIELD_SERVE_PORT": "x"}, models="m")
    with pytest.raises(FormatError, match="PENFIELD_SERVE_PROT"):
        ServerSettings.load(environment={"PENFIELD_SERVE_PROT": "1"}, models="m")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "10.0.0.1", "no-such-host.invalid"])
@pytest.mark.parametrize("missing", [["tokens"], ["tls_certificate", "tls_key"], list(PUBLIC)])
def test_public_address_needs_tls_and_tokens(host, missing):
    given = {k: v for k, v in PUBLIC.items() if k not in missing}
    with pytest.raises(FormatError, match=", ".join(missing)):
        ServerSettings.load(environment={}, models="m", host=host, **given)
    assert ServerSettings.load(environment={}, models="m", host=host, **PUBLIC).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_loopback_needs_neither(host):
    assert ServerSettings.load(environment={}, models="m", host=host).tokens is None


def test_every_setting_says_what_it_is():
    assert all(field.description for field in ServerSettings.model_fields.values())
