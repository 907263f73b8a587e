"""The caller and the number of the call that is being answered."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from ..errors import UnauthenticatedError

SCOPES = frozenset({"read", "predict", "data", "admin"})


@dataclass(frozen=True)
class Caller:
    """Somebody who calls.

    Parameters
    ----------
    name : the token's, else the common name of the client's certificate, else "local"; uploads and jobs belong to it.
    scopes : what the caller may do; of read, predict, data and admin.
    """

    name: str
    scopes: frozenset[str] = SCOPES


_caller: ContextVar[Caller | None] = ContextVar("penfield_caller", default=None)
_request_id: ContextVar[str] = ContextVar("penfield_request_id", default="")


def current_caller() -> Caller:
    """Whoever made the call that is being answered.

    Raises
    ------
    UnauthenticatedError : no call is being answered here, or one that needs no token.
    """
    caller = _caller.get()
    if caller is None:
        raise UnauthenticatedError("nobody is known to have asked for this")
    return caller


def current_request_id() -> str:
    """Number of the call that is being answered, which logs, errors and traces share; empty outside calls."""
    return _request_id.get()


def set_caller(caller: Caller) -> None:
    """Say who made the call of this task."""
    _caller.set(caller)


def set_request_id(request_id: str) -> None:
    """Say the number of the call of this task."""
    _request_id.set(request_id)
