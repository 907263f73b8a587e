"""Plain arrays and plain tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recordings.errors import (
    DuplicateIdError,
    FormatError,
    MismatchedIdsError,
    NotFiniteError,
    ShapeError,
    TruncatedFileError,
)
from recordings.readers import import_recording


@pytest.mark.parametrize(
    ("dims", "axes"), [("repetition,stimulus,neuroid", (0, 1, 2)), ("stimulus,repetition,neuroid", (1, 0, 2))]
)
def test_repetitions_come_out_in_one_order(tmp_path, rng, dims, axes):
    values = rng.normal(size=(3, 4, 5))
    np.save(tmp_path / "a.npy", np.transpose(values, axes))
    recording = import_recording("npy", tmp_path / "a.npy", tmp_path / "r.zarr", dims=dims).recording
    np.testing.assert_allclose(recording.values, values.reshape(12, 5), rtol=1e-6)
    assert list(recording.presentation("repetition")) == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_allclose(recording.average_repetitions().values, values.mean(0), rtol=1e-5, atol=1e-7)


def test_int_and_transposed_arrays(tmp_path, rng):
    counts = rng.integers(0, 9, size=(6, 4), dtype=np.int16)
    np.save(tmp_path / "a.npy", np.asfortranarray(counts))
    plain = import_recording("npy", tmp_path / "a.npy", tmp_path / "r.zarr").recording
    assert plain.values.dtype == np.float32
    np.testing.assert_array_equal(plain.values, counts)
    turned = import_recording("npy", tmp_path / "a.npy", tmp_path / "s.zarr", dims="neuroid,presentation").recording
    np.testing.assert_array_equal(turned.values, counts.T)


def test_time_bins_and_tables(tmp_path, rng):
    values = rng.normal(size=(4, 3, 2))
    np.save(tmp_path / "a.npy", values)
    pd.DataFrame({"stimulus_id": ["a", "b", "a", "b"], "run": [1, 1, 2, 2]}).to_csv(tmp_path / "p.csv", index=False)
    pd.DataFrame({"neuroid_id": ["x", "y"], "roi": ["V1", "V4"]}).to_csv(tmp_path / "n.csv", index=False)
    options = {"presentations": tmp_path / "p.csv", "neuroids": tmp_path / "n.csv", "time_step": 0.01}
    recording = import_recording(
        "npy", tmp_path / "a.npy", tmp_path / "r.zarr", dims="presentation,time,neuroid", **options
    ).recording
    np.testing.assert_allclose(recording.roi("V4").values[..., 0], values[..., 1], rtol=1e-6)
    np.testing.assert_allclose(recording.data.time, [0, 0.01, 0.02])
    assert list(recording.presentation("run")) == [1, 1, 2, 2]


def test_images_of_any_numbers_become_eight_bit(tmp_path, rng):
    images = rng.normal(5, 2, size=(4, 6))
    np.save(tmp_path / "i.npy", images)
    np.save(tmp_path / "a.npy", rng.normal(size=(4, 3)))
    options = {"images": tmp_path / "i.npy", "image_shape": (2, 3)}
    stimuli = import_recording("npy", tmp_path / "a.npy", tmp_path / "r.zarr", **options).stimuli
    expected = (images - images.min()) / np.ptp(images) * 255
    np.testing.assert_allclose(np.stack([s[..., 0].ravel() for s in stimuli]), expected, atol=0.5)
    with pytest.raises(ShapeError, match=r"i.npy: images of 6 pixels"):
        import_recording("npy", tmp_path / "a.npy", tmp_path / "s.zarr", images=tmp_path / "i.npy", image_shape=(3, 3))


def test_npy_bad_input(tmp_path, rng):
    path = tmp_path / "a.npy"
    np.save(path, rng.normal(size=(40, 30)))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(TruncatedFileError, match=r"a.npy: ends before its header says"):
        import_recording("npy", path, tmp_path / "r.zarr")
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"a.npy: not a NumPy array of numbers"):
        import_recording("npy", path, tmp_path / "r.zarr")
    np.save(path, np.array([["a", "b"]]))
    with pytest.raises(FormatError, match="not numbers"):
        import_recording("npy", path, tmp_path / "r.zarr")
    np.save(path, np.zeros(5))
    with pytest.raises(ShapeError, match=r"array of shape \(5,\)"):
        import_recording("npy", path, tmp_path / "r.zarr")
    values = np.zeros((4, 3))
    values[2, 1] = np.nan
    np.save(path, values)
    with pytest.raises(NotFiniteError, match=r"presentation 2 .* 'n1'"):
        import_recording("npy", path, tmp_path / "r.zarr")
    np.save(path, np.zeros((4, 3)))
    pd.DataFrame({"stimulus_id": list("abc")}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ShapeError, match=r"p.csv: 3 rows for 4 presentations"):
        import_recording("npy", path, tmp_path / "r.zarr", presentations=tmp_path / "p.csv")
    pd.DataFrame({"neuroid_id": ["x", "y", "x"]}).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(DuplicateIdError, match="'x' occurs twice"):
        import_recording("npy", path, tmp_path / "r.zarr", neuroids=tmp_path / "n.csv")
    assert not (tmp_path / "r.zarr").exists()


@pytest.fixture
def table(tmp_path, rng):
    frame = pd.DataFrame(rng.normal(size=(600, 3)).round(6), columns=["n1", "n2", "n3"])
    frame.insert(1, "stimulus_id", [f"{i % 200:03d}" for i in range(600)])
    frame.insert(3, "site", "left")
    frame["run"] = np.arange(600) // 200
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv", frame


def test_csv_tells_coordinates_from_neuroids_and_keeps_ids_as_text(table, tmp_path):
    path, frame = table
    recording = import_recording("csv", path, tmp_path / "r.zarr", coordinates=["site"]).recording
    np.testing.assert_allclose(recording.values, frame[["n1", "n2", "n3"]], rtol=1e-6)
    assert recording.stimulus_ids[7] == "007" and list(recording.neuroid_ids) == ["n1", "n2", "n3"]
    assert recording.presentation("repetition").max() == 2 and recording.presentation("site")[0] == "left"


def test_csv_neuroids_are_matched_by_id(table, tmp_path):
    path, _ = table
    pd.DataFrame({"neuroid_id": ["n3", "n1", "n2", "n9"], "roi": list("CABX")}).to_csv(tmp_path / "n.csv", index=False)
    options = {"coordinates": ["site"], "neuroids": tmp_path / "n.csv"}
    recording = import_recording("csv", path, tmp_path / "r.zarr", **options).recording
    assert list(recording.neuroid("roi")) == ["A", "B", "C"]
    pd.DataFrame({"neuroid_id": ["n3", "n1"]}).to_csv(tmp_path / "n.csv", index=False)
    with pytest.raises(MismatchedIdsError, match=r"n.csv: neuroid 'n2' is not in the table"):
        import_recording("csv", path, tmp_path / "s.zarr", **options)


def test_csv_bad_input(table, tmp_path):
    path, frame = table
    with pytest.raises(FormatError, match=r"t.csv: line 2: 'left' in column 'site' is not a number"):
        import_recording("csv", path, tmp_path / "r.zarr")
    frame.assign(n2=frame["n2"].astype(str).where(frame.index != 560, "1;2")).to_csv(path, index=False)
    with pytest.raises(FormatError, match=r"line 562: '1;2' in column 'n2'"):
        import_recording("csv", path, tmp_path / "r.zarr", coordinates=["site"])
    frame.assign(n2=frame["n2"].where(frame.index != 560)).to_csv(path, index=False)
    with pytest.raises(NotFiniteError, match=r"presentation 560 .* 'n2'"):
        import_recording("csv", path, tmp_path / "r.zarr", coordinates=["site"])
    path.write_text("stimulus_id,n1,n1\na,1,2\n")
    with pytest.raises(DuplicateIdError, match="column 'n1' occurs twice"):
        import_recording("csv", path, tmp_path / "r.zarr")
    path.write_text("name,n1\na,1\n")
    with pytest.raises(FormatError, match="lacks the column 'stimulus_id'"):
        import_recording("csv", path, tmp_path / "r.zarr", coordinates=["name"])
    assert not (tmp_path / "r.zarr").exists()
