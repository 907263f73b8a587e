"""The Open Inference Protocol: what a request may say, and that every other one is refused by name."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from encoders import Features, load_encoder
from recordings.errors import InputError, NotFiniteError, PenfieldError, ShapeError, UnknownNameError
from service.errors import ModelNotFoundError
from service.generated.inference import grpc_service_pb2 as oip
from service.generated.inference import grpc_service_pb2_grpc
from service.inference import InferenceServicer
from service.items import EncodeItem
from service.models import FeatureSpace
from service.status import abort, error_from

from .conftest import ENCODER, N_UNITS

ROOT = Path(__file__).parents[2]
WEIGHTS = np.random.default_rng(3).standard_normal((4, 5)).astype(np.float32)


class LinearEngine:
    """Two encoders and a decoder; as quick as the protocol needs, and it notes what it was asked."""

    def __init__(self, phase: str = "ready") -> None:
        self.deadlines: list[float | None] = []
        self.phase = phase

    def models(self) -> list[Any]:
        names = [("one", "1", "encode"), ("one", "2", "encode"), ("two", "1", "encode"), ("pictures", "1", "decode")]
        return [SimpleNamespace(key=SimpleNamespace(name=n, version=v), verbs=(verb,)) for n, v, verb in names]

    def find(self, name: str, version: str) -> Any:
        for entry in self.models():
            if entry.key.name == name and version in ("", entry.key.version):
                return entry
        raise ModelNotFoundError(f"no version {version}", where=name)

    def state(self, entry: Any) -> Any:
        return SimpleNamespace(phase=self.phase)

    async def describe(self, name: str, version: str) -> Any:
        self.find(name, version)
        space = FeatureSpace("", "miniature:backbone", "blocks.3", "pooled", (4,), "")
        low = FeatureSpace("low", "python:mine:build", "", "", (2, 2), "", reason="Python code is refused")
        high = FeatureSpace("high", "miniature:backbone", "blocks.3", "pooled", (4,), "")
        units = SimpleNamespace(unit_ids=[f"unit{i}" for i in range(5)])
        return SimpleNamespace(features=[space] if name == "one" else [low, high], units=units)

    async def encode(self, name: str, version: str, item: EncodeItem, *, deadline: float | None = None) -> Any:
        self.deadlines.append(deadline)
        if item.images is not None:
            X = np.stack([[*image.mean((0, 1)), 1] for image in item.images]).astype(np.float32)
        else:
            X = sum(features.reshape(len(features), 4) for features in item.features.values())
        Y = X @ WEIGHTS
        return SimpleNamespace(
            responses=Y, entry=SimpleNamespace(key=SimpleNamespace(name=name, version=version or "2"))
        )


Stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub


class Statuses(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Errors become statuses, as in the server."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def answer(request: Any, context: Any) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except PenfieldError as error:
                await abort(context, error, "r")

        return handler and grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


@asynccontextmanager
async def listening(engine: Any, **options: Any) -> AsyncIterator[str]:
    """The address of a server on loopback."""
    server = grpc.aio.server(interceptors=[Statuses()])
    servicer = InferenceServicer(engine, **options)
    grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def asked(call: Callable[[Stub], Awaitable[Any]], engine: Any = None, **options: Any) -> Any:
    """What a server on loopback answers; its error as the client raises it."""

    async def run() -> Any:
        async with (
            listening(engine or LinearEngine(), **options) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            return await call(Stub(channel))

    try:
        return asyncio.run(run())
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from error


async def triton(address: str, model: str, arrays: Path) -> dict[str, Any]:
    """What Triton's own client says of a server, in an environment of its own."""
    python = ROOT / ".venv-oip" / "bin" / "python"
    script = Path(__file__).with_name("oip_client.py")
    child = await asyncio.create_subprocess_exec(
        python, script, address, model, arrays, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(child.communicate(), 120)
    assert child.returncode == 0, errors.decode()
    return json.loads(out)


def infer(request: oip.ModelInferRequest, engine: Any = None) -> oip.ModelInferResponse:
    return asked(lambda stub: stub.ModelInfer(request, timeout=20), engine)


def raw(arrays: dict[str, np.ndarray], model: str = "one", **fields: Any) -> oip.ModelInferRequest:
    types = {"uint8": "UINT8", "float32": "FP32", "float64": "FP64"}
    request = oip.ModelInferRequest(model_name=model, **fields)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=types[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((3, 4)).astype(np.float32)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (2, 6, 8, 3), np.uint8)


def test_raw_contents_are_answered_raw(features: np.ndarray) -> None:
    answer = infer(raw({"features": features}, id="request-7"))
    assert (answer.id, answer.model_name, answer.model_version) == ("request-7", "one", "2")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("responses", "FP32", [3, 5])]
    assert answer.raw_output_contents[0] == (features @ WEIGHTS).tobytes()
    assert not answer.outputs[0].HasField("contents")


