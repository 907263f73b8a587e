import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_KIND_UNSPECIFIED: _ClassVar[DataKind]
    DATA_KIND_RECORDING: _ClassVar[DataKind]
    DATA_KIND_STIMULI: _ClassVar[DataKind]
    DATA_KIND_FEATURES: _ClassVar[DataKind]
    DATA_KIND_RDMS: _ClassVar[DataKind]
    DATA_KIND_FILE: _ClassVar[DataKind]
DATA_KIND_UNSPECIFIED: DataKind
DATA_KIND_RECORDING: DataKind
DATA_KIND_STIMULI: DataKind
DATA_KIND_FEATURES: DataKind
DATA_KIND_RDMS: DataKind
DATA_KIND_FILE: DataKind

class DataTerms(_message.Message):
    __slots__ = ("consent", "license", "retention")
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    LICENSE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    consent: str
    license: str
    retention: _duration_pb2.Duration
    def __init__(self, consent: _Optional[str] = ..., license: _Optional[str] = ..., retention: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UploadDataRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("name", "kind", "size", "sha256", "terms", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: DataKind
    size: int
    sha256: str
    terms: DataTerms
    offset: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[DataKind, str]] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., terms: _Optional[_Union[DataTerms, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class UploadDataResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: StoredData
    def __init__(self, data: _Optional[_Union[StoredData, _Mapping]] = ...) -> None: ...

class StoredData(_message.Message):
    __slots__ = ("id", "name", "kind", "size", "sha256", "terms", "created", "expires")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    kind: DataKind
    size: int
    sha256: str
    terms: DataTerms
    created: _timestamp_pb2.Timestamp
    expires: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[_Union[DataKind, str]] = ..., size: _Optional[int] = ..., sha256: _Optional[str] = ..., terms: _Optional[_Union[DataTerms, _Mapping]] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetUploadRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class GetUploadResponse(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: StoredData
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[_Union[StoredData, _Mapping]] = ...) -> None: ...

class ListDataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListDataResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedCompositeFieldContainer[StoredData]
    def __init__(self, data: _Optional[_Iterable[_Union[StoredData, _Mapping]]] = ...) -> None: ...

class DeleteDataRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DeleteDataResponse(_message.Message):
    __slots__ = ("job_ids",)
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ...) -> None: ...
