"""fMRIPrep derivatives written by hand: two sessions, runs 2 and 10, n/a in the confounds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from recordings import InputError
from recordings.errors import FormatError, NotFiniteError, ShapeError
from recordings.readers import import_recording

TR, N = 1.5, 40
MOTION = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]


def write_run(root: Path, session: str, run: int, data: np.ndarray, mask: np.ndarray, motion: np.ndarray) -> None:
    folder = root / "derivatives" / "fmriprep" / "sub-01" / f"ses-{session}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"sub-01_ses-{session}_task-view_run-{run}"
    space = f"{stem}_space-MNI152NLin2009cAsym_res-2"
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), folder / f"{space}_desc-preproc_bold.nii.gz")
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), folder / f"{space}_desc-brain_mask.nii.gz")
    sidecar = {"RepetitionTime": TR, "StartTime": 0.75, "SkullStripped": False}
    (folder / f"{space}_desc-preproc_bold.json").write_text(json.dumps(sidecar))
    table = pd.DataFrame(motion, columns=MOTION)
    table["framewise_displacement"] = np.r_[np.nan, np.arange(N - 1)]
    table.to_csv(folder / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    raw = root / "sub-01" / f"ses-{session}" / "func"
    raw.mkdir(parents=True, exist_ok=True)
    events = pd.DataFrame(
        {
            "onset": [6.0, 24.0, 42.0],
            "duration": 3.0,
            "trial_type": "image",
            "stim_file": ["a/1.png", "a/2.png", "a/1.png"],
        }
    )
    events.to_csv(raw / f"{stem}_events.tsv", sep="\t", index=False)


@pytest.fixture
def dataset(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, list[np.ndarray], np.ndarray]:
    root = tmp_path / "ds"
    masks = [np.ones((3, 2, 2), bool) for _ in range(3)]
    masks[1][0, 0, 0] = masks[2][2, 1, 1] = False
    signals = []
    for (session, run), mask in zip((("a", 2), ("a", 10), ("b", 1)), masks, strict=True):
        motion = rng.normal(size=(N, 6))
        signal = rng.normal(size=(3, 2, 2, N))
        data = 100 + signal + 5 * motion[:, 0]
        write_run(root, session, run, data, mask, motion)
        x = np.column_stack([np.ones(N), motion])
        y = data.reshape(-1, N).T
        signals.append(y - x @ np.linalg.lstsq(x, y, rcond=None)[0] + y.mean(0))
    (root / "dataset_description.json").write_text('{"Name": "written by hand", "BIDSVersion": "1.9.0"}')
    return root, signals, np.logical_and.reduce(masks)


def test_runs_in_order_common_mask_and_confounds_taken_out(dataset, tmp_path):
    root, signals, mask = dataset
    recording = import_recording(
        "bids", root / "derivatives" / "fmriprep", tmp_path / "r.zarr", subject="01", task="view"
    ).recording
    assert recording.n_neuroids == 10 and recording.space.name == "MNI152NLin2009cAsym"
    sessions, runs = recording.presentation("session"), recording.presentation("run")
    assert list(dict.fromkeys(zip(sessions, runs, strict=True))) == [("a", 2), ("a", 10), ("b", 1)]
    np.testing.assert_allclose(recording.values[:N], signals[0][:, mask.ravel()], atol=1e-3)
    assert recording.presentation("onset")[0] == 0.75 and recording.attrs["tr"] == TR


def test_trials_are_named_by_their_picture_and_repeat_over_runs(dataset, tmp_path):
    root, _, _ = dataset
    recording = import_recording(
        "bids", root / "derivatives" / "fmriprep", tmp_path / "r.zarr", subject="01", task="view", unit="lss"
    ).recording
    assert list(recording.stimulus_ids) == ["a/1", "a/2", "a/1"] * 3
    assert list(recording.presentation("repetition")) == [0, 0, 1, 2, 1, 3, 4, 2, 5]


def test_confounds_with_na_in_the_first_volume_only(dataset, tmp_path):
    root, _, _ = dataset
    source = root / "derivatives" / "fmriprep"
    options = {"subject": "01", "task": "view", "confounds": ["framewise_displacement"]}
    import_recording("bids", source, tmp_path / "r.zarr", **options)
    table = next(source.rglob("*ses-b*confounds_timeseries.tsv"))
    broken = pd.read_csv(table, sep="\t")
    broken.loc[7, "framewise_displacement"] = np.nan
    broken.to_csv(table, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(
        NotFiniteError, match=r"confounds_timeseries.tsv: confound 'framewise_displacement' .* volume 7"
    ):
        import_recording("bids", source, tmp_path / "s.zarr", **options)


def test_what_is_missing_is_named(dataset, tmp_path):
    root, _, _ = dataset
    source = root / "derivatives" / "fmriprep"
    with pytest.raises(FormatError, match=r"no preprocessed run of sub-01, task-rest"):
        import_recording("bids", source, tmp_path / "r.zarr", subject="01", task="rest")
    with pytest.raises(FormatError, match="lacks the column 'csf'"):
        import_recording("bids", source, tmp_path / "r.zarr", subject="01", task="view", confounds=["csf"])
    for path in list(root.rglob("*_events.tsv")):
        path.unlink()
    with pytest.raises(InputError, match="trials need events"):
        import_recording("bids", source, tmp_path / "r.zarr", subject="01", task="view", unit="lsa")


def test_several_spaces_or_grids_must_be_chosen_between(dataset, tmp_path):
    root, _, _ = dataset
    source = root / "derivatives" / "fmriprep"
    image = next(source.rglob("*ses-b*_desc-preproc_bold.nii.gz"))
    nib.save(nib.load(image), image.with_name(image.name.replace("MNI152NLin2009cAsym", "T1w")))
    with pytest.raises(InputError, match="Choose one: MNI152NLin2009cAsym, T1w"):
        import_recording("bids", source, tmp_path / "r.zarr", subject="01", task="view")
    nib.save(nib.Nifti1Image(np.zeros((3, 2, 3, N), np.float32), np.eye(4)), image)
    with pytest.raises(ShapeError, match="another grid"):
        import_recording("bids", source, tmp_path / "r.zarr", subject="01", task="view", space="MNI152NLin2009cAsym")


def test_events_are_inherited_from_the_top_level(dataset, tmp_path):
    root, _, _ = dataset
    for number, path in enumerate(list(root.rglob("*_events.tsv"))):
        if number:
            path.unlink()
        else:
            path.rename(root / "task-view_events.tsv")
    recording = import_recording(
        "bids", root / "derivatives" / "fmriprep", tmp_path / "r.zarr", subject="01", task="view", unit="lsa"
    ).recording
    assert len(recording) == 9
