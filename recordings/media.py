"""Pixels in and out: images and clips as uint8 RGB arrays, with limits checked before anything is decoded."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from .errors import CorruptImageError, FormatError, ImageTooLargeError, TruncatedFileError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
MAX_PIXELS = 100_000_000
_SEVERAL_FRAMES = ("GIF", "WEBP", "TIFF")

# Penfield checks the header itself, with an error that names the file.
Image.MAX_IMAGE_PIXELS = None


def read(path: str | PathLike[str]) -> np.ndarray:
    """An image (H, W, 3) or clip (T, H, W, 3) as uint8 RGB.

    Transparent pixels are shown on mid-grey; greyscale is repeated over channels.

    Raises
    ------
    ImageTooLargeError : more than `MAX_PIXELS` over all frames, by the header.
    CorruptImageError : the file cannot be decoded.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _read_video(path)
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1) if image.format in _SEVERAL_FRAMES else 1
            _check_size(path, image.width, image.height, frames)
            if frames == 1:
                return _rgb(image)
            return np.stack([_rgb(frame) for frame in ImageSequence.Iterator(image)])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageTooLargeError):
            raise
        raise CorruptImageError(
            f"cannot be decoded ({error})",
            where=path,
            remedy="Replace the file or leave it out of the stimuli",
        ) from error


def write(path: str | PathLike[str], pixels: np.ndarray) -> None:
    """Write an image (H, W, 3) as PNG or a clip (T, H, W, 3) as TIFF with one page a frame, uint8, without loss."""
    if pixels.ndim == 3:
        Image.fromarray(pixels).save(path, "PNG")
        return
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    # Animated WebP, PNG and GIF merge frames that are equal, and so change the number of frames of a still scene.
    first.save(path, "TIFF", save_all=True, append_images=rest, compression="tiff_deflate")


def _check_size(path: Path, width: int, height: int, frames: int) -> None:
    if width * height * frames > MAX_PIXELS:
        raise ImageTooLargeError(
            f"{width} x {height} pixels x {frames} frames, more than the limit of {MAX_PIXELS:,} pixels",
            where=path,
            remedy="Scale it down first",
        )


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        grey = Image.new("RGBA", image.size, (128, 128, 128, 255))
        image = Image.alpha_composite(grey, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _read_video(path: Path) -> np.ndarray:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            _check_size(path, stream.width, stream.height, max(stream.frames, 1))
            frames = []
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                # A container may not say how many frames it has.
                _check_size(path, stream.width, stream.height, len(frames))
    except (av.FFmpegError, IndexError) as error:
        raise CorruptImageError(f"cannot be decoded ({error})", where=path) from error
    if not frames:
        raise CorruptImageError("holds no frame", where=path)
    return np.stack(frames)


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