def test_typed_contents_are_answered_typed(features: np.ndarray, images: np.ndarray) -> None:
    request = oip.ModelInferRequest(model_name="one")
    contents = oip.InferTensorContents(fp32_contents=features.ravel())
    request.inputs.add(name="features", datatype="FP32", shape=features.shape, contents=contents)
    answer = infer(request)
    assert not answer.raw_output_contents
    numbers = np.array(answer.outputs[0].contents.fp32_contents, np.float32).reshape(3, 5)
    np.testing.assert_array_equal(numbers, features @ WEIGHTS)

    request = oip.ModelInferRequest(model_name="one")
    contents = oip.InferTensorContents(uint_contents=images.ravel().tolist())
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape, contents=contents)
    by_raw = np.frombuffer(infer(raw({"images": images})).raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(infer(request).outputs[0].contents.fp32_contents, by_raw)


def test_several_spaces_are_inputs_of_their_own(features: np.ndarray) -> None:
    request = raw({"high": features, "low": features.reshape(3, 2, 2)}, "two")
    answer = np.frombuffer(infer(request).raw_output_contents[0], np.float32).reshape(3, 5)
    np.testing.assert_array_equal(answer, (2 * features) @ WEIGHTS)
    with pytest.raises(InputError, match="or low, high"):
        infer(raw({"high": features}, "two"))
    with pytest.raises(ShapeError, match="several lengths"):
        infer(raw({"high": features, "low": features[:2].reshape(2, 2, 2)}, "two"))


def test_regions_select_units(encoder_folder: Path, serving: Any, scene_features: Features) -> None:
    request = raw({"features": scene_features.read()[:3]}, ENCODER)
    expected = load_encoder(encoder_folder / ENCODER).predict(scene_features)[:3]

    async def run() -> list[np.ndarray]:
        found = []
        async with (
            serving(encoder_folder) as engine,
            listening(engine) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            for rois in ("B, A", "B"):
                request.parameters["rois"].string_param = rois
                answer = await Stub(channel).ModelInfer(request, timeout=20)
                values = np.frombuffer(answer.raw_output_contents[0], np.float32)
                found.append(values.reshape(list(answer.outputs[0].shape)))
        return found

    both, one = asyncio.run(run())
    np.testing.assert_allclose(both, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one, expected[:, 30:], rtol=1e-5, atol=1e-5)


def test_timeout_becomes_the_deadline(features: np.ndarray) -> None:
    engine = LinearEngine()
    request = raw({"features": features})
    infer(request, engine)
    request.parameters["timeout"].int64_param = 0
    infer(request, engine)
    request.parameters["timeout"].int64_param = 9_000_000
    infer(request, engine)
    loop_time = asyncio.run(_loop_time())
    assert engine.deadlines[:2] == [None, None]
    assert loop_time < engine.deadlines[2] <= loop_time + 9


async def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def edited(request: oip.ModelInferRequest, edit: Callable[[oip.ModelInferRequest], object]) -> oip.ModelInferRequest:
    edit(request)
    return request


GOOD = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (raw({"features": GOOD}, "nobody"), ModelNotFoundError, "nobody: no version"),
        (raw({"features": GOOD}, "pictures"), ModelNotFoundError, "pictures: there is no such encoder"),
        (raw({"features": GOOD}, model_version="9"), ModelNotFoundError, "no version 9"),
        (raw({}), InputError, "none. Send images alone, or features"),
        (raw({"voxels": GOOD}), UnknownNameError, "voxels: is no input of this model. There are images, features"),
        (raw({"images": np.ones((1, 4, 4, 3), np.uint8)}, "two"), UnknownNameError, "There are low, high"),
        (raw({"features": GOOD.astype(np.float64)}), ShapeError, "holds FP64. Send FP32"),
        (raw({"features": np.ones((3, 5), np.float32)}), ShapeError, r"the shape \[3, 5\]. Send \[-1, 4\]"),
        (raw({"features": np.ones((0, 4), np.float32)}), ShapeError, r"the shape \[0, 4\]"),
        (raw({"images": np.ones((1, 4, 4, 4), np.uint8)}), ShapeError, r"the shape \[1, 4, 4, 4\]"),
        (raw({"images": np.ones((1, 4, 4, 3), np.uint8), "features": GOOD}), InputError, "Send images alone"),
        (raw({"features": GOOD * np.float32("nan")}), NotFiniteError, r"features: nan at \[0, 0\]"),
        (edited(raw({"features": GOOD}), lambda r: r.raw_input_contents.append(b"")), ShapeError, "2 contents for 1"),
        (
            edited(raw({"features": GOOD}), lambda r: r.inputs[0].contents.fp32_contents.append(1)),
            InputError,
            "raw and typed",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: r.raw_input_contents.__setitem__(0, b"1234")),
            ShapeError,
            "4 bytes; float32 of shape .* takes 48",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: r.raw_input_contents.pop()),
            ShapeError,
            "0 numbers for the shape",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: r.outputs.add(name="betas")),
            UnknownNameError,
            "There is responses",
        ),
        (
            edited(
                raw({"features": GOOD}),
                lambda r: (
                    r.outputs.add(name="responses")
                    .parameters["classification"]
                    .MergeFrom(oip.InferParameter(int64_param=2))
                ),
            ),
            UnknownNameError,
            "classification",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: setattr(r.parameters["priority"], "uint64_param", 1)),
            UnknownNameError,
            "priority is not known",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: setattr(r.parameters["timeout"], "string_param", "soon")),
            InputError,
            "int64_param",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: setattr(r.parameters["timeout"], "int64_param", -1)),
            InputError,
            "timeout",
        ),
        (
            edited(raw({"features": GOOD}), lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.append(b""))),
            InputError,
            "twice",
        ),
    ],
)
def test_request_that_is_wrong_is_refused_by_name(
    request_: oip.ModelInferRequest, error: type[PenfieldError], words: str
) -> None:
    with pytest.raises(error, match=words):
        infer(request_)


