"""`Recording`: tables, regions, repetitions, disk, images of the brain."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from recordings import InputError, Recording, Space, Stimuli, Subject, write_recording
from recordings.errors import (
    ConstantUnitError,
    DuplicateIdError,
    EmptyROIError,
    FormatError,
    MismatchedIdsError,
    NotFiniteError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)


def make(rng: np.random.Generator, n: int = 12, m: int = 5, **fields) -> Recording:
    ids = [f"s{i % 4}" for i in range(n)]
    neuroids = {"neuroid_id": [f"v{i}" for i in range(m)], "roi": ["V1", "V1|early", "V2|early", "", "FFA"][:m]}
    return Recording(rng.normal(size=(n, m)), {"stimulus_id": ids}, neuroids, **fields)


def test_coordinates_are_filled_in(rng):
    recording = make(rng)
    assert recording.values.dtype == np.float32
    assert list(recording.presentation("repetition")) == [0] * 4 + [1] * 4 + [2] * 4
    assert set(recording.presentation("session")) == set(recording.presentation("run")) == {0}
    with pytest.raises(UnknownNameError, match=r"no neuroid coordinate 'x'.*neuroid_id, roi"):
        recording.neuroid("x")


def test_tables_that_do_not_fit(rng):
    values = rng.normal(size=(2, 3))
    with pytest.raises(ShapeError, match=r"shape \(2, 3\) for 3 presentations"):
        Recording(values, {"stimulus_id": list("abc")})
    with pytest.raises(InputError, match="lack the column 'stimulus_id'"):
        Recording(values, {"name": list("ab")})
    with pytest.raises(DuplicateIdError, match="neuroid id 'x' occurs twice"):
        Recording(values, {"stimulus_id": list("ab")}, {"neuroid_id": list("xyx")})
    with pytest.raises(DuplicateIdError, match="'a' has repetition 0 twice"):
        Recording(values, {"stimulus_id": ["a", "a"], "repetition": [0, 0]})
    with pytest.raises(ShapeError, match="give `time`"):
        Recording(rng.normal(size=(2, 4, 3)), {"stimulus_id": list("ab")})


def test_regions_overlap_and_empty_is_not_unknown(rng):
    recording = make(rng, rois=["V1", "early", "V2", "V3", "FFA"])
    assert list(recording.roi("early").neuroid_ids) == ["v1", "v2"]
    assert list(recording.roi("V1", "FFA").neuroid_ids) == ["v0", "v1", "v4"]
    assert recording.rois == ("V1", "early", "V2", "FFA")
    with pytest.raises(EmptyROIError, match="'V3' has no neuroid"):
        recording.roi("V3")
    with pytest.raises(UnknownNameError, match="no ROI 'V9'"):
        recording.roi("V9")


def test_where_selects_on_both_sides(rng):
    part = make(rng).where(stimulus_id=["s1", "s2"], roi="V1")
    assert part.data.shape == (6, 1)
    with pytest.raises(UnknownNameError, match="no coordinate 'colour'"):
        make(rng).where(colour="red")


@pytest.mark.parametrize("on_disk", [False, True])
def test_average_over_repetitions(rng, tmp_path, on_disk):
    recording = make(rng)
    if on_disk:
        recording = recording.save(tmp_path / "r.zarr")
    mean = recording.average_repetitions(tmp_path / "m.zarr" if on_disk else None)
    np.testing.assert_allclose(mean.values, recording.values.reshape(3, 4, 5).mean(0), rtol=1e-5, atol=1e-7)
    assert list(mean.stimulus_ids) == ["s0", "s1", "s2", "s3"] and set(mean.presentation("n_repetitions")) == {3}
    assert mean.declared_rois == recording.declared_rois


def test_average_keeps_what_does_not_vary(rng):
    table = {"stimulus_id": list("abab"), "session": [1, 1, 2, 2], "category": list("xyxy")}
    mean = Recording(rng.normal(size=(4, 2)), table).average_repetitions()
    assert list(mean.presentation("category")) == ["x", "y"]
    assert set(mean.presentation("session")) == {0}  # It varied, so it was dropped and filled in.


def test_matching_by_id(rng):
    recording = make(rng)
    rows = recording.match(["s3", "s2", "s1", "s0", "more"])
    assert list(rows[:4]) == [3, 2, 1, 0]
    with pytest.raises(MismatchedIdsError, match="'s3'"):
        recording.match(["s0", "s1", "s2"])
    with pytest.raises(DuplicateIdError, match="'s0' occurs twice"):
        recording.match(["s0", "s0"])


def test_round_trip_on_disk_is_lazy_and_exact(rng, tmp_path):
    space = Space.surface("fsaverage5", (10242, 10242))
    recording = make(rng, space=space, attrs={"units": "percent", "subject": "s1"}, rois=["V1", "V3"])
    recording.save(tmp_path / "r.zarr")
    again = Recording.load(tmp_path / "r.zarr")
    assert again.space == space and again.attrs == recording.attrs and again.declared_rois == ("V1", "V3")
    pd.testing.assert_frame_equal(again.presentations, recording.presentations)
    pd.testing.assert_frame_equal(again.neuroids, recording.neuroids)
    assert again.stimulus_ids.dtype == object and isinstance(again.stimulus_ids[0], str)
    part = again.take(neuroid=[0, 2])
    # Nothing was read so far: once the chunks are gone only reading fails.
    for chunk in (tmp_path / "r.zarr" / "responses").rglob("c/*/*"):
        chunk.rename(chunk.with_suffix(".away"))
    assert len(part) == 12
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(part.values, recording.values[:, [0, 2]])
    for chunk in (tmp_path / "r.zarr" / "responses").rglob("c/*/*.away"):
        chunk.rename(chunk.with_suffix(""))
    np.testing.assert_array_equal(part.values, recording.values[:, [0, 2]])
    assert again.fingerprint() == recording.fingerprint() != part.fingerprint()


def test_names_with_spaces_survive_and_names_on_both_sides_are_refused(rng, tmp_path):
    table = {"stimulus_id": ["a", "b"], "reaction time": [1, 2]}
    saved = Recording(rng.normal(size=(2, 3)), table).save(tmp_path / "r.zarr")
    assert list(saved.presentation("reaction_time")) == [1, 2]
    table = {"stimulus_id": ["a", "b"], "roi": ["x", "y"]}
    neuroids = {"roi": ["V1", "V2", "V3"]}
    for make_it in (
        lambda: Recording(rng.normal(size=(2, 3)), table, neuroids),
        lambda: write_recording(tmp_path / "s.zarr", [np.zeros((2, 3))], table, neuroids),
    ):
        with pytest.raises(DuplicateIdError, match="'roi' describes presentations and neuroids alike"):
            make_it()


def test_time_dims_survive(rng, tmp_path):
    values = rng.normal(size=(3, 4, 2))
    recording = Recording(values, {"stimulus_id": list("abc")}, time=[0, 0.1, 0.2, 0.3]).save(tmp_path / "t.zarr")
    np.testing.assert_allclose(recording.values, values, rtol=1e-6)
    np.testing.assert_allclose(recording.data.time, [0, 0.1, 0.2, 0.3])


def test_nan_is_refused_by_place_and_kept_when_asked(rng, tmp_path):
    recording = make(rng)
    recording.data.values[7, 3] = np.inf
    with pytest.raises(NotFiniteError, match="presentation 7 has a NaN or infinite value in neuroid 'v3'"):
        recording.save(tmp_path / "r.zarr")
    with pytest.raises(NotFiniteError, match="'v3'"):
        recording.check_finite()
    assert not list(tmp_path.iterdir())
    assert np.isinf(recording.save(tmp_path / "r.zarr", allow_nan=True).values[7, 3])


def test_blocks_that_do_not_fill_the_table_leave_nothing(tmp_path):
    tables = {"stimulus_id": list("abc")}, {"neuroid_id": list("xy")}
    with pytest.raises(ShapeError, match="2 rows of responses for 3 presentations"):
        write_recording(tmp_path / "r.zarr", [np.zeros((2, 2))], *tables)
    with pytest.raises(ShapeError, match="at row 2"):
        write_recording(tmp_path / "r.zarr", [np.zeros((2, 2)), np.zeros((2, 2))], *tables)
    with pytest.raises(ShapeError, match=r"block of shape \(3, 5\)"):
        write_recording(tmp_path / "r.zarr", [np.zeros((3, 5))], *tables)
    assert not list(tmp_path.iterdir())


def test_writing_and_averaging_hold_a_block_at_a_time(tmp_path):
    n, m = 8192, 2048  # 64 MiB in all, 4 MiB a block.
    tables = {"stimulus_id": [f"s{i // 2}" for i in range(n)]}, {"neuroid_id": [f"v{i}" for i in range(m)]}
    blocks = (np.full((512, m), k, np.float32) for k in range(n // 512))
    tracemalloc.start()
    try:
        recording = write_recording(tmp_path / "r.zarr", blocks, *tables)
        mean = recording.average_repetitions(tmp_path / "m.zarr")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * 2**20
    np.testing.assert_array_equal(mean.read(slice(255, 257))[:, 0], [0, 1])


@pytest.fixture
def stored(rng, tmp_path) -> tuple[Recording, Path]:
    recording = make(rng, n=1024).save(tmp_path / "r.zarr")
    return recording, sorted((tmp_path / "r.zarr" / "responses" / "c").rglob("0"))[-1]


def test_a_cut_chunk_is_told_with_the_recording_named(stored):
    recording, chunk = stored
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(TruncatedFileError, match=r"r.zarr: a chunk of the responses cannot be read"):
        _ = Recording.load(recording.data.encoding["source"]).values


def test_one_flipped_bit_is_told(stored):
    recording, chunk = stored
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(TruncatedFileError, match=r"r\.zarr"):
        _ = Recording.load(recording.data.encoding["source"]).values


def test_a_missing_chunk_is_told_on_opening(stored):
    recording, chunk = stored
    chunk.unlink()
    with pytest.raises(TruncatedFileError, match="chunks of the responses are missing"):
        Recording.load(recording.data.encoding["source"])


def test_what_is_no_recording(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        Recording.load(tmp_path / "nowhere.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FormatError, match="not a Penfield recording"):
        Recording.load(tmp_path / "empty.zarr")


def test_nifti_round_trip(rng, tmp_path):
    mask = np.zeros((4, 3, 2), np.uint8)
    mask[1:3, :, 1] = 1
    affine = np.array([[2.0, 0, 0, -10], [0, 2, 0, 5], [0, 0, 3, 1], [0, 0, 0, 1]])
    volumes = rng.normal(size=(4, 3, 2, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(volumes, affine), tmp_path / "bold.nii.gz")
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    recording = Recording.from_nifti(tmp_path / "bold.nii.gz", tmp_path / "mask.nii.gz", {"stimulus_id": list("abcde")})
    image = recording.save(tmp_path / "r.zarr").to_nifti()
    np.testing.assert_array_equal(image.affine, affine)
    np.testing.assert_array_equal(image.get_fdata(), np.where(mask[..., None] > 0, volumes, 0))
    assert list(recording.presentation("stimulus_id")) == list("abcde")
    with pytest.raises(ShapeError, match="3 values for 6 neuroids"):
        recording.to_nifti([1, 2, 3])
    with pytest.raises(InputError, match="not on a surface"):
        recording.to_gifti(np.zeros(6))


def test_gifti_leaves_vertices_without_neuroid_undefined(rng):
    neuroids = {"neuroid_id": list("abc"), "hemisphere": ["L", "R", "R"], "vertex": [3, 0, 5]}
    space = Space.surface("fsaverage5", (8, 8))
    recording = Recording(rng.normal(size=(2, 3)), {"stimulus_id": list("xy")}, neuroids, space=space)
    images = recording.to_gifti([1.0, 2.0, 3.0])
    left, right = images["L"].darrays[0].data, images["R"].darrays[0].data
    assert left[3] == 1 and np.isnan(left).sum() == 7
    assert right[0] == 2 and right[5] == 3
    assert images["R"].meta["AnatomicalStructurePrimary"] == "CortexRight"


def test_a_subject_needs_all_its_stimuli(rng, tmp_path):
    stimuli = Stimuli.from_captions({f"s{i}": "text" for i in range(6)})
    subject = Subject("one", make(rng), stimuli, {"species": "human"})
    again = subject.save(tmp_path / "one")
    assert again.attrs == {"species": "human"} and again.shown().ids == ["s0", "s1", "s2", "s3"]
    assert again.roi("early").recording.n_neuroids == 2
    with pytest.raises(MismatchedIdsError, match="'s3'"):
        Subject("two", make(rng), stimuli.take(slice(0, 3)))
    with pytest.raises(FormatError, match="not a subject folder"):
        Subject.load(tmp_path)


def test_time_bins_are_told_where_there_is_no_place_for_them():
    still = Recording(np.zeros((3, 2)), {"stimulus_id": list("abc")})
    still.check_without_time()
    moving = Recording(np.zeros((3, 4, 2)), {"stimulus_id": list("abc")}, time=[0, 0.1, 0.2, 0.3])
    with pytest.raises(ShapeError, match=r"time bins.*select one bin"):
        moving.check_without_time()


def test_constant_neuroids_have_one_value_in_each_time_bin():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 4)).astype(np.float32)
    values[:, 1] = 0.1
    # Varies in a late block alone.
    values[:, 3], values[550, 3] = 2.0, 2.5
    ids = {"stimulus_id": [f"s{i}" for i in range(600)]}
    recording = Recording(values, ids, {"roi": ["V1"] * 4})
    assert recording.constant_neuroids().tolist() == [False, True, False, False]
    with pytest.raises(ConstantUnitError, match=r"does not vary over 600 presentations \(1 such in all\)"):
        recording.check_varies()
    bins = np.stack([values, np.ones_like(values)], 1)
    binned = Recording(bins, ids, {"roi": ["V1"] * 4}, time=[0.0, 0.1])
    assert binned.constant_neuroids().tolist() == [False, True, False, False]
