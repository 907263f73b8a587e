"""Errors as statuses of gRPC with details, and back: the class that a client catches is the one that was raised."""

from __future__ import annotations

import asyncio
import re
from pathlib import PurePosixPath
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from recordings import errors as library
from recordings.errors import (
    ArtifactError,
    Cancelled,
    DiskFullError,
    InputError,
    MissingWeightsError,
    PenfieldError,
)
from service import errors as service
from service.errors import (
    BudgetError,
    BusyError,
    ChecksumError,
    ConflictError,
    DamagedModelError,
    DeadlineError,
    ForbiddenError,
    ModelNotFoundError,
    NotOfferedError,
    NotReadyError,
    UnauthenticatedError,
    UnavailableError,
)
from service.generated.penfield.v1 import progress_pb2

DOMAIN = "penfield"
# The nearest class of an error decides.
CODES: dict[type[BaseException], grpc.StatusCode] = {
    BaseException: grpc.StatusCode.INTERNAL,
    asyncio.CancelledError: grpc.StatusCode.CANCELLED,
    MemoryError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ArtifactError: grpc.StatusCode.FAILED_PRECONDITION,
    BudgetError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Cancelled: grpc.StatusCode.CANCELLED,
    ChecksumError: grpc.StatusCode.DATA_LOSS,
    ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    DamagedModelError: grpc.StatusCode.DATA_LOSS,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    DiskFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    MissingWeightsError: grpc.StatusCode.FAILED_PRECONDITION,
    ModelNotFoundError: grpc.StatusCode.NOT_FOUND,
    NotOfferedError: grpc.StatusCode.UNIMPLEMENTED,
    NotReadyError: grpc.StatusCode.FAILED_PRECONDITION,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
# What a status without details of ours means: it came from grpc itself, or from something between.
_FOREIGN: dict[grpc.StatusCode, type[PenfieldError]] = {
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.DATA_LOSS: ChecksumError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.FAILED_PRECONDITION: NotReadyError,
    grpc.StatusCode.INVALID_ARGUMENT: InputError,
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: BudgetError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: NotOfferedError,
}
_CLASSES = {
    name: found
    for module in (library, service)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, PenfieldError)
}
# The texts stand in a status three times, and grpc drops trailers of more than 8 KiB.
_WHAT, _WHERE, _REMEDY = 500, 160, 400
_PATH = re.compile(
    r"""(?P<quote>['"])(?:file://)?(?P<quoted>(?:~\w*|\.{1,2})?/[^'"\n]*[^'"\n/])/?(?P=quote)"""
    r"""|(?<![\w./~-])(?:file://)?(?P<bare>(?:~\w*|\.{1,2})?(?!//)(?:/[^\s/'"(),:;]+){2,})/?"""
)


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code of an error; INTERNAL of one that nobody raised on purpose."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def status_of(error: BaseException, request_id: str) -> status_pb2.Status:
    """An error as a status with details.

    There is always an ErrorInfo, with the domain "penfield", the class of the error as its reason and what, where and
    remedy as its metadata, and a RequestInfo; a BadRequest where the request is wrong, a ResourceInfo where something
    is not found, and a RetryInfo where it is known when to ask again. Of an error that was not raised on purpose
    nothing is told but the request's id, by which the log has the rest; of the server's paths only the last name.
    """
    code, told = code_of(error), _told(error, request_id)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=type(told).__name__, domain=DOMAIN, metadata=_fields(told)),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=told.where or "", description=told.what)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if code is grpc.StatusCode.NOT_FOUND:
        details.append(error_details_pb2.ResourceInfo(resource_name=told.where or "", description=told.what))
    if isinstance(told, BusyError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(1e9 * told.retry_seconds))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code.value[0], message=str(told), details=[_packed(detail) for detail in details])


async def abort(context: grpc.aio.ServicerContext, error: BaseException, request_id: str) -> None:
    """End a call with the status of an error; trailers that are already set stay."""
    status = rpc_status.to_status(status_of(error, request_id))
    trailers = (*(context.trailing_metadata() or ()), *status.trailing_metadata)
    await context.abort(status.code, status.details, trailers)


def failure_of(error: BaseException, request_id: str) -> progress_pb2.Failure:
    """An error of one item among others, told as `status_of` tells that of a whole call."""
    told = _told(error, request_id)
    return progress_pb2.Failure(code=code_of(error).value[0], message=str(told), reason=type(told).__name__)


def error_from(rpc_error: grpc.RpcError) -> PenfieldError:
    """What a server raised, as its client raises it: the same class with the same what, where and remedy.

    A status that is not Penfield's own, such as one of grpc itself, becomes the error that means its code, or a
    `PenfieldError`.
    """
    code, text = rpc_error.code(), rpc_error.details() or ""
    try:
        status = rpc_status.from_call(rpc_error)
    except (ValueError, TypeError):
        status = None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    if info.domain != DOMAIN:
        return _FOREIGN.get(code, PenfieldError)(text or code.name)
    fields = dict(info.metadata)
    what = fields.pop("what", text)
    return _made(_CLASSES.get(info.reason, PenfieldError), what, fields, retry.retry_delay.ToNanoseconds() / 1e9)


def error_of(failure: progress_pb2.Failure) -> PenfieldError:
    """The error of one item among others, as its client raises it."""
    return _made(_CLASSES.get(failure.reason, PenfieldError), failure.message, {}, 1)


def _told(error: BaseException, request_id: str) -> PenfieldError:
    """The error as strangers may read it."""
    if isinstance(error, asyncio.CancelledError):
        return Cancelled("the call was cancelled")
    if isinstance(error, MemoryError):
        return BudgetError("the server has not enough memory for this", remedy="Ask for less at once, or later")
    if not isinstance(error, PenfieldError):
        remedy = f"Tell whoever runs it the number of the request: {request_id}"
        return PenfieldError("the server failed", remedy=remedy)
    kind = next(_CLASSES[base.__name__] for base in type(error).__mro__ if base in _CLASSES.values())
    texts = {"where": error.where and _short(_place(error.where), _WHERE)}
    texts["remedy"] = error.remedy and _short(_pathless(error.remedy), _REMEDY)
    return _made(kind, _short(_pathless(error.what), _WHAT), texts, getattr(error, "retry_seconds", 1))


def _made(kind: type[PenfieldError], what: str, texts: dict[str, str | None], retry_seconds: float) -> PenfieldError:
    where, remedy = texts.get("where"), texts.get("remedy")
    if issubclass(kind, BusyError):
        return kind(what, where=where, remedy=remedy, retry_seconds=retry_seconds)
    return kind(what, where=where, remedy=remedy)


def _fields(error: PenfieldError) -> dict[str, str]:
    fields = {"what": error.what, "where": error.where, "remedy": error.remedy}
    return {name: text for name, text in fields.items() if text}


def _place(where: str) -> str:
    return PurePosixPath(where).name if where.startswith(("/", "~")) else _pathless(where)


def _pathless(text: str) -> str:
    return _PATH.sub(lambda found: PurePosixPath(found["quoted"] or found["bare"]).name, text)


def _short(text: str, most: int) -> str:
    content = text.encode()
    return text if len(content) <= most else content[: most - 3].decode(errors="ignore") + "..."


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
