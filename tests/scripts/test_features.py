"""``penfield features``: extraction by one command, killed and taken up again, and what it refuses."""

from __future__ import annotations

import os
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings import Stimuli


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "images"
    Stimuli.from_arrays(rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)).save(folder)
    return folder


def test_a_store_by_one_command(penfield: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "pixels.zarr"
    result = penfield("features", images, "--model", "baseline:pixels", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["layers"] == [{"layer": "output", "shape": [40, 3072]}]
    first = Stimuli.from_folder(images).load(0)
    np.testing.assert_allclose(Features.load(out).read([0])[0], first.transpose(2, 0, 1).ravel() / 255, atol=1e-6)


def test_options_reach_the_store(penfield: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "reduced.zarr"
    options = ("--reduce", "srp:16", "--store-dtype", "float16", "--batch-size", "7")
    result = penfield("features", images, "--model", "baseline:gabor", "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert Features.load(out).shape == (40, 16)


def test_layers_are_listed_without_an_output(penfield: Callable[..., Any], images: Path) -> None:
    result = penfield("features", images, "--model", "baseline:gabor", "--list-layers", "--json")
    assert [row["layer"] for row in result.json["layers"]] == ["output"]


def test_a_dry_run_estimates_and_writes_nothing(penfield: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "pixels.zarr"
    result = penfield("features", images, "--model", "baseline:pixels", "--out", out, "--dry-run", "--json")
    estimate = result.json["estimate"]
    assert 0 < estimate["seconds"] < 20 and estimate["memory_gb"] > 0.05 and not out.exists()
    penfield("features", images, "--model", "baseline:pixels", "--out", out)
    written = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e9
    assert estimate["disk_gb"] == pytest.approx(written, rel=0.2, abs=1e-4)


def test_the_output_is_asked_for(refused: Callable[..., str], images: Path) -> None:
    assert "--out" in refused("features", images, "--model", "baseline:pixels")


def test_missing_weights_name_the_command_that_fetches_them(
    refused: Callable[..., str], images: Path, tmp_path: Path
) -> None:
    line = refused("features", images, "--model", "timm:resnet18.a1_in1k", "--out", tmp_path / "x.zarr")
    assert "penfield models fetch timm:resnet18.a1_in1k" in line


def test_an_unknown_layer_is_refused(refused: Callable[..., str], images: Path, tmp_path: Path) -> None:
    line = refused("features", images, "--model", "baseline:gabor", "--layer", "outptu", "--out", tmp_path / "x.zarr")
    assert "output" in line


def test_a_corrupt_image_is_named(refused: Callable[..., str], images: Path, tmp_path: Path) -> None:
    broken = sorted(images.glob("*.png"))[3]
    broken.write_bytes(broken.read_bytes()[:60])
    out = tmp_path / "x.zarr"
    assert broken.name in refused("features", images, "--model", "baseline:pixels", "--out", out)
    assert not out.exists()


def test_an_image_too_large_to_decode_is_refused(refused: Callable[..., str], images: Path, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    huge = sorted(images.glob("*.png"))[0]
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    line = refused("features", images, "--model", "baseline:pixels", "--out", tmp_path / "x.zarr")
    assert huge.name in line and "50000 x 50000" in line


def test_an_empty_folder_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    assert "no image" in refused("features", tmp_path / "nothing", "--model", "baseline:pixels", "--out", "x.zarr")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    process: Callable[..., Any], tmp_path: Path, rng: np.random.Generator, number: int, code: int
) -> None:
    folder = tmp_path / "images"
    Stimuli.from_arrays(rng.integers(0, 255, (400, 224, 224, 3), dtype=np.uint8)).save(folder)
    command = ("features", folder, "--model", "baseline:gabor", "--batch-size", "2", "--out")
    run = process(*command, tmp_path / "a.zarr")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".a.zarr*/layers/*/c/1*")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(run.pid, number)
    run.communicate(timeout=60)
    assert run.returncode == code and not (tmp_path / "a.zarr").exists()
    for name in ("a.zarr", "b.zarr"):
        again = process(*command, tmp_path / name)
        _, stderr = again.communicate(timeout=120)
        assert again.returncode == 0, stderr
    np.testing.assert_array_equal(Features.load(tmp_path / "a.zarr").read(), Features.load(tmp_path / "b.zarr").read())
