"""Running studies: the shipped example, the same numbers again, and on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import studies
from recordings import Stimuli, Subject
from recordings.errors import Cancelled, InputError, LeakageError
from recordings.events import Event
from studies.run import run
from studies.simulation import simulate_world
from studies.study import Study

EXAMPLE = Path(studies.__file__).parent / "examples" / "miniature.toml"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The example study with fewer scenes, in a folder of its own, already run."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(EXAMPLE.read_text().replace("scenes = 150", "scenes = 60"))
    study = Study.load(folder / "study.toml")
    run(study)
    return study


def results(study: Study) -> dict[str, dict[str, float]]:
    return dict(json.loads((study.out / "results.json").read_text()))


def test_the_example_finds_the_planted_brain(small: Study) -> None:
    found = results(small)
    assert found["encode.both"]["center"] > 0.5 and found["encode.both"]["p_value"] < 0.02
    assert found["decode.gabor"]["accuracy"] > 3 * found["decode.gabor"]["chance"]
    assert set(found) >= {"study", "seed", "encode.gabor", "align.gabor"}


def test_results_lie_beside_the_resolved_study(small: Study) -> None:
    assert Study.load(small.out / "study.toml") == small


def test_a_second_run_makes_nothing_again(small: Study) -> None:
    before = {f: f.stat().st_mtime_ns for f in small.out.glob("*/*/model/*")}
    answers = run(small)
    assert before and {f: f.stat().st_mtime_ns for f in before} == before
    assert answers["encode.gabor"] == results(small)["encode.gabor"]


@pytest.mark.slow
def test_interrupted_anywhere_it_goes_on_to_the_same_numbers(small: Study, tmp_path: Path) -> None:
    study = small.model_copy(update={"out": tmp_path / "again"})
    stopped = 0
    for limit in (1, 4, 9, 10_000):
        seen: list[Event] = []
        try:
            run(study, on_event=seen.append, stop=lambda seen=seen, limit=limit: len(seen) > limit)  # type: ignore[misc]
        except Cancelled:
            stopped += 1
            assert not (study.out / "results.json").exists()
    assert stopped >= 2
    assert results(study) == results(small)


@pytest.mark.slow
def test_the_seed_changes_the_numbers(small: Study, tmp_path: Path) -> None:
    study = small.model_copy(update={"out": tmp_path / "other", "seed": 1, "decode": (), "align": ()})
    assert run(study)["encode.gabor"]["center"] != results(small)["encode.gabor"]["center"]


def test_a_folder_of_another_study_is_kept(small: Study) -> None:
    with pytest.raises(InputError, match="another study"):
        run(small.model_copy(update={"seed": 5}))


@pytest.mark.slow
def test_data_that_changed_are_answered_anew(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    start, end = text.index("simulate ="), text.index("[split]")
    (tmp_path / "study.toml").write_text(text[:start] + 'path = "subject-01"\n\n' + text[end:])
    study = Study.load(tmp_path / "study.toml").model_copy(update={"decode": (), "align": ()})
    simulate_world(tmp_path, 40, seed=0)
    first = run(study)["encode.gabor"]["center"]
    simulate_world(tmp_path, 40, seed=0, noise_ceiling=0.3, overwrite=True)
    assert run(study)["encode.gabor"]["center"] != first


def test_leakage_is_refused(small: Study, tmp_path: Path) -> None:
    split = small.split.model_copy(update={"by": "run", "held_out": (0,)})
    with pytest.raises(LeakageError, match="training and in the test part"):
        run(small.model_copy(update={"split": split, "out": tmp_path / "leak"}))


def test_one_picture_under_two_ids_is_leakage(small: Study, tmp_path: Path) -> None:
    subject = Subject.load(small.out / "subject-01")
    images = [subject.stimuli.load(i) for i in range(len(subject.stimuli))]
    images[1:] = images[:1] * (len(images) - 1)
    path = tmp_path / "subject"
    Subject("twins", subject.recording, Stimuli.from_arrays(np.stack(images), subject.stimuli.ids)).save(path)
    source = small.recording.model_copy(update={"simulate": None, "path": path})
    with pytest.raises(LeakageError, match="same picture"):
        run(small.model_copy(update={"recording": source, "out": tmp_path / "out"}))


def test_overwriting_spares_what_is_not_a_result(small: Study, tmp_path: Path) -> None:
    few = small.recording.simulate
    assert few is not None
    source = small.recording.model_copy(update={"simulate": few.model_copy(update={"scenes": 20})})
    asked = {"out": tmp_path, "recording": source, "encode": (), "decode": ()}
    study = small.model_copy(update=asked)
    (tmp_path / "notes.txt").write_text("mine")
    run(study)
    run(study.model_copy(update={"seed": 1}), overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine" and Study.load(tmp_path / "study.toml").seed == 1

    recorded = source.model_copy(update={"simulate": None, "path": tmp_path / "subject-01"})
    with pytest.raises(InputError, match="would be overwritten"):
        run(study.model_copy(update={"recording": recorded}), overwrite=True)
    assert (tmp_path / "subject-01" / "recording.zarr").exists()
