"""An Algonauts 2023 subject written by hand: empty ROI, overlapping groups, pickled mappings."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recordings.errors import EmptyROIError, FormatError, NotFiniteError, ShapeError, TruncatedFileError
from recordings.readers import import_recording

N, SIZES = 7, {"lh": 12, "rh": 9}


@pytest.fixture
def subject(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path / "subj03"
    images, fmri = root / "training_split" / "training_images", root / "training_split" / "training_fmri"
    masks = root / "roi_masks"
    for folder in (images, fmri, masks):
        folder.mkdir(parents=True)
    for i in range(N):
        pixels = rng.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"train-{i + 1:04d}_nsd-{i * 1000 + 13:05d}.png")
    responses = {side: rng.normal(size=(N, n)).astype(np.float32) for side, n in SIZES.items()}
    for side, n in SIZES.items():
        np.save(fmri / f"{side}_training_fmri.npy", responses[side])
        visual, streams = np.zeros(n, np.float32), np.zeros(n, np.float32)
        visual[:3], visual[3:5] = 1, 2
        streams[2:6] = 1
        if side == "rh":
            visual[3:5] = 0  # hV4 is there in the left hemisphere only.
        np.save(masks / f"{side}.prf-visualrois_challenge_space.npy", visual)
        np.save(masks / f"{side}.streams_challenge_space.npy", streams)
    np.save(masks / "mapping_prf-visualrois.npy", {0: "Unknown", 1: "V1v", 2: "hV4", 3: "V3d"}, allow_pickle=True)
    np.save(masks / "mapping_streams.npy", {0: "Unknown", np.int64(1): "early"}, allow_pickle=True)
    return root, responses


def test_hemispheres_images_and_overlapping_groups(subject, tmp_path):
    root, responses = subject
    imported = import_recording("algonauts2023", root, tmp_path / "r.zarr")
    recording = imported.recording
    np.testing.assert_array_equal(recording.values, np.hstack([responses["lh"], responses["rh"]]))
    assert recording.stimulus_ids[1] == "train-0002_nsd-01013"
    assert recording.neuroid("roi")[2] == "V1v|early" and recording.neuroid("roi")[11] == ""
    assert recording.roi("hV4").n_neuroids == 2 and set(recording.roi("hV4").neuroid("hemisphere")) == {"L"}
    assert imported.stimuli.ids == list(recording.stimulus_ids) and imported.stimuli.load(0).shape == (6, 6, 3)


def test_an_empty_roi_is_declared(subject, tmp_path):
    recording = import_recording("algonauts2023", subject[0], tmp_path / "r.zarr").recording
    with pytest.raises(EmptyROIError, match="'V3d' has no neuroid"):
        recording.roi("V3d")
    assert "Unknown" not in recording.declared_rois


def test_vertices_of_fsaverage_where_the_maps_are_there(subject, tmp_path):
    root, _ = subject
    places = {}
    for side, n in SIZES.items():
        inside = np.zeros(163842, np.int32)
        places[side] = np.arange(n) * 1000 + 17
        inside[places[side]] = 1
        np.save(root / "roi_masks" / f"{side}.all-vertices_fsaverage_space.npy", inside)
    recording = import_recording("algonauts2023", root, tmp_path / "r.zarr").recording
    assert recording.space.name == "fsaverage" and recording.space.shape == (163842, 163842)
    np.testing.assert_array_equal(recording.neuroid("vertex"), np.r_[places["lh"], places["rh"]])
    assert recording.to_gifti(recording.values[0])["R"].darrays[0].data[17] == recording.values[0, 12]


def test_a_mask_in_fsaverage_space_is_refused(subject, tmp_path):
    root, _ = subject
    path = root / "roi_masks" / "rh.streams_challenge_space.npy"
    np.save(path, np.zeros(163842, np.float32))
    with pytest.raises(ShapeError, match=r"rh.streams_challenge_space.npy: 163842 vertices, the responses have 9"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")


def test_wrong_lengths_cut_files_and_nan(subject, tmp_path):
    root, responses = subject
    path = root / "training_split" / "training_fmri" / "rh_training_fmri.npy"
    np.save(path, responses["rh"][:-1])
    with pytest.raises(ShapeError, match=r"rh_training_fmri.npy: 6 responses to 7 images"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")
    np.save(path, responses["rh"])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TruncatedFileError, match=r"rh_training_fmri\.npy"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")
    responses["rh"][4, 1] = np.inf
    np.save(path, responses["rh"])
    with pytest.raises(NotFiniteError, match=r"presentation 4 .* 'R1'"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_region_without_a_name(subject, tmp_path):
    root, _ = subject
    np.save(root / "roi_masks" / "mapping_streams.npy", {0: "Unknown", 5: "ventral"}, allow_pickle=True)
    with pytest.raises(FormatError, match=r"lh.streams_challenge_space.npy: region 1 has no name"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")


class Attack:
    """Pickled, it asks the reader to run a command."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {0: a}, lambda a: np.array([a], object)])
def test_a_hostile_mapping_runs_nothing(subject, tmp_path, wrap):
    root, _ = subject
    witness = tmp_path / "witness"
    content = np.empty((), object)
    content[()] = wrap(Attack(witness))
    np.save(root / "roi_masks" / "mapping_streams.npy", content, allow_pickle=True)
    with pytest.raises(FormatError, match=r"mapping_streams.npy: .*(posix|nt).system"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")
    assert not witness.exists()


@pytest.mark.parametrize("content", [["V1"], {1: 2}, {"V1": 1}, 7])
def test_a_mapping_that_is_no_mapping(subject, tmp_path, content):
    root, _ = subject
    held = np.empty((), object)
    held[()] = content
    np.save(root / "roi_masks" / "mapping_streams.npy", held, allow_pickle=True)
    with pytest.raises(FormatError, match=r"mapping_streams\.npy"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")


def test_a_cut_mapping(subject, tmp_path):
    root, _ = subject
    path = root / "roi_masks" / "mapping_streams.npy"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(TruncatedFileError, match=r"mapping_streams\.npy"):
        import_recording("algonauts2023", root, tmp_path / "r.zarr")
