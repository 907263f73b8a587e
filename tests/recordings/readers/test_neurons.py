"""Sensorium folders and open-retina files written by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from recordings.errors import FormatError, NotFiniteError, ShapeError, TruncatedFileError
from recordings.readers import import_recording

NEURONS = 6


def write_folder(root: Path, kind: str, stimuli: list[np.ndarray], responses: list[np.ndarray | None]) -> None:
    for name in (kind, "responses", "behavior", "pupil_center"):
        (root / "data" / name).mkdir(parents=True)
    for i, (stimulus, response) in enumerate(zip(stimuli, responses, strict=True)):
        np.save(root / "data" / kind / f"{i}.npy", stimulus)
        np.save(root / "data" / "behavior" / f"{i}.npy", np.arange(3.0) + i)
        np.save(root / "data" / "pupil_center" / f"{i}.npy", np.array([i, -i], float))
        if response is not None:
            np.save(root / "data" / "responses" / f"{i}.npy", response)
    (root / "meta" / "neurons").mkdir(parents=True)
    np.save(root / "meta" / "neurons" / "unit_ids.npy", np.arange(NEURONS) * 2 + 1)
    np.save(root / "meta" / "neurons" / "area.npy", np.array(["V1"] * 4 + ["LM"] * 2))
    np.save(root / "meta" / "neurons" / "cell_motor_coordinates.npy", np.arange(3 * NEURONS).reshape(NEURONS, 3))
    (root / "meta" / "trials").mkdir(parents=True)


@pytest.fixture
def static(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    root = tmp_path / "static1-2-3"
    pictures = rng.integers(0, 256, size=(4, 1, 5, 7)).astype(np.float32)
    shown = [0, 1, 2, 1, 1, 3]
    responses = [rng.gamma(1, size=NEURONS) for _ in range(5)]
    write_folder(root, "images", [pictures[k] for k in shown], [*responses, None])
    np.save(root / "meta" / "trials" / "frame_image_id.npy", np.array([2214, 9, 77, 9, 9, 5000]))
    np.save(
        root / "meta" / "trials" / "tiers.npy", np.array(["train", "test", "validation", "test", "test", "final_test"])
    )
    return root, pictures, responses


def test_static_trials_repeats_and_held_back_tiers(static, tmp_path):
    root, pictures, responses = static
    imported = import_recording("sensorium", root, tmp_path / "r.zarr")
    recording = imported.recording
    np.testing.assert_allclose(recording.values, np.stack(responses), rtol=1e-6)
    assert list(recording.stimulus_ids) == ["2214", "9", "77", "9", "9"]
    assert list(recording.presentation("repetition")) == [0, 0, 0, 1, 2]
    assert recording.attrs["trials_without_responses"] == 1
    assert recording.neuroid_ids[1] == "unit3" and recording.roi("LM").n_neuroids == 2
    assert recording.presentation("behavior_2")[3] == 5 and recording.presentation("pupil_center_1")[3] == -3
    picture = imported.stimuli.select(["77"]).load(0)
    np.testing.assert_array_equal(picture, np.repeat(pictures[2, 0][..., None], 3, -1))
    saved = imported.stimuli.save(tmp_path / "stimuli")
    np.testing.assert_array_equal(saved.select(["77"]).load(0), picture)


def test_tiers_can_be_chosen(static, tmp_path):
    recording = import_recording("sensorium", static[0], tmp_path / "r.zarr", tiers=["test"]).recording
    assert list(recording.stimulus_ids) == ["9"] * 3
    with pytest.raises(FormatError, match="no trial with responses in these tiers"):
        import_recording("sensorium", static[0], tmp_path / "s.zarr", tiers=["final_test"])


def test_videos_of_other_lengths_are_padded_and_known_by_content(tmp_path, rng):
    root = tmp_path / "dynamic1"
    clips, responses = [], []
    for frames, seed in ((8, 0), (5, 1), (8, 0)):
        clip, response = np.full((2, 3, 8), np.nan, np.float32), np.full((NEURONS, 8), np.nan, np.float32)
        clip[..., :frames] = np.random.default_rng(seed).integers(0, 256, size=(2, 3, frames))
        response[:, :frames] = rng.gamma(1, size=(NEURONS, frames))
        clips.append(clip)
        responses.append(response)
    write_folder(root, "videos", clips, responses)
    np.save(root / "meta" / "trials" / "tiers.npy", np.array(["oracle"] * 3))
    imported = import_recording("sensorium", root, tmp_path / "r.zarr")
    recording = imported.recording
    np.testing.assert_array_equal(recording.values, np.stack(responses).transpose(0, 2, 1))
    assert recording.data.dims == ("presentation", "time", "neuroid")
    np.testing.assert_allclose(recording.data.time[3], 0.1)
    assert recording.stimulus_ids[0] == recording.stimulus_ids[2] != recording.stimulus_ids[1]
    assert [imported.stimuli.load(i).shape for i in range(2)] == [(8, 2, 3, 3), (5, 2, 3, 3)]
    responses[0][2, 4] = np.nan
    np.save(root / "data" / "responses" / "0.npy", responses[0])
    with pytest.raises(NotFiniteError, match=r"0.npy: neuron 2 has NaN within the trial"):
        import_recording("sensorium", root, tmp_path / "s.zarr")


def test_broken_trials_name_their_file(static, tmp_path):
    root, _, responses = static
    path = root / "data" / "responses" / "3.npy"
    np.save(path, responses[3][:-1])
    with pytest.raises(ShapeError, match=r"3.npy: responses of shape \(5,\)"):
        import_recording("sensorium", root, tmp_path / "r.zarr")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TruncatedFileError, match=r"3\.npy"):
        import_recording("sensorium", root, tmp_path / "r.zarr")
    np.save(root / "meta" / "neurons" / "unit_ids.npy", np.arange(4))
    with pytest.raises(ShapeError, match=r"unit_ids.npy: 4 units, the responses have 6"):
        import_recording("sensorium", root, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


@pytest.fixture
def retina(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray], np.ndarray]:
    movie = rng.normal(size=(2, 12, 4, 5)).astype(np.float32)
    noise = rng.integers(0, 256, size=(1, 7, 4, 5), dtype=np.uint8)
    responses = {"movie": rng.gamma(1, size=(3, NEURONS, 12)), "noise": rng.gamma(1, size=(NEURONS, 7))}
    with h5py.File(tmp_path / "session_7.h5", "w") as file:
        for name, values in responses.items():
            file[f"responses_{name}"] = values
        file["stimulus_noise"] = noise
        file["session_info/group_assignment"] = np.arange(NEURONS)
        file["session_info/cell_type"] = [f"type{k % 2}" for k in range(NEURONS)]
        file["session_info/animal"] = "mouse 3"
    (tmp_path / "stimuli").mkdir()
    np.save(tmp_path / "stimuli" / "movie.npy", movie)
    return tmp_path / "session_7.h5", responses, movie


def test_open_retina_trials_clips_and_session_info(retina, tmp_path):
    path, responses, movie = retina
    imported = import_recording("open_retina", path, tmp_path / "r.zarr", test_names=["movie"])
    recording = imported.recording
    assert list(recording.stimulus_ids) == ["movie"] * 3 + ["noise"]
    assert list(recording.presentation("split")) == ["test"] * 3 + ["train"]
    np.testing.assert_allclose(recording.values[1], responses["movie"][1].T, rtol=1e-6)
    np.testing.assert_allclose(recording.values[3, :7], responses["noise"].T, rtol=1e-6)
    assert np.isnan(recording.values[3, 7:]).all()
    assert list(recording.neuroid("group_assignment")) == list(range(NEURONS))
    assert recording.neuroid("cell_type")[1] == "type1" and recording.attrs["animal"] == "mouse 3"
    clip = imported.stimuli.select(["movie"]).load(0)
    scaled = np.round((movie - movie.min()) / np.ptp(movie) * 255)
    assert clip.shape == (12, 4, 5, 3) and (clip[..., 0] == 0).all()
    np.testing.assert_allclose(clip[..., 1:], np.moveaxis(scaled, 0, -1), atol=1)
    assert imported.stimuli.select(["noise"]).load(0).shape == (7, 4, 5, 3)


def test_open_retina_bad_input(retina, tmp_path):
    path, responses, _ = retina
    np.save(tmp_path / "stimuli" / "movie.npy", np.zeros((1, 9, 4, 5)))
    with pytest.raises(ShapeError, match=r"movie.npy: stimulus 'movie' of shape \(1, 9, 4, 5\) for 12 frames"):
        import_recording("open_retina", path, tmp_path / "r.zarr")
    (tmp_path / "stimuli" / "movie.npy").unlink()
    assert import_recording("open_retina", path, tmp_path / "r.zarr").stimuli is None
    with h5py.File(path, "a") as file:
        file["responses_movie"][1, 4, 6] = np.nan
    with pytest.raises(NotFiniteError, match="movie: neuron 4 has NaN in frame 6"):
        import_recording("open_retina", path, tmp_path / "s.zarr")
    with h5py.File(path, "a") as file:
        del file["responses_movie"]
        file["responses_movie"] = responses["movie"][:, :-1]
    with pytest.raises(ShapeError, match=r"stimuli with \[5, 6\] neurons"):
        import_recording("open_retina", path, tmp_path / "s.zarr")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TruncatedFileError, match=r"session_7\.h5"):
        import_recording("open_retina", path, tmp_path / "s.zarr")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(FormatError, match="no responses_<name>"):
        import_recording("open_retina", tmp_path / "other.h5", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
