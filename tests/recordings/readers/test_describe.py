"""`describe` says what is there without reading responses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recordings import Recording, Stimuli, Subject
from recordings.errors import FormatError
from recordings.rdms import RDMs
from recordings.readers.describe import describe


@pytest.fixture
def subject(rng):
    stimuli = Stimuli.from_arrays(rng.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8), list("abc"), category=list("xxy"))
    recording = Recording(
        rng.normal(size=(6, 4)),
        {"stimulus_id": list("abcabc"), "session": [1, 1, 1, 2, 2, 2]},
        {"neuroid_id": list("klmn"), "roi": ["V1", "V1|early", "V2", ""]},
        rois=["V1", "early", "V2", "V3"],
        attrs={"units": "percent"},
    )
    return Subject("s1", recording, stimuli, {"species": "human"})


def test_a_recording(subject, tmp_path):
    subject.recording.save(tmp_path / "r.zarr")
    said = describe(tmp_path / "r.zarr")
    assert said["kind"] == "recording" and said["shape"] == {"presentation": 6, "neuroid": 4}
    assert said["stimuli"] == 3 and said["repetitions"] == {"min": 2, "max": 2} and said["sessions"] == 2
    assert said["rois"] == {"V1": 2, "early": 1, "V2": 1, "V3": 0}
    assert said["attrs"] == {"units": "percent"}
    json.dumps(said)


def test_a_subject_and_its_stimuli(subject, tmp_path):
    subject.save(tmp_path / "s")
    said = describe(tmp_path / "s")
    assert said["kind"] == "subject" and said["recording"]["stimuli"] == 3
    assert said["stimuli"] == describe(tmp_path / "s" / "stimuli")
    assert said["stimuli"]["categories"] == 2 and said["stimuli"]["first_shape"] == [4, 4, 3]
    json.dumps(said)


def test_rdms(tmp_path):
    RDMs(np.ones((2, 3)), names=["IT | A | Session: 1", "IT | B | Session: 1"]).save(tmp_path / "x.npz")
    said = describe(tmp_path / "x.npz")
    assert said["kind"] == "rdms" and said["rdms"] == 2 and said["stimuli"] == 3
    assert said["factors"]["subject"] == ["A", "B"] and said["range"] == [1.0, 1.0]
    json.dumps(said)


def test_nothing_and_something_else(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        describe(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="neither a recording"):
        describe(tmp_path)
    np.savez(tmp_path / "plain.npz", a=np.zeros(3))
    with pytest.raises(FormatError, match="penfield import rdms"):
        describe(tmp_path / "plain.npz")
