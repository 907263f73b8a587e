from service.generated.penfield.v1 import media_pb2 as _media_pb2
from service.generated.penfield.v1 import model_pb2 as _model_pb2
from service.generated.penfield.v1 import progress_pb2 as _progress_pb2
from service.generated.penfield.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FeatureRows(_message.Message):
    __slots__ = ("spaces", "fingerprints")
    SPACES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINTS_FIELD_NUMBER: _ClassVar[int]
    spaces: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensor]
    fingerprints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, spaces: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensor, _Mapping]]] = ..., fingerprints: _Optional[_Iterable[str]] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_media_pb2.Image]
    def __init__(self, images: _Optional[_Iterable[_Union[_media_pb2.Image, _Mapping]]] = ...) -> None: ...

class Clips(_message.Message):
    __slots__ = ("clips",)
    CLIPS_FIELD_NUMBER: _ClassVar[int]
    clips: _containers.RepeatedCompositeFieldContainer[_media_pb2.Clip]
    def __init__(self, clips: _Optional[_Iterable[_Union[_media_pb2.Clip, _Mapping]]] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "images", "clips", "features", "rois")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CLIPS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ROIS_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelReference
    images: Images
    clips: Clips
    features: FeatureRows
    rois: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelReference, _Mapping]] = ..., images: _Optional[_Union[Images, _Mapping]] = ..., clips: _Optional[_Union[Clips, _Mapping]] = ..., features: _Optional[_Union[FeatureRows, _Mapping]] = ..., rois: _Optional[_Iterable[str]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("responses", "units", "model")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    responses: _tensor_pb2.Tensor
    units: _model_pb2.UnitCoordinates
    model: _model_pb2.Model
    def __init__(self, responses: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., units: _Optional[_Union[_model_pb2.UnitCoordinates, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class EncodeStreamRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: EncodeRequest
    def __init__(self, request: _Optional[_Union[EncodeRequest, _Mapping]] = ...) -> None: ...

class EncodeStreamResponse(_message.Message):
    __slots__ = ("number", "response", "failure")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    number: int
    response: EncodeResponse
    failure: _progress_pb2.Failure
    def __init__(self, number: _Optional[int] = ..., response: _Optional[_Union[EncodeResponse, _Mapping]] = ..., failure: _Optional[_Union[_progress_pb2.Failure, _Mapping]] = ...) -> None: ...
