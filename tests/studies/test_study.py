"""Study files: what they hold, what they refuse, and that they come back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import Recording
from recordings.errors import FormatError, InputError
from studies.study import Holdout, Study

TEXT = """
name = "test"
out = "results"
[recording]
path = "subject"
[[features]]
name = "pixels"
model = "baseline:pixels"
[[encode]]
name = "ridge"
features = ["pixels"]
"""


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path))
    assert study.recording.path == tmp_path / "subject" and study.out == tmp_path / "results"


def test_defaults_are_written_out_and_come_back_equal(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path))
    resolved = write(tmp_path, study.to_toml())
    assert "shuffles = 100" in resolved.read_text()
    assert Study.load(resolved) == study


def test_awkward_text_survives_the_round_trip(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, TEXT.replace('"subject"', r'"a \"quoted\" \\ näme"')))
    assert Study.load(write(tmp_path, study.to_toml())) == study


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("[[encode]]", "[[encoed]]"), "encoed"),
        (('"pixels"]', '"tokens"]'), "no features 'tokens'; there are: pixels"),
        (('model = "baseline:pixels"', ""), "give either model or path"),
        (('path = "subject"', ""), "give either path or simulate"),
        (('name = "test"', 'name = "a/b"'), "name"),
        (('name = "test"', "name = "), "TOML"),
        (('[[encode]]\nname = "ridge"\nfeatures = ["pixels"]', ""), "nothing is asked"),
        (("[[features]]", '[[features]]\nname = "pixels"\nmodel = "baseline:gabor"\n[[features]]'), "occurs twice"),
        (("[[features]]", '[split]\nby = "session"\n[[features]]'), "held_out"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = write(tmp_path, TEXT.replace(*change))
    assert path.read_text() != TEXT
    with pytest.raises(FormatError, match=says) as caught:
        Study.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"absent\.toml"):
        Study.load(tmp_path / "absent.toml")


@pytest.fixture
def recording(rng: np.random.Generator) -> Recording:
    table: dict[str, Any] = {"stimulus_id": [f"s{i}" for i in range(10)] * 2, "session": [1] * 10 + [2] * 10}
    return Recording(rng.standard_normal((20, 3)), table)


@pytest.mark.parametrize(("text", "n_test"), [("stimulus:0.3", 6), ("stimulus:2", 4), ("session:2", 10)])
def test_holdouts_on_the_command_line(recording: Recording, text: str, n_test: int) -> None:
    assert len(Holdout.parse(text).split(recording, seed=0).test) == n_test


@pytest.mark.parametrize("text", ["stimulus:x", "stimulus:0", "session", "session:"])
def test_bad_holdouts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"stimulus:0\.2"):
        Holdout.parse(text)


def test_a_held_out_session_that_does_not_exist_is_refused(recording: Recording) -> None:
    with pytest.raises(InputError, match=r"no session '7'\. There are: 1, 2"):
        Holdout.parse("session:7").split(recording, seed=0)