def test_typed_numbers_too_large_for_their_type_are_refused() -> None:
    request = oip.ModelInferRequest(model_name="one")
    contents = oip.InferTensorContents(uint_contents=[1, 2, 256])
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 1, 1, 3], contents=contents)
    with pytest.raises(InputError, match="holds 256, more than UINT8 can"):
        infer(request)


def test_metadata_tell_inputs_outputs_and_versions() -> None:
    one = asked(lambda stub: stub.ModelMetadata(oip.ModelMetadataRequest(name="one")))
    assert (one.name, one.platform, list(one.versions)) == ("one", "penfield", ["1", "2"])
    tensors = [(t.name, t.datatype, list(t.shape)) for t in (*one.inputs, *one.outputs)]
    assert tensors == [
        ("images", "UINT8", [-1, -1, -1, 3]),
        ("features", "FP32", [-1, 4]),
        ("responses", "FP32", [-1, 5]),
    ]
    two = asked(lambda stub: stub.ModelMetadata(oip.ModelMetadataRequest(name="two")))
    assert [(t.name, list(t.shape)) for t in two.inputs] == [("low", [-1, 2, 2]), ("high", [-1, 4])]
    with pytest.raises(ModelNotFoundError):
        asked(lambda stub: stub.ModelMetadata(oip.ModelMetadataRequest(name="pictures")))


