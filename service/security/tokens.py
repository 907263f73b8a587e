"""Bearer tokens: a file of their hashes, so that whoever reads the file cannot call."""

from __future__ import annotations

import hashlib
import secrets
import time
import tomllib
from collections.abc import Callable
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recordings.errors import FormatError

from ..errors import ForbiddenError, UnauthenticatedError
from .callers import Caller
from .files import stamp


class Token(BaseModel):
    """A token as the file holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Whose it is: uploads and jobs belong to this name, log and audit lines show it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the token, in hexadecimal digits."""
    scopes: frozenset[Literal["read", "predict", "data", "admin"]]
    """What it allows."""
    expires: datetime | None = None
    """When it ceases to hold, in UTC if no zone is given; a day ends when it ends."""

    @field_validator("expires", mode="before")
    @classmethod
    def _day_ends(cls, value: object) -> object:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime.combine(value, clock.max, UTC)
        return value

    @field_validator("expires")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class TokenFile(BaseModel):
    """``[[tokens]]`` tables with name, sha256, scopes and, if they end, expires."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[Token, ...] = Field(min_length=1)


class Tokens:
    """The tokens of a file, which may change while the server runs.

    Parameters
    ----------
    path : TOML file.
    now : the clock, seconds since 1970.

    Raises
    ------
    FormatError : the file cannot be read, holds other keys, or anybody may write to it.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time):
        self.path = path
        self._now = now
        self._stamp = stamp(path)
        self._tokens = _read(path)

    def refresh(self) -> bool:
        """Read the file again if it has changed; whether it had. An unreadable one leaves the old tokens in force."""
        found = stamp(self.path)
        if found == self._stamp:
            return False
        self._tokens = _read(self.path)
        self._stamp = found
        return True

    def caller(self, authorization: str | None) -> Caller:
        """Who calls, by the metadata ``authorization: Bearer TOKEN``.

        Raises
        ------
        UnauthenticatedError : no token, an unknown one, or one that has expired.
        """
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise UnauthenticatedError(
                "no token", where="authorization", remedy="Send the metadata 'authorization: Bearer TOKEN'"
            )
        found = hash_token(secret.strip())
        # All are compared, each in constant time, so that the time of an answer tells nothing.
        match = [token for token in self._tokens if secrets.compare_digest(token.sha256, found)]
        if not match:
            raise UnauthenticatedError(
                "the token is not known", where="authorization", remedy="Ask whoever runs the server for one"
            )
        token = match[0]
        if token.expires is not None and token.expires.timestamp() <= self._now():
            raise UnauthenticatedError(
                f"the token of {token.name} has expired", where="authorization", remedy="Ask for a new one"
            )
        return Caller(token.name, frozenset(token.scopes))


def check_scope(caller: Caller, scope: str | None, method: str) -> None:
    """See that a caller may call a method.

    Raises
    ------
    ForbiddenError : the scope is not among the caller's.
    """
    if scope is not None and scope not in caller.scopes:
        raise ForbiddenError(
            f"the token of {caller.name} does not hold the scope {scope!r}",
            where=method.strip("/"),
            remedy=f"Ask whoever runs the server for a token with {scope!r}",
        )


def new_token() -> str:
    """A token of 256 random bits, to be given to a client; the file takes its `hash_token`."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """SHA-256 of a token in hexadecimal digits. Tokens are random and long, so that salt and stretching add nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    try:
        if path.stat().st_mode & 0o002:
            raise FormatError(
                "anybody on this machine may write to the file of tokens", where=path, remedy="chmod o-w it"
            )
        return TokenFile.model_validate(tomllib.loads(path.read_text())).tokens
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"not a readable file of tokens ({error})", where=path) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise FormatError(
            f"{place}: {first['msg']}", where=path, remedy="Each [[tokens]] has name, sha256, scopes and expires"
        ) from None
