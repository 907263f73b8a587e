"""Pictures and clips on the wire; sizes are checked by the header, before anything is decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as PILImage

from recordings import media
from recordings.errors import InputError, ShapeError
from recordings.media import Limits as Limits
from service.generated.penfield.v1 import media_pb2
from service.tensors import to_array, to_tensor

# Pillow tries other formats by programs and parsers that no stranger should reach.
_PICTURES = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_CLIPS = ("TIFF", "WEBP", "GIF")


def read_image(image: media_pb2.Image, limits: Limits, *, name: str = "image") -> np.ndarray:
    """The pixels of a picture, (H, W, 3) uint8; decoding blocks, so call it in a thread.

    Transparent pixels are shown on mid-grey; greyscale is repeated over channels.

    Raises
    ------
    CorruptImageError : it is not a PNG, JPEG, WebP, TIFF or BMP file, or cannot be decoded.
    ImageTooLargeError : more than `limits` allow, by the header.
    ShapeError : pixels of another shape or dtype; a film where a picture is wanted.
    InputError : it is empty.
    """
    kind = image.WhichOneof("content")
    if kind == "encoded":
        source = io.BytesIO(image.encoded)
        frames = media.read_picture(source, where=name, formats=_PICTURES, limits=limits)
        if len(frames) > 1:
            raise ShapeError(f"holds {len(frames)} frames", where=name, remedy="Send it as a clip")
        return frames[0]
    if kind == "pixels":
        return _checked(to_array(image.pixels, name=name, dtypes={"uint8"}, ndim=3)[None], name, limits)[0]
    raise InputError("holds neither a file's content nor pixels", where=name)


def read_clip(clip: media_pb2.Clip, limits: Limits, *, name: str = "clip") -> np.ndarray:
    """The frames of a clip, (T, H, W, 3) uint8; decoding blocks, so call it in a thread.

    Raises
    ------
    CorruptImageError : it is not a TIFF, WebP, GIF or MP4 file, or cannot be decoded.
    ImageTooLargeError, ShapeError, InputError : as `read_image`.
    """
    kind = clip.WhichOneof("content")
    if kind == "encoded":
        source = io.BytesIO(clip.encoded)
        if clip.encoded[4:8] == b"ftyp":
            return media.read_video(source, where=name, format="mp4", limits=limits)
        return media.read_picture(source, where=name, formats=_CLIPS, limits=limits)
    if kind == "frames":
        return _checked(to_array(clip.frames, name=name, dtypes={"uint8"}, ndim=4), name, limits)
    raise InputError("holds neither a file's content nor frames", where=name)


def write_image(array: np.ndarray, format: media_pb2.ImageFormat) -> media_pb2.Image:
    """Pixels (H, W, 3) uint8 in the format asked for, PNG where none is; coding blocks, so call it in a thread.

    Raises
    ------
    InputError : a format that this server does not know.
    """
    if format == media_pb2.IMAGE_FORMAT_PIXELS:
        return media_pb2.Image(pixels=to_tensor(array))
    content = io.BytesIO()
    if format in (media_pb2.IMAGE_FORMAT_UNSPECIFIED, media_pb2.IMAGE_FORMAT_PNG):
        # Level 1 takes a fifth of the time of the default, which is as long as a model's.
        PILImage.fromarray(array).save(content, "PNG", compress_level=1)
        return media_pb2.Image(encoded=content.getvalue(), media_type="image/png")
    if format == media_pb2.IMAGE_FORMAT_JPEG:
        PILImage.fromarray(array).save(content, "JPEG", quality=95)
        return media_pb2.Image(encoded=content.getvalue(), media_type="image/jpeg")
    raise InputError(f"no image format {format}", where="format", remedy="Ask for PNG, JPEG or pixels")


def _checked(frames: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    count, height, width, channels = frames.shape
    if channels != 3 or not frames.size:
        raise ShapeError(f"pixels of shape {list(frames.shape)}", where=name, remedy="Send height, width, 3 colours")
    limits.check(width, height, count, name)
    return frames
