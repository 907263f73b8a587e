"""Study files: what they hold, what they refuse, and that they come back as they were."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from encoders import TransformerEncoder
from recordings import Recording, Stimuli
from recordings.errors import FormatError, InputError
from studies.questions import Transformer
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


NETWORK = """
[[encode]]
name = "network"
model = "transformer"
routing = "vertex"
runs = 3
features = ["pixels"]
[encode.transformer]
epochs = 3
grid = [8, 8]
[[encode]]
name = "banded"
model = "banded_ridge"
features = ["pixels"]
[[ensemble]]
name = "both"
members = ["network", "ridge"]
[split]
ensemble = 0.1
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


def test_the_transformer_and_ensembles_come_back_equal(tmp_path: Path) -> None:
    study = Study.load(write(tmp_path, TEXT + NETWORK))
    network = study.encode[1]
    assert network.transformer is not None and network.transformer.grid == (8, 8) and network.runs == 3
    resolved = write(tmp_path, study.to_toml()).read_text()
    assert "learning_rate = 0.0005" in resolved and "temperature = 40.0" in resolved
    assert Study.load(tmp_path / "study.toml") == study


def test_the_transformers_table_has_the_encoders_options_and_defaults() -> None:
    elsewhere = {"self", "routing", "delays", "seed", "device"}
    options = inspect.signature(TransformerEncoder.__init__).parameters
    assert Transformer().model_dump() == {n: p.default for n, p in options.items() if n not in elsewhere}


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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("epochs = 3", "epoch = 3"), "transformer.epoch"),
        (("epochs = 3", "epochs = 0"), "transformer.epochs"),
        (('"vertex"', '"pooled"'), "'pooled' is of model 'ridge'"),
        (('"vertex"', '"rio"'), "routing"),
        (('model = "transformer"', ""), "'vertex' is of model 'transformer'"),
        (('routing = "vertex"', "folds = 3"), r"\[encode.transformer\]"),
        (('model = "banded_ridge"', "runs = 2"), "no seed"),
        (('model = "banded_ridge"', 'model = "banded_ridge"\nrouting = "cls"'), "takes no routing"),
        (('model = "banded_ridge"', "transformer = {}"), "goes with model = 'transformer'"),
        (("ensemble = 0.1", "ensemble = 0.0"), r"ensemble = 0\.1"),
        (("ensemble = 0.1", "ensemble = 1.5"), "ensemble"),
        (('members = ["network", "ridge"]', 'members = ["forest"]'), "no .*'forest'; there are: ridge, network"),
        (('members = ["network", "ridge"]', "members = []"), "members"),
        (('name = "both"', 'name = "ridge"'), "occurs twice"),
    ],
)
def test_mistakes_about_the_transformer_are_named(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = write(tmp_path, TEXT + NETWORK.replace(*change))
    assert NETWORK.replace(*change) != NETWORK
    with pytest.raises(FormatError, match=says):
        Study.load(path)


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


@pytest.mark.parametrize(("text", "n_values"), [("kind:a", 1), ("kind:a,c", 2), ("kind:3", 3), ("size:10", 1)])
def test_holdouts_by_a_column_of_the_stimuli(recording: Recording, text: str, n_values: int) -> None:
    ids = [f"s{i}" for i in range(10)]
    kinds, sizes = list("abcdeabcde"), [10, 20] * 5
    stimuli = Stimuli.from_arrays(np.zeros((10, 2, 2, 3), np.uint8), ids, kind=kinds, size=sizes)
    column = stimuli.table.set_index(pd.Index(ids))[text.partition(":")[0]]
    train, test = (
        set(column[part.stimulus_ids]) for part in Holdout.parse(text).split(recording, 0, stimuli).apply(recording)
    )
    assert len(test) == n_values and train == set(column) - test
    # A number that is a value is that value, and without stimuli there is no such column.
    assert not text.startswith("size") or test == {10}
    with pytest.raises(InputError, match=text.partition(":")[0]):
        Holdout.parse(text).split(recording, 0)


@pytest.mark.parametrize("text", ["stimulus:x", "stimulus:0", "session", "session:"])
def test_bad_holdouts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"stimulus:0\.2"):
        Holdout.parse(text)


def test_a_held_out_session_that_does_not_exist_is_refused(recording: Recording) -> None:
    with pytest.raises(InputError, match=r"no session '7'\. There are: 1, 2"):
        Holdout.parse("session:7").split(recording, seed=0)
