"""Arrays, pictures, files and recordings as requests, in parts that a server takes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from recordings.errors import FormatError, InputError, ShapeError

from ..generated.penfield.v1 import encoding_pb2, media_pb2, model_pb2, tensor_pb2
from ..media import write_image
from ..tensors import to_tensor

MIB = 2**20
# A server takes 16 MiB unless it is told otherwise. 32 is how many stimuli networks see at a time, here and there, so
# that what is sent in parts gives the same bits.
PART_BYTES, PART_STIMULI = 8 * MIB, 32
# Half of what a server sends unless it is told otherwise.
ANSWER_BYTES = 32 * MIB
_WRITABLE = ("1", "L", "LA", "P", "RGBA", "I;16")

Picture = np.ndarray | PILImage.Image | str | PathLike[str]


def reference(model: str) -> model_pb2.ModelReference:
    """A model by NAME, or NAME@VERSION."""
    name, _, version = model.partition("@")
    return model_pb2.ModelReference(name=name, version=version)


def encode_requests(
    model: str,
    *,
    images: Any = None,
    clips: Any = None,
    features: Any = None,
    rois: Sequence[str] = (),
    most_rows: int = PART_STIMULI,
) -> Iterator[encoding_pb2.EncodeRequest]:
    """Requests of at most `PART_BYTES` and `PART_STIMULI`, in order; files are read as they are reached.

    Parameters
    ----------
    most_rows : of features in one request.

    Raises
    ------
    InputError : not one of images, clips and features. ShapeError : pixels or features of another shape or dtype.
    FormatError : a file that cannot be read.
    """
    given = {"images": images, "clips": clips, "features": features}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = f"{' and '.join(named) or 'nothing'} given"
        raise InputError(what, where="stimuli", remedy="Give images, clips or features")
    same: dict[str, Any] = {"model": reference(model), "rois": rois}
    if images is not None:
        for pictures in _parts(_picture(i, n) for n, i in enumerate(_several(images, 3))):
            yield encoding_pb2.EncodeRequest(images=encoding_pb2.Images(images=pictures), **same)
    elif clips is not None:
        for films in _parts(_film(c, n) for n, c in enumerate(_several(clips, 4))):
            yield encoding_pb2.EncodeRequest(clips=encoding_pb2.Clips(clips=films), **same)
    else:
        for rows in _feature_parts(features, most_rows):
            yield encoding_pb2.EncodeRequest(features=rows, **same)


def responses_of(responses: Any, stimulus_ids: Sequence[str] | None) -> tuple[np.ndarray, list[str], str]:
    """Responses float32 (row, unit), a name a row, and the fingerprint of the units, "" where it is not known.

    Parameters
    ----------
    responses : (row, unit), or a `recordings.Recording`, whose repetitions are averaged and whose stimuli name rows.
    stimulus_ids : names of the rows of an array, "0", "1", ... by default; of a recording, those that are wanted.
    """
    fingerprint = ""
    if hasattr(responses, "average_repetitions"):
        responses.check_without_time()
        mean, fingerprint = responses.average_repetitions(), responses.fingerprint()
        names = [str(name) for name in mean.stimulus_ids]
        if stimulus_ids is not None:
            mean = mean.take(_rows(names, stimulus_ids))
        responses, stimulus_ids = mean.values, [str(name) for name in mean.stimulus_ids]
    values = np.asarray(responses, np.float32)
    if values.ndim != 2 or not values.size:
        raise ShapeError(f"shape {values.shape}", where="responses", remedy="Give (row, unit)")
    names = [str(n) for n in (range(len(values)) if stimulus_ids is None else stimulus_ids)]
    if len(names) != len(values):
        raise ShapeError(f"{len(names)} names for {len(values)} rows", where="stimulus_ids")
    return values, names, fingerprint


def _rows(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    known = {name: row for row, name in enumerate(names)}
    for name in wanted:
        if name not in known:
            raise InputError(f"no responses to {name!r}", where="stimulus_ids", remedy="Name stimuli of the recording")
    return [known[name] for name in wanted]


def row_parts(values: np.ndarray) -> Iterator[slice]:
    """Slices of rows of at most `PART_BYTES`, and of one row at least."""
    step = max(1, PART_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def count(images: Any, clips: Any, features: Any) -> int:
    """Number of stimuli; 0 of what only tells when it is read."""
    given = next((value for value in (images, clips, features) if value is not None), ())
    if isinstance(given, Mapping):
        given = next(iter(given.values()), ())
    if isinstance(given, str | PathLike | PILImage.Image):
        return 1
    return len(given) if hasattr(given, "__len__") else 0


def _several(given: Any, ndim: int) -> Iterable[Any]:
    alone = isinstance(given, str | PathLike | PILImage.Image) or (isinstance(given, np.ndarray) and given.ndim == ndim)
    return [given] if alone else given


def _parts(messages: Iterator[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    size = 0
    for message in messages:
        if part and (len(part) == PART_STIMULI or size + message.ByteSize() > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(message)
        size += message.ByteSize()
    if part:
        yield part


def _picture(image: Picture, number: int) -> media_pb2.Image:
    if isinstance(image, str | PathLike):
        return media_pb2.Image(encoded=_content(Path(image)))
    if isinstance(image, PILImage.Image):
        # Transparency and grey are the server's to read, as it reads those of files.
        if image.mode in _WRITABLE:
            return media_pb2.Image(encoded=_saved(image, "PNG", compress_level=1))
        image = np.asarray(image.convert("RGB"))
    pixels = _pixels(image, f"images[{number}]", 3)
    large = pixels.nbytes > PART_BYTES
    return write_image(pixels, media_pb2.IMAGE_FORMAT_PNG if large else media_pb2.IMAGE_FORMAT_PIXELS)


def _film(clip: np.ndarray | str | PathLike[str], number: int) -> media_pb2.Clip:
    if isinstance(clip, str | PathLike):
        return media_pb2.Clip(encoded=_content(Path(clip)))
    frames = _pixels(clip, f"clips[{number}]", 4)
    if frames.nbytes <= PART_BYTES:
        return media_pb2.Clip(frames=to_tensor(frames))
    first, *rest = [PILImage.fromarray(frame) for frame in frames]
    # The one format without loss that keeps frames that are alike.
    return media_pb2.Clip(encoded=_saved(first, "TIFF", save_all=True, append_images=rest, compression="tiff_deflate"))


def _pixels(given: Any, where: str, ndim: int) -> np.ndarray:
    pixels = np.asarray(given)
    if pixels.ndim != ndim or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        axes = "(height, width, 3)" if ndim == 3 else "(time, height, width, 3)"
        raise ShapeError(f"{pixels.dtype} of shape {pixels.shape}", where=where, remedy=f"Give uint8 {axes}")
    return pixels


def _saved(image: PILImage.Image, format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"cannot be read ({error.strerror})", where=path) from error


def _feature_parts(features: Any, most_rows: int) -> Iterator[encoding_pb2.FeatureRows]:
    spaces = features if isinstance(features, Mapping) else {"": features}
    lengths = {len(space) for space in spaces.values()}
    if len(lengths) != 1:
        raise ShapeError("feature spaces of several lengths, or none", where="features", remedy="Give a row a stimulus")
    fingerprints = [space.fingerprint() if hasattr(space, "fingerprint") else "" for space in spaces.values()]
    each = sum(_feature_rows(space, slice(0, 1), name).nbytes for name, space in spaces.items())
    step = max(1, min(most_rows, PART_BYTES // max(1, each)))
    for start in range(0, lengths.pop(), step):
        values = {name: _feature_rows(space, slice(start, start + step), name) for name, space in spaces.items()}
        tensors = [tensor_pb2.NamedTensor(name=name, tensor=to_tensor(v)) for name, v in values.items()]
        yield encoding_pb2.FeatureRows(spaces=tensors, fingerprints=fingerprints)


def _feature_rows(space: Any, rows: slice, name: str) -> np.ndarray:
    """Rows of an array, or of `encoders.Features`, which reads them from the disk."""
    values = np.asarray(space.read(rows) if hasattr(space, "read") else space[rows], np.float32)
    if values.ndim not in (2, 3):
        where = f"features {name}" if name else "features"
        raise ShapeError(f"shape {values.shape}", where=where, remedy="Give (stimulus, ...)")
    return values
