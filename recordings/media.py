"""Pixels in and out: images and clips as uint8 RGB arrays, with limits checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
from PIL import Image, ImageSequence

from .errors import CorruptImageError, FormatError, ImageTooLargeError, TruncatedFileError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_SEVERAL_FRAMES = ("GIF", "WEBP", "TIFF")

# Penfield checks the header itself, with an error that names the file.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Limits:
    """How large a picture or clip may be; more is refused by the header, before it is decoded.

    Parameters
    ----------
    max_pixels : pixels of a picture, or of one frame of a clip.
    max_frames : frames of a clip.
    max_bytes : bytes of a picture or of a whole clip once it is decoded, three a pixel.
    """

    max_pixels: int = 4096**2
    max_frames: int = 512
    max_bytes: int = 256 * 2**20

    def check(self, width: int, height: int, frames: int, where: str | PathLike[str]) -> None:
        """Raise an ImageTooLargeError if `frames` frames of this size are more."""
        pixels = width * height
        if pixels > self.max_pixels or frames > self.max_frames or 3 * pixels * frames > self.max_bytes:
            raise ImageTooLargeError(
                f"{width} x {height} pixels x {frames} frames, more than the limits of {self.max_pixels:,} pixels a "
                f"frame, {self.max_frames:,} frames and {self.max_bytes:,} bytes in all",
                where=where,
                remedy="Scale it down or cut it first",
            )


# Of files that the user chose; the defaults are for what strangers send.
FILE_LIMITS = Limits(max_pixels=100_000_000, max_frames=100_000, max_bytes=300_000_000)


def read(path: str | PathLike[str]) -> np.ndarray:
    """An image (H, W, 3) or clip (T, H, W, 3) as uint8 RGB.

    Transparent pixels are shown on mid-grey; greyscale is repeated over channels.

    Raises
    ------
    ImageTooLargeError : more than `FILE_LIMITS`, by the header.
    CorruptImageError : the file cannot be decoded.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_video(path, where=path)
    frames = read_picture(path, where=path)
    return frames[0] if len(frames) == 1 else frames


def read_picture(
    source: Path | BinaryIO,
    *,
    where: str | PathLike[str],
    formats: tuple[str, ...] | None = None,
    limits: Limits = FILE_LIMITS,
) -> np.ndarray:
    """The frames of an image file as (T, H, W, 3) uint8; a still image has one.

    Parameters
    ----------
    source : the file, or its content.
    where : how errors call it.
    formats : Pillow's names of the formats that may be tried; by default all.

    Raises
    ------
    ImageTooLargeError, CorruptImageError : as `read`.
    """
    try:
        with Image.open(source, formats=formats) as image:
            count = getattr(image, "n_frames", 1) if image.format in _SEVERAL_FRAMES else 1
            limits.check(image.width, image.height, count, where)
            if count == 1:
                return _rgb(image)[None]
            return np.stack(list(_frames(image, where, count, limits)))
    except (ImageTooLargeError, MemoryError):
        raise
    # Parsers raise whatever a broken field happens to break, KeyError and TypeError included.
    except Exception as error:
        raise CorruptImageError(
            f"cannot be decoded ({error})",
            where=where,
            remedy="Replace the file or leave it out of the stimuli",
        ) from error


def read_video(
    source: Path | BinaryIO,
    *,
    where: str | PathLike[str],
    format: str | None = None,
    limits: Limits = FILE_LIMITS,
) -> np.ndarray:
    """A film as (T, H, W, 3) uint8; arguments and errors as of `read_picture`, `format` by FFmpeg's name."""
    import av

    try:
        with av.open(source if hasattr(source, "read") else str(source), "r", format) as container:
            stream = container.streams.video[0]
            limits.check(stream.width, stream.height, max(stream.frames, 1), where)
            # The size may grow on the way: the codec refuses it before it takes the memory.
            stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
            frames: list[np.ndarray] = []
            for frame in container.decode(stream):
                # A container may not say how many frames it has.
                limits.check(frame.width, frame.height, len(frames) + 1, where)
                frames.append(frame.to_ndarray(format="rgb24"))
        if not frames:
            raise CorruptImageError("holds no frame", where=where)
        return np.stack(frames)
    except (CorruptImageError, ImageTooLargeError, MemoryError):
        raise
    except Exception as error:
        raise CorruptImageError(f"cannot be decoded ({error})", where=where) from error


def write(path: str | PathLike[str], pixels: np.ndarray) -> None:
    """Write an image (H, W, 3) as PNG or a clip (T, H, W, 3) as TIFF with one page a frame, uint8, without loss."""
    if pixels.ndim == 3:
        Image.fromarray(pixels).save(path, "PNG")
        return
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    # Animated WebP, PNG and GIF merge frames that are equal, and so change the number of frames of a still scene.
    first.save(path, "TIFF", save_all=True, append_images=rest, compression="tiff_deflate")


def _frames(image: Image.Image, where: str | PathLike[str], count: int, limits: Limits) -> Iterator[np.ndarray]:
    for frame in ImageSequence.Iterator(image):
        # Pages of a TIFF have sizes of their own.
        limits.check(frame.width, frame.height, count, where)
        yield _rgb(frame)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
        image = Image.alpha_composite(grey, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


class Hdf5Rows:
    """Rows of an HDF5 dataset, read one at a time; the file is opened on first use, so that it travels to workers."""

    def __init__(self, path: Path, dataset: str):
        self.path, self.dataset = path, dataset
        self._rows: h5py.Dataset | None = None
        try:
            with h5py.File(path, "r") as file:
                if dataset not in file:
                    raise FormatError(f"no dataset {dataset!r}", where=path, remedy=f"There are: {', '.join(file)}")
                self.shape = tuple(file[dataset].shape)
        except OSError as error:
            raise FormatError(f"not a readable HDF5 file ({error})", where=path) from error

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        if self._rows is None:
            self._rows = h5py.File(self.path, "r")[self.dataset]
        try:
            return self._rows[index]
        except OSError as error:
            raise TruncatedFileError(
                f"row {index} of {self.dataset!r} cannot be read ({error})",
                where=self.path,
                remedy="Copy or download it again",
            ) from error

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_rows": None}
