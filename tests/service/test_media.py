"""Pictures and clips on the wire: what is read is what was sent, and what is too large is never decoded."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from recordings.errors import CorruptImageError, ImageTooLargeError, InputError, ShapeError
from service.generated.penfield.v1 import media_pb2
from service.media import Limits, read_clip, read_image, write_image
from service.tensors import to_tensor

LIMITS = Limits()


def encoded(pixels: np.ndarray, format: str, **options: object) -> bytes:
    first, *rest = [Image.fromarray(frame) for frame in (pixels if pixels.ndim == 4 else [pixels])]
    content = io.BytesIO()
    first.save(content, format, **({"save_all": True, "append_images": rest} if rest else {}), **options)
    return content.getvalue()


def film(width: int, height: int, frames: int) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), 40 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nearly nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (5, 7, 3), np.uint8)


@pytest.fixture
def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (4, 5, 7, 3), np.uint8)


@pytest.mark.parametrize("format", ["IMAGE_FORMAT_UNSPECIFIED", "IMAGE_FORMAT_PNG", "IMAGE_FORMAT_PIXELS"])
def test_picture_comes_back_bit_for_bit(pixels: np.ndarray, format: str) -> None:
    image = write_image(pixels, media_pb2.ImageFormat.Value(format))
    np.testing.assert_array_equal(read_image(image, LIMITS), pixels)


def test_preview_is_a_jpeg_near_the_pixels() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    image = write_image(ramp, media_pb2.IMAGE_FORMAT_JPEG)
    assert image.media_type == "image/jpeg"
    assert image.encoded.startswith(b"\xff\xd8")
    assert np.abs(read_image(image, LIMITS).astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("format", [-1, 4, 99])
def test_unknown_format_is_refused(pixels: np.ndarray, format: int) -> None:
    with pytest.raises(InputError, match="no image format"):
        write_image(pixels, format)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_files_without_loss_are_read_bit_for_bit(pixels: np.ndarray, format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    content = encoded(pixels, format, **options)
    np.testing.assert_array_equal(read_image(media_pb2.Image(encoded=content), LIMITS), pixels)


def test_media_type_that_lies_changes_nothing(pixels: np.ndarray) -> None:
    image = media_pb2.Image(encoded=encoded(pixels, "PNG"), media_type="image/jpeg")
    np.testing.assert_array_equal(read_image(image, LIMITS), pixels)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n", png_header(20, 20)[:-30]])
def test_what_is_no_picture_is_named(content: bytes) -> None:
    with pytest.raises(CorruptImageError, match="cannot be decoded") as caught:
        read_image(media_pb2.Image(encoded=content), LIMITS, name="images[3]")
    assert caught.value.where == "images[3]"


@pytest.mark.parametrize("format", ["PPM", "GIF", "EPS", "PDF", "PCX"])
def test_formats_that_no_stranger_should_reach_are_refused(pixels: np.ndarray, format: str) -> None:
    image = Image.fromarray(pixels).resize((32, 32))
    content = io.BytesIO()
    image.save(content, format)
    with pytest.raises(CorruptImageError):
        read_image(media_pb2.Image(encoded=content.getvalue()), LIMITS)


def test_bomb_is_refused_from_its_header() -> None:
    tracemalloc.start()
    with pytest.raises(ImageTooLargeError, match="50000 x 50000"):
        read_image(media_pb2.Image(encoded=png_header(50_000, 50_000)), LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


def test_later_page_that_is_a_bomb_is_refused_too() -> None:
    small, large = Image.new("1", (2, 2)), Image.new("1", (3000, 3000))
    content = io.BytesIO()
    small.save(content, "TIFF", save_all=True, append_images=[large], compression="group4")
    assert len(content.getvalue()) < 10_000
    with pytest.raises(ImageTooLargeError, match="3000 x 3000"):
        read_clip(media_pb2.Clip(encoded=content.getvalue()), Limits(max_pixels=2000**2))


def test_pixels_are_held_to_the_same_limits(frames: np.ndarray) -> None:
    image = media_pb2.Image(pixels=to_tensor(frames[0]))
    with pytest.raises(ImageTooLargeError, match="7 x 5 pixels"):
        read_image(image, Limits(max_pixels=34))
    assert read_image(image, Limits(max_pixels=35)).shape == (5, 7, 3)
    clip = media_pb2.Clip(frames=to_tensor(frames))
    with pytest.raises(ImageTooLargeError, match="4 frames"):
        read_clip(clip, Limits(max_frames=3))
    with pytest.raises(ImageTooLargeError, match="bytes in all"):
        read_clip(clip, Limits(max_bytes=frames.nbytes - 1))
    np.testing.assert_array_equal(read_clip(clip, Limits(max_frames=4, max_bytes=frames.nbytes)), frames)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 4), (0, 7, 3), (1, 5, 7, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        read_image(media_pb2.Image(pixels=to_tensor(np.zeros(shape, np.uint8))), LIMITS)


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(ShapeError, match="Send uint8"):
        read_image(media_pb2.Image(pixels=to_tensor(np.zeros((5, 7, 3), np.float32))), LIMITS)


def test_empty_messages_say_what_is_missing() -> None:
    with pytest.raises(InputError, match="image: holds neither"):
        read_image(media_pb2.Image(), LIMITS)
    with pytest.raises(InputError, match="clip: holds neither"):
        read_clip(media_pb2.Clip(), LIMITS)


@pytest.mark.parametrize(("format", "options"), [("TIFF", {}), ("WEBP", {"lossless": True})])
def test_clip_in_a_file_is_read_frame_by_frame(frames: np.ndarray, format: str, options: dict[str, object]) -> None:
    content = encoded(frames, format, **options)
    np.testing.assert_array_equal(read_clip(media_pb2.Clip(encoded=content), LIMITS), frames)
    with pytest.raises(ImageTooLargeError, match="4 frames"):
        read_clip(media_pb2.Clip(encoded=content), Limits(max_frames=3))


def test_picture_as_a_clip_has_one_frame_and_a_clip_is_no_picture(pixels: np.ndarray, frames: np.ndarray) -> None:
    assert read_clip(media_pb2.Clip(encoded=encoded(pixels, "TIFF")), LIMITS).shape == (1, 5, 7, 3)
    with pytest.raises(ShapeError, match="Send it as a clip"):
        read_image(media_pb2.Image(encoded=encoded(frames, "TIFF")), LIMITS)


def test_film_is_read_within_the_limits() -> None:
    content = film(64, 48, 6)
    read = read_clip(media_pb2.Clip(encoded=content), LIMITS)
    assert read.shape == (6, 48, 64, 3)
    np.testing.assert_allclose(read.mean((1, 2, 3)), 40 * np.arange(6), atol=6)
    for limits in (Limits(max_frames=5), Limits(max_pixels=64 * 48 - 1), Limits(max_bytes=read.nbytes - 1)):
        with pytest.raises(ImageTooLargeError):
            read_clip(media_pb2.Clip(encoded=content), limits)


def test_film_that_ends_early_or_lies_is_named() -> None:
    content = film(64, 48, 6)
    for broken in (content[:40], content[:8] + bytes(200)):
        with pytest.raises(CorruptImageError, match=r"clips\[1\]"):
            read_clip(media_pb2.Clip(encoded=broken), LIMITS, name="clips[1]")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "MP4"])
def test_damaged_file_is_read_or_refused(kind: str, frames: np.ndarray) -> None:
    clip = kind in ("GIF", "MP4")
    content = film(64, 48, 3) if kind == "MP4" else encoded(frames if clip else frames[0], kind)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, min(len(damaged), rng.choice([60, 400])), rng.integers(1, 8))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            if clip:
                read_clip(media_pb2.Clip(encoded=damaged.tobytes()), Limits(max_pixels=2**16, max_frames=32))
            else:
                read_image(media_pb2.Image(encoded=damaged.tobytes()), Limits(max_pixels=2**16))
        except InputError:
            refused += 1
    assert refused
