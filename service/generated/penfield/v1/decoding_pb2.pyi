from service.generated.penfield.v1 import media_pb2 as _media_pb2
from service.generated.penfield.v1 import model_pb2 as _model_pb2
from service.generated.penfield.v1 import progress_pb2 as _progress_pb2
from service.generated.penfield.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecodeOutput(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECODE_OUTPUT_UNSPECIFIED: _ClassVar[DecodeOutput]
    DECODE_OUTPUT_CAPTION: _ClassVar[DecodeOutput]
    DECODE_OUTPUT_IMAGE: _ClassVar[DecodeOutput]
    DECODE_OUTPUT_DEPTH: _ClassVar[DecodeOutput]
    DECODE_OUTPUT_SHAPE: _ClassVar[DecodeOutput]
    DECODE_OUTPUT_TARGETS: _ClassVar[DecodeOutput]
DECODE_OUTPUT_UNSPECIFIED: DecodeOutput
DECODE_OUTPUT_CAPTION: DecodeOutput
DECODE_OUTPUT_IMAGE: DecodeOutput
DECODE_OUTPUT_DEPTH: DecodeOutput
DECODE_OUTPUT_SHAPE: DecodeOutput
DECODE_OUTPUT_TARGETS: DecodeOutput

class DrawingOptions(_message.Message):
    __slots__ = ("preset", "strength", "guidance", "steps", "samples", "preview_every", "format")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_EVERY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    preset: str
    strength: float
    guidance: float
    steps: int
    samples: int
    preview_every: int
    format: _media_pb2.ImageFormat
    def __init__(self, preset: _Optional[str] = ..., strength: _Optional[float] = ..., guidance: _Optional[float] = ..., steps: _Optional[int] = ..., samples: _Optional[int] = ..., preview_every: _Optional[int] = ..., format: _Optional[_Union[_media_pb2.ImageFormat, str]] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("model", "responses", "stimulus_ids", "units_fingerprint", "outputs", "drawing", "seed")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    STIMULUS_IDS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    DRAWING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelReference
    responses: _tensor_pb2.Tensor
    stimulus_ids: _containers.RepeatedScalarFieldContainer[str]
    units_fingerprint: str
    outputs: _containers.RepeatedScalarFieldContainer[DecodeOutput]
    drawing: DrawingOptions
    seed: int
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelReference, _Mapping]] = ..., responses: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., stimulus_ids: _Optional[_Iterable[str]] = ..., units_fingerprint: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[DecodeOutput, str]]] = ..., drawing: _Optional[_Union[DrawingOptions, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("accepted", "progress", "preview", "result", "summary")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    accepted: DecodeAccepted
    progress: _progress_pb2.Progress
    preview: Preview
    result: DecodeResult
    summary: DecodeSummary
    def __init__(self, accepted: _Optional[_Union[DecodeAccepted, _Mapping]] = ..., progress: _Optional[_Union[_progress_pb2.Progress, _Mapping]] = ..., preview: _Optional[_Union[Preview, _Mapping]] = ..., result: _Optional[_Union[DecodeResult, _Mapping]] = ..., summary: _Optional[_Union[DecodeSummary, _Mapping]] = ...) -> None: ...

class DecodeAccepted(_message.Message):
    __slots__ = ("queue_position", "model")
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    queue_position: int
    model: _model_pb2.Model
    def __init__(self, queue_position: _Optional[int] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("stimulus_id", "sample", "image")
    STIMULUS_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    stimulus_id: str
    sample: int
    image: _media_pb2.Image
    def __init__(self, stimulus_id: _Optional[str] = ..., sample: _Optional[int] = ..., image: _Optional[_Union[_media_pb2.Image, _Mapping]] = ...) -> None: ...

class DecodeResult(_message.Message):
    __slots__ = ("stimulus_id", "caption", "images", "depth", "shape", "targets", "failure")
    STIMULUS_ID_FIELD_NUMBER: _ClassVar[int]
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    stimulus_id: str
    caption: str
    images: _containers.RepeatedCompositeFieldContainer[_media_pb2.Image]
    depth: _tensor_pb2.Tensor
    shape: _media_pb2.Shape
    targets: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensor]
    failure: _progress_pb2.Failure
    def __init__(self, stimulus_id: _Optional[str] = ..., caption: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_media_pb2.Image, _Mapping]]] = ..., depth: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., shape: _Optional[_Union[_media_pb2.Shape, _Mapping]] = ..., targets: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensor, _Mapping]]] = ..., failure: _Optional[_Union[_progress_pb2.Failure, _Mapping]] = ...) -> None: ...

class DecodeSummary(_message.Message):
    __slots__ = ("succeeded", "failed", "settings_json", "queued_seconds", "computed_seconds")
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_JSON_FIELD_NUMBER: _ClassVar[int]
    QUEUED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    succeeded: int
    failed: int
    settings_json: str
    queued_seconds: float
    computed_seconds: float
    def __init__(self, succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., settings_json: _Optional[str] = ..., queued_seconds: _Optional[float] = ..., computed_seconds: _Optional[float] = ...) -> None: ...
