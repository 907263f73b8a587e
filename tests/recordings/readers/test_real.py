"""Recordings that were made of brains; figures as in the SOURCE.txt beside each."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from recordings.readers import import_recording

pytestmark = pytest.mark.real


def test_haxby_block_means(real_data, tmp_path):
    options = {"unit": "block", "detrend": True, "scale": True}
    recording = import_recording("nifti", real_data / "haxby-slice", tmp_path / "haxby.zarr", **options).recording
    assert recording.data.shape == (96, 530) and recording.space.shape == (40, 20, 1)
    counts = {c: int((recording.presentation("category") == c).sum()) for c in recording.presentation("category")}
    assert len(counts) == 8 and set(counts.values()) == {12}
    assert recording.stimulus_ids[0] == "scissors-run00"
    model = make_pipeline(StandardScaler(), LinearSVC(C=1))
    accuracy = cross_val_score(
        model,
        recording.values,
        recording.presentation("category"),
        groups=recording.presentation("run"),
        cv=LeaveOneGroupOut(),
    )
    assert accuracy.mean() == pytest.approx(0.802, abs=0.02)


def test_haxby_volumes(real_data, tmp_path):
    recording = import_recording("nifti", real_data / "haxby-slice", tmp_path / "haxby.zarr").recording
    assert recording.data.shape == (1452, 530) and recording.attrs["tr"] == 2.5
    categories, counts = np.unique(recording.presentation("category").astype(str), return_counts=True)
    assert dict(zip(categories, counts, strict=True))["rest"] == 588
    assert list(np.unique(recording.presentation("run"))) == list(range(12))


def test_kriegeskorte_rdms(real_data, tmp_path):
    rdms = import_recording("rdms", real_data / "kriegeskorte92", tmp_path / "it.npz").data
    assert len(rdms) == 8 and rdms.n_stimuli == 92 and rdms.stimulus_ids[0] == "01"
    people = rdms.average("subject")
    assert people.names == ["BE", "KO", "SN", "TI"]
    np.testing.assert_allclose(people.values[0], rdms.values[:2].mean(0), rtol=1e-6)
    # Sessions of one person agree better than people do.
    r = np.corrcoef(rdms.values)
    within = np.mean([r[2 * k, 2 * k + 1] for k in range(4)])
    between = np.mean([r[i, j] for i in range(8) for j in range(i) if i // 2 != j // 2])
    assert within > between > 0.05


def test_antolik_repetitions(real_data, tmp_path):
    folder = real_data / "antolik-v1"
    options = {"images": folder / "validation_inputs.npy", "image_shape": (31, 31)}
    imported = import_recording("npy", folder / "raw_validation_set.npy", tmp_path / "v1.zarr", **options)
    assert imported.recording.data.shape == (500, 103) and len(imported.stimuli) == 50
    mean = imported.recording.average_repetitions()
    np.testing.assert_allclose(mean.values, np.load(folder / "validation_set.npy"), atol=1e-5)
    pixels = np.stack([s[..., 0].ravel() for s in imported.stimuli]).astype(float)
    assert np.corrcoef(pixels.ravel(), np.load(folder / "validation_inputs.npy").ravel())[0, 1] > 0.9999
