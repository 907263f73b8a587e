"""When there is a playground, and when there must be none."""

from __future__ import annotations

import pytest

from recordings.errors import FormatError
from service.settings import ServerSettings


def settings(**given):
    return ServerSettings.load(environment={}, models="models", **given)


def test_there_is_none_unless_it_is_asked_for():
    assert settings().playground_port is None
    assert settings(playground_port=0).playground_port == 0


@pytest.mark.parametrize("guard", ["tokens", "audit_log"])
def test_what_guards_the_server_is_not_passed_by(guard):
    with pytest.raises(FormatError, match=f"past {guard}"):
        settings(playground_port=0, **{guard: "file"})


def test_certificates_of_clients_are_not_passed_by():
    with pytest.raises(FormatError, match="past tls_client_ca"):
        settings(playground_port=0, tls_certificate="c", tls_key="k", tls_client_ca="a")
