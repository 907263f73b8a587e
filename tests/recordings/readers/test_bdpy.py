"""A bdpy file written by hand: NaN in the metadata, float ids of Generic Object Decoding, value-label maps."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from recordings.errors import EmptyROIError, FormatError, ShapeError, TruncatedFileError, UnknownNameError
from recordings.readers import import_recording

N, VOXELS = 9, 5


def write_bdpy(path: Path, dataset: np.ndarray, metadata: dict[str, np.ndarray], names=("dataset", "metadata")) -> None:
    with h5py.File(path, "w") as file:
        file[names[0]] = dataset
        group = file.create_group(names[1])
        group["key"] = list(metadata)
        group["description"] = ["written by hand"] * len(metadata)
        group["value"] = np.stack(list(metadata.values()))


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """Columns: session, five voxels, run, stimulus; the voxels do not come first."""
    dataset = np.full((N, 8), np.nan)
    dataset[:, 0], dataset[:, 6] = 1, np.arange(N) // 3
    dataset[:, 1:6] = rng.normal(size=(N, VOXELS))
    dataset[:, 7] = [1518878.005958, 1518878.005959, np.nan] * 3
    nan = np.nan

    def mark(*columns: int) -> np.ndarray:
        values = np.full(8, nan)
        values[list(columns)] = 1
        return values

    metadata = {
        "VoxelData": mark(1, 2, 3, 4, 5),
        "ROI_V1": np.array([nan, 1, 1, 0, 0, 0, nan, nan]),
        "ROI_VC": np.array([nan, 1, 1, 1, 1, 0, nan, nan]),
        "ROI_PPA": np.array([nan, 0, 0, 0, 0, 0, nan, nan]),
        "voxel_x": np.array([nan, -3.0, 0, 3, 6, 9, nan, nan]),
        "voxel_i": np.array([nan, 1, 2, 3, 4, 5, nan, nan]),
        "Session": mark(0),
        "Run": mark(6),
        "stimulus_id": mark(7),
    }
    path = tmp_path / "Subject1.h5"
    write_bdpy(path, dataset, metadata)
    return path, dataset, metadata


def test_voxels_regions_and_ids_that_need_float64(source, tmp_path):
    path, dataset, _ = source
    recording = import_recording("bdpy", path, tmp_path / "r.zarr").recording
    shown = [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(recording.values, dataset[shown, 1:6], rtol=1e-6)
    # Both would be 1518878.0 in float32.
    assert list(recording.stimulus_ids) == ["1518878.005958", "1518878.005959"] * 3
    assert list(recording.presentation("run")) == [0, 0, 1, 1, 2, 2]
    assert list(recording.neuroid("roi")) == ["V1|VC", "V1|VC", "VC", "VC", ""]
    assert list(recording.neuroid("x")) == [-3, 0, 3, 6, 9] and list(recording.neuroid("i")) == [1, 2, 3, 4, 5]
    with pytest.raises(EmptyROIError, match="'PPA'"):
        recording.roi("PPA")


def test_rest_can_be_kept(source, tmp_path):
    recording = import_recording("bdpy", source[0], tmp_path / "r.zarr", drop_unknown=False).recording
    assert len(recording) == N and recording.stimulus_ids[2] == "n/a"


def test_value_label_maps_and_the_older_spelling(source, tmp_path):
    path, dataset, metadata = source
    dataset[:, 7] = [0, 1, 2] * 3
    metadata["stimulus_name"] = metadata.pop("stimulus_id")
    write_bdpy(path, dataset, metadata, ("dataSet", "metaData"))
    with h5py.File(path, "a") as file:
        for number, name in enumerate(("cat_01", "dog_01", "cat_02")):
            file[f"vmap/stimulus_name/{float(number)}"] = name
    recording = import_recording("bdpy", path, tmp_path / "r.zarr").recording
    assert list(recording.stimulus_ids[:3]) == ["cat_01", "dog_01", "cat_02"]
    with h5py.File(path, "a") as file:
        del file["vmap/stimulus_name/1.0"]
    with pytest.raises(FormatError, match="number 1 of 'stimulus_name' has no text"):
        import_recording("bdpy", path, tmp_path / "s.zarr")


def test_another_key_may_name_the_stimulus(source, tmp_path):
    recording = import_recording("bdpy", source[0], tmp_path / "r.zarr", stimulus="Run").recording
    assert list(recording.stimulus_ids) == [str(i // 3) for i in range(N)]
    assert recording.presentation("bdpy_stimulus_id")[0] == 1518878.005958
    with pytest.raises(UnknownNameError, match=r"no key 'image'.*Session, Run, stimulus_id"):
        import_recording("bdpy", source[0], tmp_path / "s.zarr", stimulus="image")


def test_transposed_cut_and_foreign_files(source, tmp_path):
    path, dataset, metadata = source
    write_bdpy(path, dataset.T, metadata)
    with pytest.raises(ShapeError, match="transposed"):
        import_recording("bdpy", path, tmp_path / "r.zarr")
    write_bdpy(path, dataset, metadata)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TruncatedFileError, match=r"Subject1\.h5"):
        import_recording("bdpy", path, tmp_path / "r.zarr")
    path.write_text("no HDF5 at all")
    with pytest.raises(FormatError, match=r"Subject1.h5: not a readable HDF5 file"):
        import_recording("bdpy", path, tmp_path / "r.zarr")
    del metadata["VoxelData"]
    write_bdpy(path, dataset, metadata)
    with pytest.raises(FormatError, match="no key VoxelData"):
        import_recording("bdpy", path, tmp_path / "r.zarr")
