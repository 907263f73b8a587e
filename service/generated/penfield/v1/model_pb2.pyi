import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_UNLOADED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_FAILED: ModelState

class ModelReference(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("reference", "kind", "state", "reason", "fingerprint", "memory_bytes", "verbs")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERBS_FIELD_NUMBER: _ClassVar[int]
    reference: ModelReference
    kind: str
    state: ModelState
    reason: str
    fingerprint: str
    memory_bytes: int
    verbs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reference: _Optional[_Union[ModelReference, _Mapping]] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ..., fingerprint: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., verbs: _Optional[_Iterable[str]] = ...) -> None: ...

class UnitCoordinates(_message.Message):
    __slots__ = ("unit_ids", "space_json", "fingerprint")
    UNIT_IDS_FIELD_NUMBER: _ClassVar[int]
    SPACE_JSON_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    unit_ids: _containers.RepeatedScalarFieldContainer[str]
    space_json: str
    fingerprint: str
    def __init__(self, unit_ids: _Optional[_Iterable[str]] = ..., space_json: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class FeatureSpace(_message.Message):
    __slots__ = ("name", "uri", "layer", "readout", "shape", "fingerprint")
    NAME_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    READOUT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    name: str
    uri: str
    layer: str
    readout: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    fingerprint: str
    def __init__(self, name: _Optional[str] = ..., uri: _Optional[str] = ..., layer: _Optional[str] = ..., readout: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class DecodedTarget(_message.Message):
    __slots__ = ("name", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("model", "units", "features", "targets", "presets", "rois", "card", "license", "modified", "delays")
    class RoisEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    PRESETS_FIELD_NUMBER: _ClassVar[int]
    ROIS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_FIELD_NUMBER: _ClassVar[int]
    DELAYS_FIELD_NUMBER: _ClassVar[int]
    model: Model
    units: UnitCoordinates
    features: _containers.RepeatedCompositeFieldContainer[FeatureSpace]
    targets: _containers.RepeatedCompositeFieldContainer[DecodedTarget]
    presets: _containers.RepeatedScalarFieldContainer[str]
    rois: _containers.ScalarMap[str, int]
    card: str
    license: str
    modified: _timestamp_pb2.Timestamp
    delays: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ..., units: _Optional[_Union[UnitCoordinates, _Mapping]] = ..., features: _Optional[_Iterable[_Union[FeatureSpace, _Mapping]]] = ..., targets: _Optional[_Iterable[_Union[DecodedTarget, _Mapping]]] = ..., presets: _Optional[_Iterable[str]] = ..., rois: _Optional[_Mapping[str, int]] = ..., card: _Optional[str] = ..., license: _Optional[str] = ..., modified: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., delays: _Optional[_Iterable[int]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("verb",)
    VERB_FIELD_NUMBER: _ClassVar[int]
    verb: str
    def __init__(self, verb: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelReference
    def __init__(self, model: _Optional[_Union[ModelReference, _Mapping]] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("description",)
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    description: ModelDescription
    def __init__(self, description: _Optional[_Union[ModelDescription, _Mapping]] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelReference
    def __init__(self, model: _Optional[_Union[ModelReference, _Mapping]] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelReference
    def __init__(self, model: _Optional[_Union[ModelReference, _Mapping]] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...
