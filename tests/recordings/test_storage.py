"""Nothing stands under its final name before it is whole; a full disk is told and leaves nothing."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recordings import InputError, Stimuli, write_recording
from recordings.artifacts import save_artifact
from recordings.errors import DiskFullError
from recordings.storage import atomic_path


def test_files_and_folders_appear_when_whole(tmp_path):
    with atomic_path(tmp_path / "deep" / "a.txt") as part:
        part.write_text("half")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "half"
    with atomic_path(tmp_path / "folder") as part:
        part.mkdir()
        (part / "x").write_text("1")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["x"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, folder):
    target = tmp_path / "t"
    if folder:
        target.mkdir()
        (target / "old").write_text("old")
    else:
        target.write_text("old")
    with pytest.raises(KeyError), atomic_path(target, overwrite=True) as part:
        part.mkdir() if folder else part.write_text("new")
        raise KeyError
    assert (target / "old" if folder else target).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_overwriting_must_be_asked_for(tmp_path):
    (tmp_path / "t").mkdir()
    with pytest.raises(InputError, match="t: exists already"), atomic_path(tmp_path / "t"):
        raise AssertionError("entered")
    with atomic_path(tmp_path / "t", overwrite=True) as part:
        part.mkdir()
        (part / "new").write_text("1")
    assert [p.name for p in tmp_path.rglob("*")] == ["t", "new"]


def test_no_space_becomes_a_typed_error_and_other_errors_stay(tmp_path):
    with pytest.raises(DiskFullError, match="no space left on the disk"), atomic_path(tmp_path / "t") as part:
        part.write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), atomic_path(tmp_path / "t"):
        raise PermissionError
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here ({mounted.stderr.strip()})")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_recording_on_a_full_disk(small_disk, rng):
    tables = {"stimulus_id": [f"s{i}" for i in range(2048)]}, {"neuroid_id": [f"n{i}" for i in range(1000)]}
    blocks = (rng.normal(size=(512, 1000)) for _ in range(4))
    with pytest.raises(DiskFullError, match=r"r.zarr: no space left.*Free some space"):
        write_recording(small_disk / "r.zarr", blocks, *tables)
    assert not list(small_disk.iterdir())
    small = {"stimulus_id": ["a"]}, {"neuroid_id": ["n"]}
    assert len(write_recording(small_disk / "r.zarr", [np.ones((1, 1))], *small)) == 1


def test_stimuli_on_a_full_disk(small_disk, rng):
    images = rng.integers(0, 256, (8, 400, 400, 3), dtype=np.uint8)
    with pytest.raises(DiskFullError, match="s: no space left"):
        Stimuli.from_arrays(images).save(small_disk / "s")
    assert not list(small_disk.iterdir())


def test_model_weights_on_a_full_disk(small_disk):
    with pytest.raises(DiskFullError, match="m: no space left"), atomic_path(small_disk / "m") as part:
        save_artifact(part, "Model", {}, {"weights": np.zeros((1024, 1024), np.float32)})
    assert not list(small_disk.iterdir())


def test_a_full_disk_inside_a_nested_temporary_is_told_by_the_final_name(tmp_path):
    with (
        pytest.raises(DiskFullError, match="t: no space left") as error,
        atomic_path(tmp_path / "t") as part,
        atomic_path(part),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.where == str(tmp_path / "t")
