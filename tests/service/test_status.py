"""Errors as statuses: over a real channel the client catches what the server raised, and learns no more than it may."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from recordings import errors as library
from recordings.errors import (
    ArtifactError,
    Cancelled,
    CorruptImageError,
    DiskFullError,
    ImageTooLargeError,
    InputError,
    MissingWeightsError,
    NotFiniteError,
    PenfieldError,
    ShapeError,
    UnknownNameError,
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
    WrongUnitsError,
)
from service.generated.penfield.v1 import model_pb2, model_pb2_grpc
from service.status import abort, code_of, error_from, error_of, failure_of, status_of

CLASSES = [
    found
    for module in (library, service)
    for found in vars(module).values()
    if isinstance(found, type) and issubclass(found, PenfieldError)
]


class Failing(model_pb2_grpc.ModelServiceServicer):
    def __init__(self, error: BaseException):
        self.error = error

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: grpc.aio.ServicerContext) -> None:
        context.set_trailing_metadata((("x-request-id", "r-1"),))
        await abort(context, self.error, "r-1")


def over_the_wire(error: BaseException) -> grpc.aio.AioRpcError:
    async def call() -> grpc.aio.AioRpcError:
        server = grpc.aio.server()
        model_pb2_grpc.add_ModelServiceServicer_to_server(Failing(error), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=20)
        except grpc.aio.AioRpcError as rpc_error:
            return rpc_error
        finally:
            await server.stop(0)
        raise AssertionError("the call succeeded")

    return asyncio.run(call())


def made(kind: type[PenfieldError]) -> PenfieldError:
    texts = {"where": "responses", "remedy": "Mend the thing"}
    if issubclass(kind, BusyError):
        return kind("is wrong", retry_seconds=1.5, **texts)
    return kind("is wrong", **texts)


def details(error: BaseException, kind: type) -> list[object]:
    found = []
    for detail in status_of(error, "r-1").details:
        if detail.Is(kind.DESCRIPTOR):
            found.append(kind())
            detail.Unpack(found[-1])
    return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError, "INVALID_ARGUMENT"),
        (ShapeError, "INVALID_ARGUMENT"),
        (NotFiniteError, "INVALID_ARGUMENT"),
        (CorruptImageError, "INVALID_ARGUMENT"),
        (ImageTooLargeError, "INVALID_ARGUMENT"),
        (UnknownNameError, "INVALID_ARGUMENT"),
        (ModelNotFoundError, "NOT_FOUND"),
        (ArtifactError, "FAILED_PRECONDITION"),
        (WrongUnitsError, "FAILED_PRECONDITION"),
        (MissingWeightsError, "FAILED_PRECONDITION"),
        (NotReadyError, "FAILED_PRECONDITION"),
        (DamagedModelError, "DATA_LOSS"),
        (ChecksumError, "DATA_LOSS"),
        (ConflictError, "ALREADY_EXISTS"),
        (BusyError, "RESOURCE_EXHAUSTED"),
        (BudgetError, "RESOURCE_EXHAUSTED"),
        (DiskFullError, "RESOURCE_EXHAUSTED"),
        (UnavailableError, "UNAVAILABLE"),
        (DeadlineError, "DEADLINE_EXCEEDED"),
        (UnauthenticatedError, "UNAUTHENTICATED"),
        (ForbiddenError, "PERMISSION_DENIED"),
        (NotOfferedError, "UNIMPLEMENTED"),
        (Cancelled, "CANCELLED"),
        (PenfieldError, "INTERNAL"),
    ],
)
def test_every_error_has_its_code(error: type[PenfieldError], code: str) -> None:
    assert code_of(made(error)).name == code


def test_errors_of_python_have_codes_too() -> None:
    assert code_of(asyncio.CancelledError()) is grpc.StatusCode.CANCELLED
    assert code_of(MemoryError()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code_of(KeyError("x")) is grpc.StatusCode.INTERNAL
    assert code_of(ValueError("x")) is grpc.StatusCode.INTERNAL


def test_no_error_is_internal_by_oversight() -> None:
    assert {kind for kind in CLASSES if code_of(made(kind)) is grpc.StatusCode.INTERNAL} == {PenfieldError}


def test_client_catches_what_the_server_raised() -> None:
    for kind in (ShapeError, BusyError, DiskFullError, DamagedModelError):
        sent = made(kind)
        rpc_error = over_the_wire(sent)
        got = error_from(rpc_error)
        assert type(got) is kind
        assert (got.what, got.where, got.remedy, str(got)) == (sent.what, sent.where, sent.remedy, str(sent))
        assert rpc_error.details() == str(sent)
        assert dict(rpc_error.trailing_metadata())["x-request-id"] == "r-1"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_survives_the_failure_of_one_item(kind: type[PenfieldError]) -> None:
    failure = failure_of(made(kind), "r-1")
    assert failure.code == code_of(made(kind)).value[0]
    assert type(error_of(failure)) is kind
    assert str(made(kind)) in str(error_of(failure))


def test_time_of_asking_again_arrives() -> None:
    got = error_from(over_the_wire(BusyError("queue is full", retry_seconds=2.25)))
    assert isinstance(got, BusyError)
    assert got.retry_seconds == 2.25
    assert not details(ShapeError("x"), error_details_pb2.RetryInfo)


def test_details_say_which_field_and_which_resource() -> None:
    (bad,) = details(ShapeError("has 3 axes", where="responses"), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("responses", "has 3 axes")]
    (missing,) = details(ModelNotFoundError("no such model", where="ridge"), error_details_pb2.ResourceInfo)
    assert (missing.resource_name, missing.description) == ("ridge", "no such model")
    (request,) = details(BudgetError("too much"), error_details_pb2.RequestInfo)
    assert request.request_id == "r-1"
    (info,) = details(made(ShapeError), error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("penfield", "ShapeError")


def test_class_of_a_room_is_told_as_the_nearest_public_one() -> None:
    class Special(ShapeError):
        pass

    assert type(error_from(over_the_wire(Special("is wrong", where="x")))) is ShapeError


@pytest.mark.parametrize(
    "error", [KeyError("/srv/secret/model pid 4711"), RuntimeError("secret"), MemoryError("secret")]
)
def test_what_nobody_raised_on_purpose_tells_nothing(error: BaseException) -> None:
    status = status_of(error, "r-1")
    assert b"secret" not in status.SerializeToString()
    assert b"4711" not in status.SerializeToString()
    assert b"r-1" in status.SerializeToString()
    assert type(error).__name__.encode() not in status.SerializeToString()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cannot read /srv/lab/models/ridge/config.json", "cannot read config.json"),
        ("[Errno 2] No such file: '/srv/my lab/x y.h5'", "[Errno 2] No such file: x y.h5"),
        ("fetch it to ~/.cache/penfield/vit, then", "fetch it to vit, then"),
        ("copy ../models/ridge/config.json:3", "copy config.json:3"),
        ("see file:///srv/lab/x", "see x"),
        ("no file:/srv/lab/x", "no file:x"),
        (
            "models/ridge and subject-01/decoder, 3/4 of (H, W)/2",
            "models/ridge and subject-01/decoder, 3/4 of (H, W)/2",
        ),
        ("ask https://huggingface.co/timm/vit", "ask https://huggingface.co/timm/vit"),
        ("timm:vit_base/blocks.1/x", "timm:vit_base/blocks.1/x"),
    ],
)
def test_paths_of_the_server_are_reduced_to_their_names(text: str, told: str) -> None:
    status = status_of(InputError(text, remedy=text), "r-1")
    assert status.message == f"{told}. {told}"
    assert b"srv" not in status.SerializeToString()


def test_place_of_an_error_is_reduced_too() -> None:
    error = DamagedModelError("is truncated", where="/srv/my lab/ridge/model.safetensors")
    assert status_of(error, "r-1").message == "model.safetensors: is truncated"


names = st.text("abcdefgh0123456789_-.", min_size=3, max_size=8).filter(lambda name: name.strip("."))


@settings(max_examples=25, deadline=None)
@given(st.lists(names, max_size=4), names, st.sampled_from(["{}", "'{}'", "at {}, then", "({})", "x={}", "{}: broken"]))
def test_no_folder_of_the_server_is_ever_told(folders: list[str], name: str, sentence: str) -> None:
    path = "/" + "/".join(["SECRET", *folders, name])
    status = status_of(InputError(sentence.format(path), where=path, remedy=sentence.format(path)), "r-1")
    assert b"SECRET" not in status.SerializeToString()


def test_longest_texts_still_arrive() -> None:
    error = ShapeError("脳" * 5000, where="野" * 5000, remedy="直" * 5000)
    got = error_from(over_the_wire(error))
    assert type(got) is ShapeError
    assert got.what.startswith("脳脳脳")
    assert got.what.endswith("...")


def test_status_of_grpc_itself_becomes_the_error_that_means_it() -> None:
    async def call(target: str, timeout: float) -> grpc.aio.AioRpcError:
        async with grpc.aio.insecure_channel(target) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await model_pb2_grpc.ModelServiceStub(channel).ListModels(
                    model_pb2.ListModelsRequest(), timeout=timeout
                )
            return caught.value

    assert type(error_from(asyncio.run(call("127.0.0.1:1", 5)))) is UnavailableError
    # Takes connections and never speaks.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        assert type(error_from(asyncio.run(call(target, 0.05)))) is DeadlineError


def test_status_that_contradicts_itself_is_read_by_its_code() -> None:
    lying = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*rpc_status.to_status(status_of(ShapeError("x"), "r")).trailing_metadata),
        details="no such thing",
    )
    got = error_from(lying)
    assert type(got) is ModelNotFoundError
    assert str(got) == "no such thing"
