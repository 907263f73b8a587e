"""NIfTI: volumes, blocks, trials and single-trial betas from an image written by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from recordings import InputError
from recordings.errors import EmptyROIError, FormatError, NotFiniteError, ShapeError, TruncatedFileError
from recordings.readers import import_recording

TR = 2.0
AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])


def write_image(path: Path, data: np.ndarray, tr: float = TR) -> Path:
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((3.0, 3.0, 4.0, tr)[: data.ndim])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


@pytest.fixture
def blocks(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """Two runs of rest, face, rest, house, rest, face; 4 x 3 x 2 voxels, ten in the mask."""
    labels = [
        (name, run)
        for run in range(2)
        for name, n in (("rest", 3), ("face", 4), ("rest", 2), ("house", 5), ("rest", 3), ("face", 4))
        for _ in range(n)
    ]
    data = rng.normal(100, 10, size=(4, 3, 2, len(labels))).astype(np.float32)
    mask = np.zeros((4, 3, 2), np.uint8)
    mask.ravel()[rng.choice(24, 10, replace=False)] = 1
    write_image(tmp_path / "bold.nii.gz", data)
    write_image(tmp_path / "mask.nii.gz", mask)
    (tmp_path / "attributes_literal.txt").write_text("".join(f"{name} {run}\n" for name, run in labels))
    return tmp_path, data, mask.astype(bool), labels


def test_volumes_as_they_are_with_their_labels(blocks, tmp_path):
    folder, data, mask, labels = blocks
    recording = import_recording("nifti", folder, tmp_path / "r.zarr").recording
    np.testing.assert_array_equal(recording.values, data[mask].T)
    assert list(recording.presentation("category")) == [name for name, _ in labels]
    assert list(recording.presentation("run")) == [run for _, run in labels]
    assert recording.presentation("onset")[22] == TR  # Seconds start anew in each run.
    assert recording.attrs["tr"] == TR
    i, j, k = np.argwhere(mask)[3]
    assert recording.neuroid_ids[3] == f"v{i}_{j}_{k}"
    np.testing.assert_allclose([recording.neuroid(a)[3] for a in "xyz"], [3 * i, 3 * j, 4 * k])


def test_block_means_leave_rest_out_and_number_repeated_blocks(blocks, tmp_path):
    folder, data, mask, _ = blocks
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", unit="block").recording
    ids = [f"{b}-run{r:02d}{n}" for r in range(2) for b, n in (("face", ""), ("house", ""), ("face", "-block2"))]
    assert list(recording.stimulus_ids) == ids
    spans = [(3, 7), (9, 14), (17, 21), (24, 28), (30, 35), (38, 42)]
    expected = np.stack([data[mask][:, a:b].mean(1) for a, b in spans])
    np.testing.assert_allclose(recording.values, expected, rtol=1e-5)
    assert list(recording.presentation("duration")) == [8.0, 10.0, 8.0] * 2


def test_block_lag_shifts_the_volumes_and_stays_inside_the_run(blocks, tmp_path):
    folder, data, mask, _ = blocks
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", unit="block", lag=4.0).recording
    np.testing.assert_allclose(recording.values[1], data[mask][:, 11:16].mean(1), rtol=1e-5)
    np.testing.assert_allclose(recording.values[2], data[mask][:, 19:21].mean(1), rtol=1e-5)
    with pytest.raises(InputError, match="no volume of run 0 falls into the window of block face-run00-block2"):
        import_recording("nifti", folder, tmp_path / "s.zarr", unit="block", lag=8.0)


def test_detrending_and_scaling_work_run_by_run(blocks, tmp_path):
    folder, data, mask, labels = blocks
    n = len(labels) // 2
    drift = data + 50 * np.linspace(0, 1, 2 * n, dtype=np.float32) + np.repeat([0, 300], n).astype(np.float32)
    write_image(folder / "bold.nii.gz", drift)
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", detrend=True, scale=True).recording
    for run in (slice(0, n), slice(n, 2 * n)):
        t = np.linspace(-1, 1, n)
        x = np.column_stack([np.ones(n), t])
        y = drift[mask].T[run].astype(float)
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        np.testing.assert_allclose(recording.values[run], residual / residual.std(0, ddof=1), atol=1e-4)


def test_labels_with_a_header_and_commas(blocks, tmp_path):
    folder, _, _, labels = blocks
    table = folder / "labels.csv"
    table.write_text("labels,chunks\n" + "".join(f"{name},{run}\n" for name, run in labels))
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", labels=table, unit="block").recording
    assert len(recording) == 6


def test_rois_may_overlap_and_an_empty_one_is_told_from_an_unknown_one(blocks, tmp_path):
    folder, _, mask, _ = blocks
    first = np.zeros(mask.shape, np.uint8)
    first[tuple(np.argwhere(mask)[0])] = 1
    write_image(folder / "one.nii.gz", first)
    write_image(folder / "none.nii.gz", (~mask).astype(np.uint8))
    rois = {"all": folder / "mask.nii.gz", "one": folder / "one.nii.gz", "none": folder / "none.nii.gz"}
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", rois=rois).recording
    assert recording.neuroid("roi")[0] == "all|one"
    assert recording.roi("one").n_neuroids == 1 and recording.roi("all").n_neuroids == 10
    with pytest.raises(EmptyROIError, match="'none'"):
        recording.roi("none")


def test_beta_series_with_a_table_of_presentations(blocks, tmp_path):
    folder, data, mask, labels = blocks
    table = pd.DataFrame({"stimulus_id": [f"img{i % 7}" for i in range(len(labels))], "session": 3})
    table.to_csv(folder / "shown.csv", index=False)
    recording = import_recording("nifti", folder, tmp_path / "r.zarr", presentations=folder / "shown.csv").recording
    assert recording.stimulus_ids[8] == "img1" and recording.presentation("repetition")[8] == 1
    assert set(recording.presentation("session")) == {3}
    np.testing.assert_array_equal(recording.values, data[mask].T)


# Events ------------------------------------------------------------------------------------------------------------


def response(t: np.ndarray) -> np.ndarray:
    """Glover (1999) double gamma, as nilearn samples it."""
    from nilearn.glm.first_level.hemodynamic_models import glover_hrf

    kernel = glover_hrf(TR, oversampling=50)
    return np.interp(t, np.arange(len(kernel)) * TR / 50, kernel, left=0, right=0)


@pytest.fixture
def trials(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray, pd.DataFrame]:
    """One run with 16 trials of two conditions; what is planted is the amplitude of each trial in each voxel."""
    n, onsets = 160, np.arange(16) * 18.0 + 10.3
    events = pd.DataFrame(
        {
            "onset": onsets,
            "duration": 1.0,
            "trial_type": ["cat", "dog"] * 8,
            "stimulus_id": [f"p{i}" for i in range(16)],
        }
    )
    betas = rng.normal(2, 1, size=(16, 6))
    fine = np.arange(0, n * TR, TR / 50)
    boxcars = ((fine[:, None] >= onsets) & (fine[:, None] < onsets + 1.0)).astype(float)
    kernel = response(np.arange(0, 32, TR / 50))
    convolved = np.stack([np.convolve(b, kernel)[: len(fine)] for b in boxcars.T], 1)[::50]
    drift = 3 * np.cos(np.pi * 2 * (np.arange(n) + 0.5) / n)[:, None]
    series = 100 + drift + convolved @ betas
    write_image(tmp_path / "run.nii.gz", series.T.reshape(6, 1, 1, n).astype(np.float32))
    write_image(tmp_path / "mask.nii.gz", np.ones((6, 1, 1), np.uint8))
    events.to_csv(tmp_path / "events.tsv", sep="\t", index=False)
    return tmp_path / "run.nii.gz", betas, events


@pytest.mark.parametrize("unit", ["lsa", "lss"])
def test_single_trial_betas_recover_the_planted_amplitudes(trials, tmp_path, unit):
    source, betas, events = trials
    recording = import_recording(
        "nifti", source, tmp_path / f"{unit}.zarr", events=source.parent / "events.tsv", unit=unit
    ).recording
    assert list(recording.stimulus_ids) == list(events["stimulus_id"])
    assert list(recording.presentation("category")) == list(events["trial_type"])
    r = [np.corrcoef(recording.values[:, v], betas[:, v])[0, 1] for v in range(6)]
    assert min(r) > 0.97
    # Onsets are sampled more coarsely here than by nilearn; LSS takes the other trials for equal, which they are not.
    np.testing.assert_allclose(recording.values, betas, atol=0.15 if unit == "lsa" else 0.25)


@pytest.mark.parametrize("unit", ["lsa", "lss"])
def test_single_trial_betas_agree_with_nilearn(trials, tmp_path, unit):
    from nilearn.glm.first_level import make_first_level_design_matrix, run_glm

    source, _, events = trials
    series = nib.load(source).get_fdata().reshape(6, -1).T
    frames = np.arange(len(series)) * TR
    recording = import_recording(
        "nifti", source, tmp_path / "r.zarr", events=source.parent / "events.tsv", unit=unit
    ).recording
    for trial in (0, 7, 15):
        table = events[["onset", "duration", "trial_type"]].copy()
        table["trial_type"] = table["trial_type"] if unit == "lss" else [f"t{i}" for i in range(16)]
        table.loc[trial, "trial_type"] = "this"
        design = make_first_level_design_matrix(frames, table, hrf_model="glover", drift_model="cosine", high_pass=0.01)
        _, results = run_glm(series, design.to_numpy(), noise_model="ols")
        theta = next(iter(results.values())).theta[list(design.columns).index("this")]
        np.testing.assert_allclose(recording.values[trial], theta, rtol=1e-3, atol=1e-3)


def test_trial_means_over_a_window(trials, tmp_path):
    source, _, _ = trials
    options = {"events": source.parent / "events.tsv", "unit": "trial", "lag": 4.0, "window": 4.0, "exclude": ["dog"]}
    recording = import_recording("nifti", source, tmp_path / "r.zarr", **options).recording
    series = nib.load(source).get_fdata().reshape(6, -1).T
    assert len(recording) == 8
    np.testing.assert_allclose(recording.values[0], series[8:10].mean(0), rtol=1e-5)  # 14.3 s to 18.3 s: 16 s and 18 s.


def test_trials_of_unknown_pictures_get_ids_of_their_own(trials, tmp_path):
    source, _, events = trials
    bare = source.parent / "bare.tsv"
    events.drop(columns="stimulus_id").to_csv(bare, sep="\t", index=False)
    recording = import_recording("nifti", source, tmp_path / "r.zarr", events=bare, unit="lsa").recording
    assert list(recording.stimulus_ids[:4]) == ["cat-run00", "dog-run00", "cat-run00-block2", "dog-run00-block2"]


def test_an_event_after_the_end_is_refused(trials, tmp_path):
    source, _, events = trials
    late = source.parent / "late.tsv"
    pd.concat([events, events.tail(1).assign(onset=500.0)]).to_csv(late, sep="\t", index=False)
    with pytest.raises(InputError, match="event at 500 s leaves no trace"):
        import_recording("nifti", source, tmp_path / "r.zarr", events=late, unit="lss")


def test_a_gap_in_the_events_names_the_row(trials, tmp_path):
    source, _, events = trials
    gap = source.parent / "gap.tsv"
    events.assign(onset=events["onset"].where(events.index != 5)).to_csv(gap, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(FormatError, match=r"gap.tsv: event 5 has no onset"):
        import_recording("nifti", source, tmp_path / "r.zarr", events=gap, unit="lsa")


# Bad input -----------------------------------------------------------------------------------------------------------


def test_truncated_files_name_the_file_and_leave_nothing(blocks, tmp_path):
    folder, _, _, _ = blocks
    whole = gzip.decompress((folder / "bold.nii.gz").read_bytes())
    (folder / "bold.nii.gz").write_bytes((packed := gzip.compress(whole))[: len(packed) * 3 // 4])
    with pytest.raises(TruncatedFileError, match=r"bold.nii.gz: volumes 21 to 41 cannot be read"):
        import_recording("nifti", folder, tmp_path / "r.zarr")
    plain = folder / "plain.nii"
    plain.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TruncatedFileError, match=r"plain\.nii"):
        import_recording("nifti", plain, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists() and not list(tmp_path.glob(".*part"))


def test_nan_voxel_names_presentation_and_voxel(blocks, tmp_path):
    folder, data, mask, _ = blocks
    i, j, k = np.argwhere(mask)[4]
    data[i, j, k, 17] = np.nan
    write_image(folder / "bold.nii.gz", data)
    with pytest.raises(NotFiniteError, match=rf"presentation 17 .* 'v{i}_{j}_{k}'"):
        import_recording("nifti", folder, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_shapes_that_do_not_fit(blocks, tmp_path):
    folder, _, _, labels = blocks
    write_image(folder / "other.nii.gz", np.ones((4, 3, 1), np.uint8))
    with pytest.raises(ShapeError, match=r"mask of \(4, 3, 1\)"):
        import_recording("nifti", folder, tmp_path / "r.zarr", mask=folder / "other.nii.gz")
    with pytest.raises(ShapeError, match="Give a 4-D image"):
        import_recording("nifti", folder / "mask.nii.gz", tmp_path / "r.zarr")
    (folder / "attributes_literal.txt").write_text("face 0\n" * (len(labels) - 1))
    with pytest.raises(ShapeError, match=f"attributes_literal.txt: {len(labels) - 1} rows for {len(labels)} volumes"):
        import_recording("nifti", folder, tmp_path / "r.zarr")


def test_a_run_that_comes_back_is_refused(blocks, tmp_path):
    folder, _, _, labels = blocks
    (folder / "attributes_literal.txt").write_text("".join(f"face {i % 2}\n" for i in range(len(labels))))
    with pytest.raises(FormatError, match="do not follow each other"):
        import_recording("nifti", folder, tmp_path / "r.zarr")


def test_an_empty_mask_and_a_missing_one(blocks, tmp_path):
    folder, _, mask, _ = blocks
    write_image(folder / "empty.nii.gz", np.zeros(mask.shape, np.uint8))
    with pytest.raises(InputError, match=r"empty.nii.gz: the mask is empty"):
        import_recording("nifti", folder, tmp_path / "r.zarr", mask=folder / "empty.nii.gz")
    (folder / "mask.nii.gz").unlink()
    with pytest.raises(InputError, match="no mask beside it"):
        import_recording("nifti", folder, tmp_path / "r.zarr")


def test_a_long_beta_series_is_read_in_blocks(tmp_path, rng):
    n = 1300
    data = rng.normal(size=(3, 2, 1, n)).astype(np.float32)
    write_image(tmp_path / "bold.nii.gz", data)
    write_image(tmp_path / "mask.nii.gz", np.ones((3, 2, 1), np.uint8))
    pd.DataFrame({"stimulus_id": [f"s{i}" for i in range(n)]}).to_csv(tmp_path / "p.csv", index=False)
    seen = []
    recording = import_recording(
        "nifti", tmp_path, tmp_path / "r.zarr", presentations=tmp_path / "p.csv", on_event=lambda e: seen.append(e.done)
    ).recording
    assert seen == [0, 512, 1024, 1300]
    np.testing.assert_array_equal(recording.values, data.reshape(6, n).T)
