"""A tree like NSD's, written by hand: int16 times 300, MATLAB's axis order in HDF5, 73KID from 1."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from recordings.errors import EmptyROIError, FormatError, ShapeError, TruncatedFileError
from recordings.readers import import_recording

GRID, TRIALS = (5, 4, 3), 6
BETAS = Path("nsddata_betas/ppdata/subj01/func1pt8mm/betas_fithrf_GLMdenoise_RR")
ROI = Path("nsddata/ppdata/subj01/func1pt8mm/roi")


def write_volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, np.diag([1.8, 1.8, 1.8, 1.0]))
    nib.save(image, path)


@pytest.fixture
def nsd(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    root = tmp_path / "nsd"
    percent = rng.normal(1, 2, size=(2, *GRID, TRIALS))
    stored = np.round(percent * 300).astype(np.int16)
    (root / BETAS).mkdir(parents=True)
    with h5py.File(root / BETAS / "betas_session01.hdf5", "w") as file:
        # MATLAB writes x, y, z, trial in Fortran order: h5py sees trial, z, y, x.
        file.create_dataset("betas", data=stored[0].transpose(3, 2, 1, 0), chunks=(TRIALS, 1, 1, 1))
    write_volume(root / BETAS / "betas_session02.nii.gz", stored[1])
    write_volume(root / BETAS / "ncsnr.nii.gz", np.full(GRID, 0.5, np.float32))
    general = np.zeros(GRID, np.int16)
    general[1:4, 1:3, :] = 1
    visual = np.zeros(GRID, np.int16)
    visual[1] = 1
    visual[2, 1] = 7
    visual[0] = -1
    streams = np.zeros(GRID, np.int16)
    streams[1:3] = 5
    for name, values in (("nsdgeneral", general), ("prf-visualrois", visual), ("streams", streams)):
        write_volume(root / ROI / f"{name}.nii.gz", values)
    left = np.where(np.arange(5)[:, None, None] < 2, general, -1).astype(np.int16)
    write_volume(root / ROI / "lh.nsdgeneral.nii.gz", left)
    write_volume(root / ROI / "rh.nsdgeneral.nii.gz", np.where(left > 0, -1, general).astype(np.int16))
    labels = root / "nsddata/freesurfer/subj01/label"
    labels.mkdir(parents=True)
    (labels / "prf-visualrois.mgz.ctab").write_text("0 Unknown\n1 V1v\n2 V1d\n7 hV4\n")
    (labels / "streams.mgz.ctab").write_text("0 Unknown \n5 ventral \n")
    images = np.array([[1, 73000, 4, 1, 9, 4], [73000, 2, 2, 9, 1, 50]])
    behav = root / "nsddata/ppdata/subj01/behav"
    behav.mkdir(parents=True)
    table = {"SUBJECT": 1, "SESSION": np.repeat([1, 2], TRIALS), "RUN": [1, 1, 1, 2, 2, 2] * 2, "73KID": images.ravel()}
    pd.DataFrame(table).to_csv(behav / "responses.tsv", sep="\t", index=False)
    return root, stored, general > 0, images


def test_scale_axis_order_and_ids(nsd, tmp_path):
    root, stored, mask, images = nsd
    recording = import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01").recording
    expected = np.concatenate([s[mask].T for s in stored]) / 300
    np.testing.assert_allclose(recording.values, expected, rtol=1e-6)
    assert list(recording.stimulus_ids) == [str(i - 1) for i in images.ravel()]
    assert recording.presentation("repetition")[9] == 1 and recording.presentation("session")[9] == 2
    i, j, k = np.argwhere(mask)[7]
    assert recording.neuroid_ids[7] == f"v{i}_{j}_{k}"


def test_a_voxel_is_in_regions_of_several_atlases_and_an_empty_one_stays_declared(nsd, tmp_path):
    root, _, mask, _ = nsd
    recording = import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01").recording
    inside = np.argwhere(mask)
    np.testing.assert_array_equal(recording.roi_mask("V1v"), inside[:, 0] == 1)
    np.testing.assert_array_equal(recording.roi_mask("ventral"), np.isin(inside[:, 0], (1, 2)))
    assert set(recording.roi("V1v").neuroid("roi")) == {"V1v|ventral"}
    with pytest.raises(EmptyROIError, match="'V1d'"):
        recording.roi("V1d")
    np.testing.assert_array_equal(recording.neuroid("hemisphere") == "L", inside[:, 0] < 2)


def test_noise_ceiling_of_three_trials(nsd, tmp_path):
    recording = import_recording("nsd", nsd[0], tmp_path / "r.zarr", subject="subj01").recording
    np.testing.assert_allclose(recording.neuroid("noise_ceiling"), 0.428571, atol=1e-6)


def test_the_design_file_in_either_matlab_version_names_the_same_images(nsd, tmp_path):
    root, _, _, _ = nsd
    (root / "nsddata/ppdata/subj01/behav/responses.tsv").unlink()
    folder = root / "nsddata/experiments/nsd"
    folder.mkdir(parents=True)
    order = np.array([[1, 2, 3, 1, 4, 3]], np.uint16)
    subjects = np.vstack([[11, 12, 13, 14], [21, 22, 23, 24]]).astype(np.int32)
    savemat(folder / "nsd_expdesign.mat", {"masterordering": order, "subjectim": subjects})
    ids = import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01", sessions=[1]).recording.stimulus_ids
    assert list(ids) == ["10", "11", "12", "10", "13", "12"]
    with h5py.File(folder / "nsd_expdesign.mat", "w") as file:
        for name, values in (("masterordering", order), ("subjectim", subjects)):
            file[name] = values.T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    again = import_recording("nsd", root, tmp_path / "s.zarr", subject="subj01", sessions=[1]).recording.stimulus_ids
    assert list(again) == list(ids)


def test_images_of_the_stimulus_file_match_by_id(nsd, tmp_path, rng):
    root, _, _, _ = nsd
    (root / "nsddata/ppdata/subj01/behav/responses.tsv").write_text(
        "SESSION\tRUN\t73KID\n" + "".join(f"1\t1\t{k}\n" for k in (3, 1, 2, 3, 1, 2))
    )
    folder = root / "nsddata_stimuli/stimuli/nsd"
    folder.mkdir(parents=True)
    bricks = rng.integers(0, 256, size=(3, 8, 8, 3), dtype=np.uint8)
    with h5py.File(folder / "nsd_stimuli.hdf5", "w") as file:
        file["imgBrick"] = bricks
    imported = import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01", sessions=[1])
    first_shown = imported.stimuli.select([imported.recording.stimulus_ids[0]]).load(0)
    np.testing.assert_array_equal(first_shown, bricks[2])


def test_cut_files_and_wrong_counts_name_the_session(nsd, tmp_path):
    root, stored, _, _ = nsd
    table = root / "nsddata/ppdata/subj01/behav/responses.tsv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(ShapeError, match=r"betas_session02.nii.gz: 6 trials, the design has 5 in session 2"):
        import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01")
    with pytest.raises(FormatError, match="no betas of session 3"):
        import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01", sessions=[3])
    path = root / BETAS / "betas_session01.hdf5"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(TruncatedFileError, match=r"betas_session01.hdf5: truncated"):
        import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01", sessions=[1])
    with h5py.File(path, "w") as file:
        file["betas"] = stored[0]
    with pytest.raises(ShapeError, match="betas_session01"):
        import_recording("nsd", root, tmp_path / "r.zarr", subject="subj01", sessions=[1])
    assert not (tmp_path / "r.zarr").exists()
