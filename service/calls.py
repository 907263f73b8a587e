"""What every call passes: its number, its caller, its share, its deadline, and the one place where errors become codes.

A call is handled as a stream whatever the method takes, and the handler that grpc found is run inside. So a caller is
known before a byte of the request is read, and a request that never arrives whole meets the call's deadline; grpc's own
handler of single requests would read first, and wait without end.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from recordings.errors import InputError

from .errors import BudgetError, DeadlineError, NotOfferedError
from .observability.metrics import Metrics
from .observability.tracing import Span, no_span
from .security.callers import Caller, set_caller, set_request_id
from .security.limits import Shares
from .security.scopes import OPEN, scope_of
from .security.tokens import Tokens, check_scope
from .status import abort, code_of

log = logging.getLogger("penfield.calls")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Deadlines:
    """How long calls may take, in seconds.

    Parameters
    ----------
    default : of a call without streams whose client sets none.
    longest : most for a call without streams.
    stream : most for a call with streams, and the default.
    """

    default: float = 30
    longest: float = 300
    stream: float = 3600

    def seconds(self, asked: float | None, *, streams: bool) -> float:
        """How long one call may take, whose client asks for `asked` seconds."""
        if streams:
            return self.stream if asked is None else min(asked, self.stream)
        return self.default if asked is None else min(asked, self.longest)


@dataclass
class _Call:
    method: str
    request_id: str
    metadata: Mapping[str, str]
    peer: str
    started: float
    caller: str = ""

    @property
    def open(self) -> bool:
        return self.method in OPEN


class Gate(grpc.aio.ServerInterceptor):
    """Lets calls in, and tells how they went.

    Parameters
    ----------
    shares : what each client may use.
    tokens : who may call; None lets everybody call everything.
    deadlines : how long calls may take.
    metrics : where calls are counted.
    audit : notes a call that has ended.
    span : opens the span of a call.
    """

    def __init__(
        self,
        shares: Shares,
        *,
        tokens: Tokens | None = None,
        deadlines: Deadlines | None = None,
        metrics: Metrics | None = None,
        audit: Callable[[dict[str, object]], None] = lambda fields: None,
        span: Span = no_span,
    ):
        self.shares = shares
        self.tokens = tokens
        self.deadlines = deadlines or Deadlines()
        self.metrics = metrics or Metrics()
        self.audit = audit
        self.span = span

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler that answers a call, None if the method is not known."""
        handler = await continuation(details)
        if handler is None:
            return None
        return grpc.stream_stream_rpc_method_handler(
            partial(self._answer, handler, details.method, dict(details.invocation_metadata or ())),
            request_deserializer=partial(_parsed, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    async def _answer(
        self, handler: Any, method: str, metadata: dict[str, Any], requests: AsyncIterator[Any], context: Any
    ) -> None:
        call = _Call(method, _request_id(metadata), metadata, _address(context.peer()), time.perf_counter())
        set_request_id(call.request_id)
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        code = grpc.StatusCode.UNKNOWN
        failure: Exception | None = None
        # The share is given back when the status is on its way: a client that does not read keeps nothing but its own.
        with ExitStack() as held:
            held.enter_context(self.metrics.in_flight.labels(method.strip("/")).track_inprogress())
            try:
                with self.span(method, metadata):
                    self._admit(call, context, held)
                    await self._run(handler, call, requests, context)
                code = grpc.StatusCode.OK
            except asyncio.CancelledError:
                remaining = context.time_remaining()
                late = remaining is not None and remaining <= 0
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = _status_code(context.code())
                raise
            except Exception as error:
                failure = _not_offered(call) if _is_of_stub(error, context) else error
                code = code_of(failure)
                _log_failure(failure, code)
            finally:
                self._note(call, code)
            if failure is not None:
                await abort(context, failure, call.request_id)

    def _admit(self, call: _Call, context: Any, held: ExitStack) -> None:
        client = call.peer
        if not call.open:
            caller = self._caller(call.metadata, context)
            call.caller = caller.name
            set_caller(caller)
            check_scope(caller, scope_of(call.method), call.method)
            client = call.peer if self.tokens is None else caller.name
        held.enter_context(self.shares.taken(client, counted=not call.open))

    async def _run(self, handler: Any, call: _Call, requests: AsyncIterator[Any], context: Any) -> None:
        # Probes that watch the server's health stay as long as they like.
        if call.open and handler.response_streaming:
            await _run(handler, requests, context)
            return
        streams = handler.request_streaming or handler.response_streaming
        seconds = self.deadlines.seconds(context.time_remaining(), streams=streams)
        try:
            async with asyncio.timeout(seconds) as limit:
                await _run(handler, requests, context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"no answer within {seconds:.3g} s", remedy="Ask for less at once, or submit a job"
            ) from error

    def _caller(self, metadata: Mapping[str, str], context: Any) -> Caller:
        if self.tokens is not None:
            return self.tokens.caller(metadata.get("authorization"))
        peer = context.auth_context()
        names = peer.get("x509_common_name") or peer.get("x509_subject_alternative_name") or [b"local"]
        return Caller(names[0].decode(errors="replace"))

    def _note(self, call: _Call, code: grpc.StatusCode) -> None:
        method, seconds = call.method.strip("/"), time.perf_counter() - call.started
        self.metrics.requests.labels(method, code.name).inc()
        self.metrics.durations.labels(method).observe(seconds)
        if code is grpc.StatusCode.CANCELLED:
            self.metrics.cancelled.labels(method).inc()
        fields: dict[str, object] = {
            "method": method, "code": code.name, "seconds": round(seconds, 6), "caller": call.caller, "peer": call.peer,
        }  # fmt: skip
        if not call.open:
            self.audit(fields)
            log.info("call", extra={"fields": fields})


async def _run(handler: Any, requests: AsyncIterator[Any], context: Any) -> None:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    answer = behaviour(requests if handler.request_streaming else await _only(requests), context)
    if inspect.isawaitable(answer):
        response = await answer
        if not handler.response_streaming:
            await context.write(response)
        return
    async with aclosing(answer):
        async for response in answer:
            await context.write(response)


async def _only(requests: AsyncIterator[Any]) -> Any:
    async for request in requests:
        return request
    # grpc ends a request that is too large in the same way, and has then told the client so itself.
    raise BudgetError("no request came, or one that is larger than the server takes", remedy="Send less at once")


def _parsed(parse: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return parse(content)
    except DecodeError as error:
        raise InputError(
            "not a message of this method", remedy="Compare the client's protocol with the server's"
        ) from error


def _is_of_stub(error: Exception, context: Any) -> bool:
    # What the generated classes do where a service leaves a method out.
    return isinstance(error, NotImplementedError) and _status_code(context.code()) is grpc.StatusCode.UNIMPLEMENTED


def _not_offered(call: _Call) -> NotOfferedError:
    return NotOfferedError("this server does not answer it", where=call.method.strip("/"))


def _log_failure(error: Exception, code: grpc.StatusCode) -> None:
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        log.error("failed", exc_info=error)
    else:
        log.warning("refused: %s", error, extra={"fields": {"code": code.name}})


def _request_id(metadata: Mapping[str, Any]) -> str:
    asked = metadata.get("x-request-id", "")
    return asked if isinstance(asked, str) and _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex


def _address(peer: str) -> str:
    """The address of "ipv4:127.0.0.1:4711" or "ipv6:%5B::1%5D:4711", without the port, which differs each time."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else rest


def _status_code(code: Any) -> grpc.StatusCode:
    if isinstance(code, grpc.StatusCode):
        return code
    return next((found for found in grpc.StatusCode if found.value[0] == code), grpc.StatusCode.UNKNOWN)
