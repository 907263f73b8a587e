"""The page of a study: numbers, spread, weights and maps of what was asked, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import Recording, Space
from studies.page import PAGE, write_study_page
from studies.study import Study

from .test_report import Elements

STUDY = """
name = "which-routing"
out = "results"
[recording]
simulate = { scenes = 20 }
[split]
ensemble = 0.2
[[features]]
name = "tokens"
model = "miniature:backbone"
readout = "tokens"
[[encode]]
name = "flat"
routing = "flattened"
features = ["tokens"]
[[encode]]
name = "queries"
model = "transformer"
features = ["tokens"]
runs = 3
[[ensemble]]
name = "both"
members = ["flat", "queries"]
"""


def score(center: float, **more: Any) -> dict[str, Any]:
    regions: dict[str, Any] = {
        "roi": {"V1": center + 0.011, "V4": center + 0.022},
        "roi_interval": {roi: [center - 0.1, center + 0.1] for roi in ("V1", "V4")},
    }
    if "runs" in more:
        regions["roi_spread"] = dict.fromkeys(("V1", "V4"), 0.0123)
    whole = {"center": center, "low": center - 0.1, "high": center + 0.1, "metric": "r", "normalised": True}
    return whole | regions | {"shuffled": 0.0017, "shuffled_standard_error": 0.0031} | more


def made_up_study(folder: Path) -> Study:
    (folder / "made-up.toml").write_text(STUDY)
    return Study.load(folder / "made-up.toml")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_up_study(tmp_path)


ANSWERS = {
    "encode.flat": score(0.51),
    "encode.queries": score(0.63, runs=3, spread=0.0234),
    "ensemble.both": score(0.71, weights={"flat": 0.25, "queries-run-1": 0.75}),
}


def written(study: Study, recording: Recording, folder: Path, answers: dict[str, Any] = ANSWERS) -> Elements:
    write_study_page(folder, study, answers, recording)
    return Elements(folder / PAGE)


def test_numbers_spread_weights_and_null_are_on_the_page(study: Study, made_up_world: Any, tmp_path: Path) -> None:
    page = written(study, made_up_world.subject.recording, tmp_path)
    for text in ("which-routing", "0.52", "0.53", "0.41 to 0.61", "± 0.012", "± 0.023", "queries-run-1", "0.75",
                 "+0.0017", "simulated", 'runs = 3', "transformer, routing roi, on tokens"):  # fmt: skip
        assert text in page.words, text
    charts = [str(image["alt"]) for image in page.of("img")]
    assert len(charts) == 1 and "queries: V1 0.64, V4 0.65, all 0.63" in charts[0]


@pytest.mark.slow
def test_maps_and_their_differences_are_drawn_on_the_cortex(study: Study, made_up_world: Any, tmp_path: Path) -> None:
    recording = made_up_world.subject.recording
    for key, value in (("flat", 0.5), ("queries", 0.6)):
        (tmp_path / "encode" / key).mkdir(parents=True)
        np.savez(tmp_path / "encode" / key / "scores.npz", normalised=np.full(recording.n_neuroids, value, np.float32))
    alts = [str(image["alt"]) for image in written(study, recording, tmp_path).of("img")]
    assert sum("noise-normalised r of flat" in alt for alt in alts) == 2
    assert [alt for alt in alts if "minus" in alt] == [
        f"queries minus flat: flattened {side} hemisphere" for side in ("left", "right")
    ]


def test_neuroids_without_a_cortex_have_no_maps(study: Study, made_up_world: Any, tmp_path: Path) -> None:
    known = made_up_world.subject.recording
    bare = Recording(known.values, known.presentations, known.neuroids, space=Space())
    (tmp_path / "encode" / "flat").mkdir(parents=True)
    np.savez(tmp_path / "encode" / "flat" / "scores.npz", normalised=np.zeros(bare.n_neuroids, np.float32))
    assert len(written(study, bare, tmp_path).of("img")) == 1


def test_scores_that_are_missing_are_said_to_be(study: Study, made_up_world: Any, tmp_path: Path) -> None:
    lost = score(float("nan"))
    del lost["roi"]["V4"]
    page = written(study, made_up_world.subject.recording, tmp_path, ANSWERS | {"encode.flat": lost})
    table = page.words.partition("The same in numbers")[2].partition("With the stimuli shuffled")[0]
    assert table.count("none") == 3 and "nan" not in table


def test_a_study_without_encoding_models_has_no_page(study: Study, made_up_world: Any, tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("of an earlier run")
    empty = study.model_copy(update={"encode": (), "ensemble": ()})
    write_study_page(tmp_path, empty, {}, made_up_world.subject.recording)
    assert not (tmp_path / PAGE).exists()
