"""``penfield import``: flags made from the readers' options, and bad input refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from recordings import Recording
from recordings.readers import READERS


@pytest.fixture
def bold(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two runs of ten volumes with a face block and a house block each."""
    volumes = rng.standard_normal((4, 4, 2, 20)).astype(np.float32)
    nibabel.Nifti1Image(volumes, np.eye(4)).to_filename(tmp_path / "bold.nii.gz")
    nibabel.Nifti1Image(np.ones((4, 4, 2), np.uint8), np.eye(4)).to_filename(tmp_path / "mask.nii.gz")
    labels = ["rest", "rest", "face", "face", "face", "rest", "house", "house", "house", "rest"]
    lines = [f"{label} {run}" for run in (0, 1) for label in labels]
    (tmp_path / "attributes_literal.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "bold.nii.gz"


def write_csv(path: Path, values: np.ndarray, ids: list[str] | None = None) -> Path:
    table = pd.DataFrame(values, columns=[f"v{i}" for i in range(values.shape[1])])
    table.insert(0, "stimulus_id", ids or [f"s{i}" for i in range(len(values))])
    table.to_csv(path, index=False)
    return path


def test_block_means_with_flags_of_the_reader(penfield: Callable[..., Any], bold: Path, tmp_path: Path) -> None:
    out = tmp_path / "blocks.zarr"
    rois = tmp_path / "half.nii.gz"
    nibabel.Nifti1Image((np.arange(32).reshape(4, 4, 2) < 16).astype(np.uint8), np.eye(4)).to_filename(rois)
    options = ("--unit", "block", "--detrend", "--rois", f"half={rois}", "--exclude", "rest")
    result = penfield("import", "nifti", bold, "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["shape"] == {"presentation": 4, "neuroid": 32}
    assert result.json["rois"] == {"half": 16}
    recording = Recording.load(out)
    assert sorted(recording.presentation("category")) == ["face", "face", "house", "house"]


@pytest.mark.parametrize("name", list(READERS))
def test_every_format_says_what_its_flags_do(penfield: Callable[..., Any], name: str) -> None:
    result = penfield("import", name, "--help")
    assert result.exit_code == 0
    for option, field in READERS[name].options.model_fields.items():
        assert f"--{option.replace('_', '-')}" in result.stdout
        assert field.description
    never = "never on the real ones" in " ".join(result.stdout.split())
    assert never is not READERS[name].tried_on_real_files


def test_an_unknown_format_lists_those_there_are(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "nifti" in refused("import", "dicom", tmp_path, "--out", tmp_path / "x.zarr")


def test_what_exists_is_not_overwritten_unasked(
    penfield: Callable[..., Any], refused: Callable[..., str], tmp_path: Path, rng: np.random.Generator
) -> None:
    source = write_csv(tmp_path / "responses.csv", rng.standard_normal((5, 3)))
    command = ("import", "csv", source, "--out", tmp_path / "out.zarr")
    assert penfield(*command).exit_code == 0
    assert str(tmp_path / "out.zarr") in refused(*command)
    assert penfield(*command, "--overwrite").exit_code == 0


def broken_nifti(folder: Path, bold: Path) -> tuple[Any, ...]:
    bold.write_bytes(bold.read_bytes()[:-200])
    return ("nifti", bold)


def nan_voxel(folder: Path, bold: Path) -> tuple[Any, ...]:
    values = np.ones((5, 3))
    values[2, 1] = np.nan
    return ("csv", write_csv(folder / "bold.csv", values))


def duplicate_neuroids(folder: Path, bold: Path) -> tuple[Any, ...]:
    (folder / "bold.csv").write_text("stimulus_id,v0,v0\na,1,2\nb,3,4\n")
    return ("csv", folder / "bold.csv")


def truncated_hdf5(folder: Path, bold: Path) -> tuple[Any, ...]:
    import h5py

    path = folder / "bold.h5"
    with h5py.File(path, "w") as file:
        file["dataset"] = np.zeros((100, 100))
    path.write_bytes(path.read_bytes()[:2000])
    return ("bdpy", path)


def too_few_labels(folder: Path, bold: Path) -> tuple[Any, ...]:
    (folder / "attributes_literal.txt").write_text("face 0\n")
    return ("nifti", bold)


def truncated_npy(folder: Path, bold: Path) -> tuple[Any, ...]:
    np.save(folder / "bold.npy", np.zeros((50, 50)))
    (folder / "bold.npy").write_bytes((folder / "bold.npy").read_bytes()[:500])
    return ("npy", folder / "bold.npy")


def absent(folder: Path, bold: Path) -> tuple[Any, ...]:
    return ("nifti", folder / "bold-absent.nii.gz")


@pytest.mark.parametrize(
    "make", [broken_nifti, nan_voxel, duplicate_neuroids, truncated_hdf5, too_few_labels, truncated_npy, absent]
)
def test_bad_input_is_one_line_and_leaves_nothing(
    refused: Callable[..., str], bold: Path, tmp_path: Path, make: Callable[[Path, Path], tuple[Any, ...]]
) -> None:
    format, source = make(tmp_path, bold)
    before = sorted(tmp_path.iterdir())
    line = refused("import", format, source, "--out", tmp_path / "out.zarr")
    assert "bold" in line or "attributes" in line, line
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def algonauts(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A subject with six images, nine vertices left and eight right."""
    folder = tmp_path / "subj01"
    images, fmri = (folder / "training_split" / name for name in ("training_images", "training_fmri"))
    for made in (images, fmri, folder / "roi_masks"):
        made.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(images / f"train-{number}.png")
    np.save(folder / "roi_masks" / "mapping_prf-visualrois.npy", np.array({0: "Unknown", 1: "V1v"}, object))
    for side, n in (("lh", 9), ("rh", 8)):
        np.save(fmri / f"{side}_training_fmri.npy", rng.standard_normal((6, n)).astype(np.float32))
        np.save(folder / "roi_masks" / f"{side}.prf-visualrois_challenge_space.npy", np.ones(n, int))
    return folder


def test_a_picture_that_cannot_be_read_leaves_no_recording_without_pictures(
    refused: Callable[..., str], penfield: Callable[..., Any], algonauts: Path, tmp_path: Path
) -> None:
    picture = algonauts / "training_split" / "training_images" / "train-3.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    before = sorted(tmp_path.iterdir())
    command = ("import", "algonauts2023", algonauts, "--out", tmp_path / "out.zarr", "--json")
    assert picture.name in refused(*command)
    assert sorted(tmp_path.iterdir()) == before
    picture.write_bytes(whole)
    assert penfield(*command).json["stimuli"] == str(tmp_path / "out-stimuli")


def test_a_hemisphere_of_another_length_names_its_file(
    refused: Callable[..., str], algonauts: Path, tmp_path: Path
) -> None:
    path = algonauts / "training_split" / "training_fmri" / "rh_training_fmri.npy"
    np.save(path, np.load(path)[:5])
    line = refused("import", "algonauts2023", algonauts, "--out", tmp_path / "out.zarr")
    assert f"{path}: 5 responses to 6 images. " in line


def test_a_full_disk_names_the_output_and_leaves_nothing(
    refused: Callable[..., str], small_disk: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    np.save(tmp_path / "big.npy", rng.standard_normal((500, 1000)).astype(np.float32))
    line = refused("import", "npy", tmp_path / "big.npy", "--out", small_disk / "out.zarr")
    assert f"{small_disk / 'out.zarr'}: no space left" in line
    assert not list(small_disk.iterdir())
