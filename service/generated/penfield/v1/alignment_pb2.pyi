from service.generated.penfield.v1 import progress_pb2 as _progress_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreRequest(_message.Message):
    __slots__ = ("features_id", "extractor_uri", "recording_id", "rdms_id", "stimuli_id", "layers", "metric", "options_json", "seed")
    FEATURES_ID_FIELD_NUMBER: _ClassVar[int]
    EXTRACTOR_URI_FIELD_NUMBER: _ClassVar[int]
    RECORDING_ID_FIELD_NUMBER: _ClassVar[int]
    RDMS_ID_FIELD_NUMBER: _ClassVar[int]
    STIMULI_ID_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    features_id: str
    extractor_uri: str
    recording_id: str
    rdms_id: str
    stimuli_id: str
    layers: _containers.RepeatedScalarFieldContainer[str]
    metric: str
    options_json: str
    seed: int
    def __init__(self, features_id: _Optional[str] = ..., extractor_uri: _Optional[str] = ..., recording_id: _Optional[str] = ..., rdms_id: _Optional[str] = ..., stimuli_id: _Optional[str] = ..., layers: _Optional[_Iterable[str]] = ..., metric: _Optional[str] = ..., options_json: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("progress", "result_json")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    progress: _progress_pb2.Progress
    result_json: str
    def __init__(self, progress: _Optional[_Union[_progress_pb2.Progress, _Mapping]] = ..., result_json: _Optional[str] = ...) -> None: ...