@pytest.mark.parametrize("ready", [True, False])
def test_server_and_models_are_ready_while_requests_are_taken(ready: bool) -> None:
    assert asked(lambda stub: stub.ServerLive(oip.ServerLiveRequest()), ready=lambda: ready).live
    assert asked(lambda stub: stub.ServerReady(oip.ServerReadyRequest()), ready=lambda: ready).ready is ready
    assert asked(lambda stub: stub.ModelReady(oip.ModelReadyRequest(name="one")), ready=lambda: ready).ready is ready


@pytest.mark.parametrize(
    ("phase", "name", "version", "ready"),
    [
        ("ready", "one", "", True),
        ("unloaded", "one", "2", True),
        ("loading", "one", "", False),
        ("failed", "one", "", False),
        ("ready", "one", "9", False),
        ("ready", "nobody", "", False),
        ("ready", "pictures", "", False),
    ],
)
def test_model_is_ready_if_it_can_be_asked(phase: str, name: str, version: str, ready: bool) -> None:
    request = oip.ModelReadyRequest(name=name, version=version)
    assert asked(lambda stub: stub.ModelReady(request), LinearEngine(phase)).ready is ready


def test_server_tells_its_name_and_no_extension() -> None:
    metadata = asked(lambda stub: stub.ServerMetadata(oip.ServerMetadataRequest()))
    assert metadata.name == "penfield"
    assert metadata.version
    assert not metadata.extensions


@pytest.mark.slow
def test_client_of_triton_is_served_unchanged(
    encoder_folder: Path, serving: Any, scene_features: Features, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    if not (ROOT / ".venv-oip").exists():
        pytest.skip("no .venv-oip; `make clients` makes it")
    features = scene_features.read()[:4]
    np.savez(tmp_path / "arrays.npz", features=features, images=np.stack(pictures[:4]))

    async def run() -> dict[str, Any]:
        async with serving(encoder_folder) as engine, listening(engine) as address:
            return await triton(address, ENCODER, tmp_path / "arrays.npz")

    said = asyncio.run(run())
    assert (said["live"], said["ready"], said["model_ready"], said["unknown_ready"]) == (True, True, True, False)
    assert said["server"]["name"] == "penfield"
    width = features.shape[1]
    assert said["model"]["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": ["-1", "-1", "-1", "3"]},
        {"name": "features", "datatype": "FP32", "shape": ["-1", str(width)]},
    ]
    assert said["model"]["outputs"] == [{"name": "responses", "datatype": "FP32", "shape": ["-1", str(N_UNITS)]}]
    assert (said["id"], said["version"]) == ("request-7", "1")

    expected = load_encoder(encoder_folder / ENCODER).predict(scene_features)[:4]
    np.testing.assert_allclose(said["features"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(said["images"], expected, atol=1e-4)
    np.testing.assert_allclose(said["async"], [expected] * 8, atol=1e-4)
    codes = {name: code for name, (code, _) in said["refusals"].items()}
    assert codes == {
        "unknown model": "StatusCode.NOT_FOUND",
        "unknown region": "StatusCode.INVALID_ARGUMENT",
        "wrong shape": "StatusCode.INVALID_ARGUMENT",
        "extension": "StatusCode.UNIMPLEMENTED",
    }
    assert f"[4, {width - 1}]" in said["refusals"]["wrong shape"][1]
    assert "nowhere" in said["refusals"]["unknown region"][1]
    assert said["live_after"]
