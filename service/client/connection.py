"""`Connection`: a channel to one server, with what every call carries and the calls that may be tried again."""

from __future__ import annotations

import random
import time
from asyncio import sleep
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import grpc

from recordings.errors import InputError, PenfieldError

from ..errors import BusyError, DeadlineError, UnavailableError
from ..security.exposure import is_loopback
from ..security.pem import read_pem
from ..status import error_from

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
# Replies of a whole cortex to many stimuli exceed grpc's own 4 MiB; a server has its own limit on what it sends.
MAX_REPLY = 2**31 - 1
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPLY),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Two clients of one process should not share a connection, nor the end of it.
    ("grpc.use_local_subchannel_pool", 1),
)

File = str | PathLike[str]


class Connection:
    """A channel that opens at the first call, in the event loop of that call.

    Parameters
    ----------
    target : HOST:PORT or unix:PATH; https:// before it asks for TLS and http:// for none. Without these, a server on
        this machine is spoken to in plain, unless `ca` or `certificate` are given, and any other over TLS.
    token : bearer token. It is never sent in plain to another machine.
    ca : certificates of the authorities that the server's is checked against, PEM; the system's by default.
    certificate, key : of this client, PEM, for servers that ask for one.
    timeout : seconds for a call without streams, all tries together. stream_timeout : for one with streams.
    retries : how often a call that may be repeated is tried again.

    Raises
    ------
    InputError : a token in plain to another machine; certificate without key. FormatError : a file cannot be read.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        ca: File | None = None,
        certificate: File | None = None,
        key: File | None = None,
        timeout: float = 30,
        stream_timeout: float = 3600,
        retries: int = 4,
    ):
        self.timeout, self.stream_timeout, self.retries = timeout, stream_timeout, retries
        scheme, separator, rest = target.partition("://")
        self.target = rest.rstrip("/") if separator else target
        if (separator and scheme not in ("http", "https")) or not self.target:
            raise InputError(f"no address {target!r}", where="target", remedy="Give HOST:PORT")
        self._credentials = None
        if _is_secure(scheme if separator else "", self.target, ca, certificate):
            self._credentials = _credentials(ca, certificate, key)
        elif token and not _is_local(self.target):
            raise InputError(
                "a token would be sent in plain", where=self.target, remedy="Leave out http://, or the token"
            )
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel: Any = None
        self._stubs: dict[Any, Any] = {}

    def stub(self, kind: Callable[[Any], Any]) -> Any:
        """The methods of a service, by its generated class."""
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.target, options=OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(self.target, self._credentials, options=OPTIONS)
        if kind not in self._stubs:
            self._stubs[kind] = kind(self._channel)
        return self._stubs[kind]

    async def call(self, method: Any, request: Any, *, repeatable: bool = True, timeout: float | None = None) -> Any:
        """The answer of a method without streams; where it fails, the error that the server raised.

        Parameters
        ----------
        repeatable : whether it does no harm to carry it out twice.
        """
        tries = self.tries(self.timeout if timeout is None else timeout, repeatable=repeatable)
        while True:
            try:
                return await method(request, timeout=tries.left(), metadata=self.metadata)
            except grpc.aio.AioRpcError as failed:
                await tries.wait(error_from(failed))

    def tries(self, timeout: float | None, *, repeatable: bool = True) -> Tries:
        """The tries of one call, which end after `timeout` seconds."""
        return Tries(self.retries, timeout, repeatable=repeatable)

    async def close(self) -> None:
        """End the connection and all calls."""
        if self._channel is not None:
            await self._channel.close()


class Tries:
    """How often, when and until when one call is tried; waits are drawn between 0 and twice the one before.

    Parameters
    ----------
    most : tries after the first, in a row. timeout : seconds for all together; None for no end.
    repeatable : whether a call may be sent again that the server may have carried out.
    """

    def __init__(self, most: int, timeout: float | None, *, repeatable: bool = True):
        self.most, self.repeatable, self.failed = most, repeatable, 0
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self, most: float | None = None) -> float | None:
        """Seconds that are left, at most `most`; `DeadlineError` if there are none."""
        if self._end is None:
            return most
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"no answer within {self.timeout:.3g} s", remedy="Ask for less at once, or wait longer")
        return left if most is None else min(left, most)

    def progressed(self) -> None:
        """Count from the beginning again."""
        self.failed = 0

    async def wait(self, error: PenfieldError) -> None:
        """Wait until it is worth trying again; raise the error if it never is, or not in the time that is left."""
        busy = isinstance(error, BusyError)
        if not (busy or (self.repeatable and isinstance(error, UnavailableError))) or self.failed >= self.most:
            raise error
        delay = random.uniform(0, min(FIRST_DELAY * 2**self.failed, LONGEST_DELAY))
        if isinstance(error, BusyError):
            delay += error.retry_seconds
        if self._end is not None and time.monotonic() + delay >= self._end:
            raise error
        self.failed += 1
        await sleep(delay)


def _is_secure(scheme: str, target: str, ca: File | None, certificate: File | None) -> bool:
    if scheme:
        return scheme == "https"
    return ca is not None or certificate is not None or not _is_local(target)


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = target.rsplit(":", 1)[0] if target.count(":") == 1 or "]:" in target else target
    return is_loopback(host)


def _credentials(ca: File | None, certificate: File | None, key: File | None) -> Any:
    if (certificate is None) != (key is None):
        raise InputError("certificate and key go together", where="certificate", remedy="Give both or neither")
    roots, chain, private = (None if path is None else read_pem(Path(path)) for path in (ca, certificate, key))
    return grpc.ssl_channel_credentials(roots, private, chain)


def enum_name(names: Any, value: int, prefix: str) -> str:
    """The lower-case name of an enum's value without its prefix; the number of one that is newer than this client."""
    known: Mapping[int, str] = {number: name for name, number in names.items()}
    return known.get(value, str(value)).removeprefix(prefix).lower()
