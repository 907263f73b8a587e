"""The Open Inference Protocol, version 2: clients of Triton and KServe ask Penfield's encoders like any model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from recordings.errors import DuplicateIdError, InputError, ShapeError, UnknownNameError
from service.errors import ModelNotFoundError
from service.generated.inference import grpc_service_pb2 as oip
from service.generated.inference import grpc_service_pb2_grpc
from service.items import EncodeItem
from service.tensors import from_bytes

if TYPE_CHECKING:
    from service.engine import Engine
    from service.models import Description, FeatureSpace

IMAGES, RESPONSES = "images", "responses"
# Of a model that reads one feature space, which needs no name of its own.
FEATURES = "features"
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype(np.float32)}
_Input = oip.ModelInferRequest.InferInputTensor


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for the encoders of an engine.

    A model takes "images", UINT8 (image, height, width, 3), where the server can compute its features, or one FP32
    input (stimulus, ...) a feature space, by the space's name, "features" where it has none. It gives "responses", FP32
    (stimulus, unit). Two parameters of a request are known: "timeout", microseconds, and "rois", names of regions with
    commas between. Raw contents are answered raw, typed ones typed.

    Parameters
    ----------
    engine : whose encoders answer.
    ready : whether the server takes requests, as `ServerReady` tells it; by default it always does.
    """

    def __init__(self, engine: Engine, ready: Callable[[], bool] = lambda: True):
        self.engine = engine
        self.ready = ready

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Any) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self.ready())

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:
        # Who only asks must not make others' models leave memory: nothing is loaded here.
        try:
            entry = self.engine.find(request.name, request.version)
        except ModelNotFoundError:
            return oip.ModelReadyResponse(ready=False)
        can = "encode" in entry.verbs and self.engine.state(entry).phase in ("ready", "unloaded")
        return oip.ModelReadyResponse(ready=can and self.ready())

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Any) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name="penfield", version=version("penfield"))

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:
        description = await self._encoder(request.name, request.version)
        versions = [entry.key.version for entry in self.engine.models() if entry.key.name == request.name]
        inputs = [
            oip.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)
            for name, (datatype, shape) in _inputs(description.features).items()
        ]
        units = len(description.units.unit_ids)
        output = oip.ModelMetadataResponse.TensorMetadata(name=RESPONSES, datatype="FP32", shape=[-1, units])
        return oip.ModelMetadataResponse(
            name=request.name, versions=versions, platform="penfield", inputs=inputs, outputs=[output]
        )

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        description = await self._encoder(request.model_name, request.model_version)
        _check_outputs(request.outputs)
        seconds, rois = _parameters(request)
        item = await asyncio.to_thread(_item, request, description.features, rois)
        deadline = asyncio.get_running_loop().time() + seconds if seconds < math.inf else None
        encoded = await self.engine.encode(request.model_name, request.model_version, item, deadline=deadline)
        return await asyncio.to_thread(_response, request, encoded)

    async def _encoder(self, name: str, version: str) -> Description:
        verbs = {verb for entry in self.engine.models() if entry.key.name == name for verb in entry.verbs}
        # A decoder would be loaded only to be refused.
        if verbs and "encode" not in verbs:
            raise ModelNotFoundError("there is no such encoder", where=name, remedy="ModelService lists all models")
        return await self.engine.describe(name, version)


def _inputs(spaces: Sequence[FeatureSpace]) -> dict[str, tuple[str, list[int]]]:
    """Datatype and shape of each input by name, in the protocol's terms."""
    inputs = {space.name or FEATURES: ("FP32", [-1, *space.shape]) for space in spaces}
    if not any(space.reason for space in spaces):
        return {IMAGES: ("UINT8", [-1, -1, -1, 3]), **inputs}
    return inputs


def _item(request: oip.ModelInferRequest, spaces: Sequence[FeatureSpace], rois: tuple[str, ...]) -> EncodeItem:
    arrays = _arrays(request, _inputs(spaces))
    if IMAGES in arrays and len(arrays) == 1:
        return EncodeItem(images=list(arrays[IMAGES]), rois=rois)
    names = {space.name or FEATURES: space.name for space in spaces}
    if arrays.keys() != names.keys():
        raise InputError(
            f"inputs {', '.join(arrays) or 'none'}", where="inputs", remedy=f"Send images alone, or {', '.join(names)}"
        )
    return EncodeItem(features={names[name]: array for name, array in arrays.items()}, rois=rois)


