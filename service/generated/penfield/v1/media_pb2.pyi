from service.generated.penfield.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PIXELS: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_PIXELS: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat

class Image(_message.Message):
    __slots__ = ("encoded", "pixels", "media_type")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    pixels: _tensor_pb2.Tensor
    media_type: str
    def __init__(self, encoded: _Optional[bytes] = ..., pixels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., media_type: _Optional[str] = ...) -> None: ...

class Clip(_message.Message):
    __slots__ = ("encoded", "frames", "media_type")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    frames: _tensor_pb2.Tensor
    media_type: str
    def __init__(self, encoded: _Optional[bytes] = ..., frames: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., media_type: _Optional[str] = ...) -> None: ...

class Shape(_message.Message):
    __slots__ = ("glb",)
    GLB_FIELD_NUMBER: _ClassVar[int]
    glb: bytes
    def __init__(self, glb: _Optional[bytes] = ...) -> None: ...
