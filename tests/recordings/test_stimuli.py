"""`Stimuli`: laziness, ids, hashes, and pictures that cannot or must not be decoded."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from recordings import InputError, Stimuli
from recordings.errors import (
    CorruptImageError,
    DuplicateIdError,
    FormatError,
    ImageTooLargeError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    pixels = {f"{c}/{i}": rng.integers(0, 256, (6, 8, 3), dtype=np.uint8) for c in ("cat", "dog") for i in range(2)}
    for name, image in pixels.items():
        path = tmp_path / "set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "set", pixels


def test_a_folder_is_read_only_when_asked(folder):
    path, pixels = folder
    stimuli = Stimuli.from_folder(path)
    assert stimuli.ids == list(pixels)
    (path / "dog" / "1.png").unlink()
    np.testing.assert_array_equal(stimuli.load(2), pixels["dog/0"])
    with pytest.raises(CorruptImageError, match=r"dog/1\.png"):
        stimuli.load(3)


def test_selection(folder):
    stimuli = Stimuli.from_folder(folder[0])
    assert stimuli.select(["dog/1", "cat/0"]).ids == ["dog/1", "cat/0"]
    assert stimuli.take([True, False, False, True]).ids == ["cat/0", "dog/1"]
    with pytest.raises(UnknownNameError, match="no stimulus 'bird' among 4"):
        stimuli.select(["cat/0", "bird"])
    table = stimuli.table.assign(category=["cat", "cat", "dog", "dog"])
    assert Stimuli(table, stimuli.source).where(category="dog").ids == ["dog/0", "dog/1"]


def test_ids_are_unique_text(rng):
    images = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    with pytest.raises(DuplicateIdError, match="'a' occurs twice"):
        Stimuli.from_arrays(images, ["a", "b", "a"])
    assert Stimuli(pd.DataFrame({"stimulus_id": [7, 8]})).ids == ["7", "8"]
    with pytest.raises(ShapeError, match="2 stimulus ids for 3 images"):
        Stimuli.from_arrays(images, ["a", "b"])
    with pytest.raises(ShapeError, match="float64"):
        Stimuli.from_arrays(images.astype(float))


def test_content_hash_is_of_the_content(rng):
    images = rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    images[2] = images[0]
    stimuli = Stimuli.from_arrays(images, list("abc"))
    hashes = [stimuli.content_hash(i) for i in range(3)]
    assert hashes[0] == hashes[2] != hashes[1]
    captions = Stimuli.from_captions({"a": "one", "b": "two"})
    assert captions.content_hash(0) != captions.content_hash(1)


@pytest.mark.parametrize("shape", [(3, 5, 4, 3), (2, 6, 5, 4, 3)])
def test_saved_pixels_come_back_exactly(rng, tmp_path, shape):
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels[0, 1] = pixels[0, 0]  # Equal frames stay two frames.
    saved = Stimuli.from_arrays(pixels, [f"x/{i}" for i in range(len(pixels))], category="c").save(tmp_path / "s")
    np.testing.assert_array_equal(np.stack(list(saved)), pixels)
    assert saved.ids[1] == "x/1" and set(saved.table["category"]) == {"c"}
    again = Stimuli.from_folder(tmp_path / "s")
    np.testing.assert_array_equal(again.load(1), pixels[1])


def test_png_files_are_saved_as_they_are_and_broken_ones_are_not(folder, tmp_path):
    root, _ = folder
    stimuli = Stimuli.from_folder(root)
    saved = stimuli.save(tmp_path / "s")
    assert [saved.content_hash(i) for i in range(4)] == [stimuli.content_hash(i) for i in range(4)]
    first = root / stimuli.table["path"][0]
    first.write_bytes(first.read_bytes()[:-30])
    with pytest.raises(CorruptImageError):
        stimuli.save(tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_hdf5_rows(tmp_path, rng):
    bricks = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["imgBrick"] = bricks
    stimuli = Stimuli.from_hdf5(tmp_path / "s.hdf5")
    np.testing.assert_array_equal(stimuli.select(["3"]).load(0), bricks[3])
    with pytest.raises(FormatError, match=r"s.hdf5: no dataset 'images'.*imgBrick"):
        Stimuli.from_hdf5(tmp_path / "s.hdf5", "images")
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "s.hdf5").read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"cut.hdf5: not a readable HDF5 file"):
        Stimuli.from_hdf5(tmp_path / "cut.hdf5")


def test_a_damaged_hdf5_row_names_file_and_row(tmp_path, rng):
    path = tmp_path / "s.hdf5"
    with h5py.File(path, "w") as file:
        data = rng.integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)
        file.create_dataset("imgBrick", data=data, chunks=(1, 9, 9, 3), compression="gzip", fletcher32=True)
        place = file["imgBrick"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 20] ^= 0xFF
    path.write_bytes(bytes(content))
    stimuli = Stimuli.from_hdf5(path)
    np.testing.assert_array_equal(stimuli.load(1), data[1])
    with pytest.raises(TruncatedFileError, match=r"s.hdf5: row 2 of 'imgBrick' cannot be read"):
        stimuli.load(2)


def test_tables_of_files(folder, tmp_path):
    path, pixels = folder
    (path / "stimuli.csv").write_text("stimulus_id,path,caption\n007,cat/0.png,a cat\n008,dog/1.png,a dog\n")
    stimuli = Stimuli.from_folder(path)
    assert stimuli.ids == ["007", "008"] and stimuli.captions == ["a cat", "a dog"]
    np.testing.assert_array_equal(stimuli.load(1), pixels["dog/1"])
    (path / "stimuli.csv").write_text("stimulus_id,path\n1,cat/9.png\n")
    with pytest.raises(FormatError, match=r"1 files of the table are missing, first 'cat/9.png'"):
        Stimuli.from_folder(path)


def test_captions_have_no_pixels():
    stimuli = Stimuli.from_captions({"a": "one"})
    with pytest.raises(InputError, match="is a caption and has no pixels"):
        stimuli.load(0)
    assert not stimuli.has_pixels


def test_folders_without_pictures(tmp_path):
    with pytest.raises(FormatError, match="not a folder"):
        Stimuli.from_folder(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="no image or clip in it"):
        Stimuli.from_folder(tmp_path)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_an_image_of_50000_pixels_a_side_is_refused_by_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )
    (tmp_path / "huge.png").write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(ImageTooLargeError, match=r"huge.png: 50000 x 50000 pixels x 1 frames"):
        Stimuli.from_folder(tmp_path).load(0)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("cut", [10, 300, 0])
def test_a_corrupt_jpeg(tmp_path, rng, cut):
    path = tmp_path / "x.jpg"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut] if cut else b"\xff\xd8 nothing of an image")
    if cut == 10:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptImageError, match=r"x.jpg: cannot be decoded.*Replace the file"):
        Stimuli.from_folder(tmp_path).load(0)


def test_transparency_is_grey_and_greyscale_is_repeated(tmp_path):
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((2, 2), 9, np.uint8)).save(tmp_path / "b.png")
    stimuli = Stimuli.from_folder(tmp_path)
    assert (stimuli.load(0) == 128).all() and (stimuli.load(1) == 9).all() and stimuli.load(1).shape == (2, 2, 3)


def test_videos(tmp_path):
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in (40, 120, 200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = Stimuli.from_folder(tmp_path).load(0)
    assert clip.shape == (3, 16, 32, 3)
    np.testing.assert_allclose(clip.mean((1, 2, 3)), [40, 120, 200], atol=6)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(CorruptImageError, match=r"clip\.mp4"):
        Stimuli.from_folder(tmp_path).load(0)