def _arrays(request: oip.ModelInferRequest, known: dict[str, tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ShapeError(f"{len(raw)} contents for {len(request.inputs)} inputs", where="raw_input_contents")
    arrays: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise DuplicateIdError("stands twice", where=tensor.name, remedy="Send each input once")
        _check_input(tensor, known)
        if raw and tensor.HasField("contents"):
            raise InputError("has raw and typed contents", where=tensor.name, remedy="Send one of the two")
        arrays[tensor.name] = _array(tensor, raw[number] if raw else None)
    return arrays


def _check_input(tensor: _Input, known: dict[str, tuple[str, list[int]]]) -> None:
    if tensor.name not in known:
        raise UnknownNameError("is no input of this model", where=tensor.name, remedy=f"There are {', '.join(known)}")
    datatype, shape = known[tensor.name]
    if tensor.datatype != datatype:
        raise ShapeError(f"holds {tensor.datatype or 'no datatype'}", where=tensor.name, remedy=f"Send {datatype}")
    fits = len(tensor.shape) == len(shape) and all(
        given > 0 if wanted < 0 else given == wanted for given, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise ShapeError(f"has the shape {list(tensor.shape)}", where=tensor.name, remedy=f"Send {shape}, -1 for any")


def _array(tensor: _Input, raw: bytes | None) -> np.ndarray:
    dtype = _DTYPES[tensor.datatype]
    if raw is not None:
        return from_bytes(raw, dtype, tensor.shape, name=tensor.name, finite=False)
    numbers = tensor.contents.fp32_contents if dtype.kind == "f" else tensor.contents.uint_contents
    if len(numbers) != math.prod(tensor.shape):
        raise ShapeError(f"{len(numbers)} numbers for the shape {list(tensor.shape)}", where=tensor.name)
    array = np.fromiter(numbers, np.float32 if dtype.kind == "f" else np.int64).reshape(tuple(tensor.shape))
    if dtype.kind == "u" and array.max() > np.iinfo(dtype).max:
        raise InputError(f"holds {array.max()}, more than {tensor.datatype} can", where=tensor.name)
    return array.astype(dtype, copy=False)


def _check_outputs(outputs: Sequence[Any]) -> None:
    for output in outputs:
        if output.name != RESPONSES:
            raise UnknownNameError("is no output of this model", where=output.name, remedy=f"There is {RESPONSES}")
        if output.parameters:
            names = ", ".join(output.parameters)
            raise UnknownNameError(
                f"output parameters {names} are not known", where=output.name, remedy="Leave them out"
            )


def _parameters(request: oip.ModelInferRequest) -> tuple[float, tuple[str, ...]]:
    """Seconds that the request may take, and regions of interest."""
    types = {"timeout": "int64_param", "rois": "string_param"}
    values: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        if name not in types:
            raise UnknownNameError(f"{name} is not known", where="parameters", remedy=f"There are {', '.join(types)}")
        if parameter.WhichOneof("parameter_choice") != types[name]:
            raise InputError("has another type", where=f"parameters[{name}]", remedy=f"Send it as {types[name]}")
        values[name] = getattr(parameter, types[name])
    names = tuple(name.strip() for name in values.get("rois", "").split(",") if name.strip())
    if values.get("timeout", 0) < 0:
        raise InputError("is negative", where="parameters[timeout]", remedy="Send microseconds, 0 for no limit")
    return values.get("timeout", 0) / 1e6 or math.inf, names


def _response(request: oip.ModelInferRequest, encoded: Any) -> oip.ModelInferResponse:
    responses = np.ascontiguousarray(encoded.responses, "<f4")
    output = oip.ModelInferResponse.InferOutputTensor(name=RESPONSES, datatype="FP32", shape=responses.shape)
    answer = oip.ModelInferResponse(
        model_name=request.model_name, model_version=encoded.entry.key.version, id=request.id, outputs=[output]
    )
    if request.raw_input_contents:
        answer.raw_output_contents.append(responses.tobytes())
    else:
        answer.outputs[0].contents.fp32_contents.extend(responses.ravel().tolist())
    return answer
