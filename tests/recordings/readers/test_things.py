"""THINGS-fMRI tables written by hand, HDF5 as PyTables lays a pandas frame out: missing trials, shuffled voxels."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from recordings.errors import DuplicateIdError, FormatError, MismatchedIdsError, ShapeError, UnknownNameError
from recordings.readers import import_recording

VOXELS, TRIALS = 8, 20


def write_frame(path: Path, values: np.ndarray, voxel_ids: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("ResponseData")
        # Column names are a pickle in the real file; the reader must not look at it.
        names = group.create_dataset("axis0", (1,), dtype=h5py.vlen_dtype(np.uint8))
        names[0] = np.frombuffer(b"cposix\nsystem\n(S'false'\ntR.", np.uint8)
        group["axis1"] = np.arange(len(voxel_ids))
        group["block0_items"] = np.arange(values.shape[1])
        group["block0_values"] = values
        group["block1_values"] = voxel_ids[:, None].astype(np.int64)


@pytest.fixture
def things(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, np.ndarray]:
    root = tmp_path / "betas_csv"
    root.mkdir()
    values = rng.normal(size=(VOXELS, TRIALS))
    order = rng.permutation(VOXELS)
    write_frame(root / "sub-01_ResponseData.h5", values[order], order)
    trials = np.array([t for t in range(TRIALS) if t not in (4, 11)][::-1])
    shown = [f"aardvark_{t % 6:02d}s.jpg" for t in trials]
    pd.DataFrame(
        {
            "trial_type": np.where(trials % 6 < 2, "test", "train"),
            "session": trials // 10 + 1,
            "run": trials % 10 // 5 + 1,
            "subject_id": 1,
            "trial_id": trials,
            "stimulus": shown,
            "concept": "aardvark",
        }
    ).to_csv(root / "sub-01_StimulusMetadata.csv", index=False)
    voxels = pd.DataFrame({"voxel_id": np.arange(VOXELS), "subject_id": 1})
    voxels[["voxel_x", "voxel_y", "voxel_z"]] = np.argwhere(np.ones((2, 2, 2)))
    voxels["nc_singletrial"], voxels["nc_testset"] = 10.0, np.arange(VOXELS) * 10.0
    voxels["prf-eccentricity"] = 1.0
    voxels["V1"] = [1, 1, 1, 0, 0, 0, 0, 0]
    voxels["lFFA"] = [0, 0, 1, 1, 0, 0, 0, 0]
    voxels["glasser-TE1m"] = 0
    voxels.to_csv(root / "sub-01_VoxelMetadata.csv", index=False)
    return tmp_path, values, trials


def test_trials_are_found_by_number_and_voxels_by_id(things, tmp_path):
    root, values, trials = things
    recording = import_recording("things", root, tmp_path / "r.zarr").recording
    np.testing.assert_allclose(recording.values, values[:, trials].T, rtol=1e-6)
    assert recording.stimulus_ids[0] == "aardvark_01s" and recording.presentation("category")[0] == "aardvark"
    assert len(recording) == TRIALS - 2 and recording.presentation("split")[0] == "test"
    np.testing.assert_allclose(recording.neuroid("noise_ceiling"), np.arange(VOXELS) / 10)
    np.testing.assert_allclose(recording.neuroid("noise_ceiling_single"), 0.1)


def test_regions_overlap_and_can_be_read_alone(things, tmp_path):
    root, values, trials = things
    whole = import_recording("things", root, tmp_path / "r.zarr").recording
    assert whole.rois == ("V1", "lFFA") and whole.declared_rois == ("V1", "lFFA", "glasser-TE1m")
    part = import_recording("things", root, tmp_path / "s.zarr", rois=["lFFA"]).recording
    np.testing.assert_allclose(part.values, values[2:4][:, trials].T, rtol=1e-6)
    with pytest.raises(UnknownNameError, match=r"no region 'V9'.*V1, lFFA"):
        import_recording("things", root, tmp_path / "t.zarr", rois=["V9"])


def test_csv_responses_give_the_same(things, tmp_path):
    root, values, _ = things
    hdf5 = import_recording("things", root, tmp_path / "r.zarr").recording
    (root / "betas_csv" / "sub-01_ResponseData.h5").unlink()
    frame = pd.DataFrame(values, columns=[str(t) for t in range(TRIALS)])
    frame.insert(0, "voxel_id", np.arange(VOXELS))
    frame.to_csv(root / "betas_csv" / "sub-01_ResponseData.csv", index=False)
    np.testing.assert_allclose(import_recording("things", root, tmp_path / "s.zarr").recording.values, hdf5.values)


def test_the_mask_places_the_voxels_and_images_match(things, tmp_path, rng):
    root, _, _ = things
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "mask.nii.gz")
    (tmp_path / "images" / "aardvark").mkdir(parents=True)
    for i in range(6):
        pixels = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "aardvark" / f"aardvark_{i:02d}s.jpg")
    imported = import_recording(
        "things", root, tmp_path / "r.zarr", mask=tmp_path / "mask.nii.gz", images=tmp_path / "images"
    )
    assert imported.recording.space.kind == "volume" and imported.recording.neuroid("x")[4] == 2.0
    assert imported.recording.to_nifti(np.arange(VOXELS)).get_fdata()[1, 0, 0] == 4
    assert "aardvark_03s" in imported.stimuli.ids


def test_tables_that_do_not_fit(things, tmp_path):
    root, values, _ = things
    path = root / "betas_csv" / "sub-01_ResponseData.h5"
    write_frame(path, values[:, :15], np.arange(VOXELS))
    with pytest.raises(MismatchedIdsError, match=r"ResponseData.h5: trial 19 is not among the 15 columns"):
        import_recording("things", root, tmp_path / "r.zarr")
    write_frame(path, values[:-1], np.arange(VOXELS - 1))
    with pytest.raises(ShapeError, match="for 8 voxels"):
        import_recording("things", root, tmp_path / "r.zarr")
    write_frame(path, values, np.arange(VOXELS) + 1)
    with pytest.raises(MismatchedIdsError, match="voxel 0 of the voxel table"):
        import_recording("things", root, tmp_path / "r.zarr")
    table = root / "betas_csv" / "sub-01_VoxelMetadata.csv"
    frame = pd.read_csv(table)
    frame.loc[3, "voxel_id"] = 2
    frame.to_csv(table, index=False)
    with pytest.raises(DuplicateIdError, match="VoxelMetadata"):
        import_recording("things", root, tmp_path / "r.zarr")


def test_a_table_format_that_is_not_known(things, tmp_path):
    root, _, _ = things
    with h5py.File(root / "betas_csv" / "sub-01_ResponseData.h5", "w") as file:
        file["df/table"] = np.zeros(3)
    with pytest.raises(FormatError, match="no pandas frame in fixed format"):
        import_recording("things", root, tmp_path / "r.zarr")
