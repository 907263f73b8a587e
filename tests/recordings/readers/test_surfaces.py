"""GIFTI and CIFTI functional data written with nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import cifti2_axes

from recordings import Recording
from recordings.errors import FormatError, MismatchedIdsError, NotFiniteError, ShapeError, TruncatedFileError
from recordings.readers import import_recording

N = 2562  # fsaverage4


def write_gifti(path: Path, data: np.ndarray) -> Path:
    arrays = [nib.gifti.GiftiDataArray(row, intent="NIFTI_INTENT_TIME_SERIES") for row in data.astype(np.float32)]
    nib.save(nib.GiftiImage(darrays=arrays), path)
    return path


@pytest.fixture
def surface(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    data = {side: rng.normal(10, 1, size=(6, N)).astype(np.float32) for side in "LR"}
    for side in "LR":
        write_gifti(tmp_path / f"sub-01_task-x_hemi-{side}_space-fsaverage4_bold.func.gii", data[side])
    return tmp_path / "sub-01_task-x_hemi-L_space-fsaverage4_bold.func.gii", data


def test_both_hemispheres_from_the_left_files_name(surface, tmp_path):
    source, data = surface
    recording = import_recording("gifti", source, tmp_path / "r.zarr").recording
    np.testing.assert_array_equal(recording.values, np.hstack([data["L"], data["R"]]))
    assert recording.space.name == "fsaverage4" and recording.space.shape == (N, N)
    assert recording.neuroid_ids[N + 5] == "R5" and recording.neuroid("hemisphere")[N + 5] == "R"


def test_a_folder_and_a_single_array_of_vertices_by_volumes(surface, tmp_path):
    source, data = surface
    right = source.with_name(source.name.replace("hemi-L", "hemi-R"))
    array = nib.gifti.GiftiDataArray(np.ascontiguousarray(data["R"].T), intent="NIFTI_INTENT_NONE")
    nib.save(nib.GiftiImage(darrays=[array]), right)
    recording = import_recording("gifti", source.parent, tmp_path / "r.zarr").recording
    np.testing.assert_array_equal(recording.values[:, N:], data["R"])


def test_gifti_round_trip(surface, tmp_path):
    source, _ = surface
    recording = import_recording("gifti", source, tmp_path / "r.zarr").recording
    for side, image in recording.to_gifti(recording.values).items():
        nib.save(image, tmp_path / f"again.{side}.func.gii")
    again = import_recording("gifti", tmp_path / "again.L.func.gii", tmp_path / "s.zarr").recording
    np.testing.assert_array_equal(again.values, recording.values)
    assert again.fingerprint() == recording.fingerprint()


def test_medial_wall_of_nan_is_refused_or_dropped(surface, tmp_path):
    source, data = surface
    data["L"][:, 100:110] = np.nan
    write_gifti(source, data["L"])
    with pytest.raises(NotFiniteError, match="'L100'"):
        import_recording("gifti", source, tmp_path / "r.zarr")
    recording = import_recording("gifti", source, tmp_path / "r.zarr", drop_empty=True).recording
    assert recording.n_neuroids == 2 * N - 10 and "L100" not in recording.neuroid_ids


def test_labels_become_the_roi_and_empty_ones_stay_declared(surface, tmp_path):
    source, _ = surface
    keys = np.zeros(N, np.int32)
    keys[:50] = 3
    table = nib.gifti.GiftiLabelTable()
    for key, name in ((0, "???"), (3, "V1"), (4, "FFA")):
        label = nib.gifti.GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    array = nib.gifti.GiftiDataArray(keys, intent="NIFTI_INTENT_LABEL")
    nib.save(nib.GiftiImage(darrays=[array], labeltable=table), tmp_path / "l.label.gii")
    recording = import_recording("gifti", source, tmp_path / "r.zarr", labels_left=tmp_path / "l.label.gii").recording
    assert recording.roi("V1").n_neuroids == 50 and recording.declared_rois == ("V1", "FFA")


def test_hemispheres_of_other_lengths_and_a_cut_file(surface, tmp_path):
    source, data = surface
    right = source.with_name(source.name.replace("hemi-L", "hemi-R"))
    write_gifti(right, data["R"][:5])
    with pytest.raises(ShapeError, match="6 and 5 volumes"):
        import_recording("gifti", source, tmp_path / "r.zarr")
    right.write_bytes(right.read_bytes()[:-2000])
    with pytest.raises(TruncatedFileError, match="hemi-R"):
        import_recording("gifti", source, tmp_path / "r.zarr")


# CIFTI ---------------------------------------------------------------------------------------------------------------

LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"


def grayordinates() -> cifti2_axes.BrainModelAxis:
    left = cifti2_axes.BrainModelAxis.from_surface(np.arange(5, 40), 32492, LEFT)
    right = cifti2_axes.BrainModelAxis.from_surface(np.arange(0, 30), 32492, RIGHT)
    grid = np.zeros((4, 4, 4), bool)
    grid[1:3, 1:3, 1:3] = True
    thalamus = cifti2_axes.BrainModelAxis.from_mask(grid, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    return left + right + thalamus


@pytest.fixture
def series(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    data = rng.normal(size=(12, 73)).astype(np.float32)
    time = cifti2_axes.SeriesAxis(0, 0.72, 12)
    path = tmp_path / "x.dtseries.nii"
    nib.save(nib.Cifti2Image(data, header=(time, grayordinates())), path)
    return path, data


def test_dtseries_cortex_is_a_surface_recording(series, tmp_path):
    path, data = series
    recording = import_recording("cifti", path, tmp_path / "r.zarr").recording
    np.testing.assert_array_equal(recording.values, data[:, :65])
    assert recording.space.name == "fsLR_32k" and recording.neuroid_ids[0] == "L5"
    np.testing.assert_allclose(recording.presentation("onset")[:3], [0, 0.72, 1.44])
    assert recording.to_gifti(recording.values[0])["L"].darrays[0].data[5] == data[0, 0]


def test_subcortex_keeps_its_voxels(series, tmp_path):
    path, data = series
    recording = import_recording("cifti", path, tmp_path / "r.zarr", subcortex=True).recording
    np.testing.assert_array_equal(recording.values, data)
    assert recording.neuroid_ids[-1] == "thalamus_left-2_2_2" and recording.space.kind == "none"


def test_dscalar_maps_are_stimuli_and_dlabel_gives_rois(tmp_path, rng):
    data = rng.normal(size=(3, 73)).astype(np.float32)
    maps = cifti2_axes.ScalarAxis(["face", "body", "place"])
    nib.save(nib.Cifti2Image(data, header=(maps, grayordinates())), tmp_path / "x.dscalar.nii")
    keys = np.zeros((1, 73), np.float32)
    keys[0, :9] = 2
    labels = cifti2_axes.LabelAxis(["atlas"], [{0: ("???", (0, 0, 0, 0)), 2: ("V1", (1, 0, 0, 1))}])
    nib.save(nib.Cifti2Image(keys, header=(labels, grayordinates())), tmp_path / "x.dlabel.nii")
    recording = import_recording(
        "cifti", tmp_path / "x.dscalar.nii", tmp_path / "r.zarr", rois=tmp_path / "x.dlabel.nii"
    ).recording
    assert list(recording.stimulus_ids) == ["face", "body", "place"] and recording.roi("V1").n_neuroids == 9
    other = cifti2_axes.BrainModelAxis.from_surface(np.arange(73), 32492, LEFT)
    nib.save(nib.Cifti2Image(keys, header=(labels, other)), tmp_path / "y.dlabel.nii")
    with pytest.raises(MismatchedIdsError, match=r"y.dlabel.nii: .* other grayordinates"):
        import_recording("cifti", tmp_path / "x.dscalar.nii", tmp_path / "s.zarr", rois=tmp_path / "y.dlabel.nii")


def test_cut_and_foreign_files(series, tmp_path):
    path, _ = series
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(TruncatedFileError, match=r"x\.dtseries\.nii"):
        import_recording("cifti", path, tmp_path / "r.zarr")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "plain.nii")
    with pytest.raises(FormatError, match="not a CIFTI-2 file"):
        import_recording("cifti", tmp_path / "plain.nii", tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_recordings_of_surfaces_reload(series, tmp_path):
    path, _ = series
    import_recording("cifti", path, tmp_path / "r.zarr")
    assert Recording.load(tmp_path / "r.zarr").space.shape == (32492, 32492)
