"""Studies of transformer encoders: runs, ensembles and their table, and on again after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import studies
from encoders import Ensemble, Features, load_encoder
from encoders.routings import ROUTINGS
from recordings import Recording
from recordings.errors import Cancelled, InputError
from recordings.events import Event
from studies.answers import mean_of_runs
from studies.run import run
from studies.study import Study

EXAMPLE = Path(studies.__file__).parent / "examples" / "routings.toml"
IDS = [f"s{i:02d}" for i in range(60)]
STUDY = """
name = "small"
device = "cpu"
out = "results"
[recording]
path = "recording.zarr"
[split]
test = 0.2
ensemble = 0.2
[[features]]
name = "tokens"
path = "tokens.zarr"
[[encode]]
name = "pooled"
routing = "pooled"
features = ["tokens"]
alphas = [0.1, 1, 10, 100]
shuffles = 20
[[encode]]
name = "queries"
model = "transformer"
features = ["tokens"]
runs = 2
[encode.transformer]
hidden = 8
n_heads = 2
feedforward = 8
epochs = 2
batch_size = 8
[[ensemble]]
name = "together"
members = ["pooled", "queries"]
"""


def write_study(folder: Path) -> Path:
    """A study of 60 pictures of 4 x 4 tokens, and responses of two regions to the mean token."""
    rng = np.random.default_rng(0)
    tokens = Features.from_arrays(rng.standard_normal((60, 16, 8)), IDS, layer="last", grid=[4, 4], readout="tokens")
    tokens.save(folder / "tokens.zarr")
    signal = 4 * tokens.read().mean(1) @ rng.standard_normal((8, 6))
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(6)], "roi": ["A"] * 2 + ["B"] * 4})
    responses = np.tile(signal, (2, 1)) + rng.standard_normal((120, 6))
    Recording(responses, {"stimulus_id": IDS * 2}, neuroids).save(folder / "recording.zarr")
    (folder / "study.toml").write_text(STUDY)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, already run."""
    study = Study.load(write_study(tmp_path_factory.mktemp("study")) / "study.toml")
    run(study)
    return study


def results(study: Study) -> dict[str, Any]:
    return dict(json.loads((study.out / "results.json").read_text()))


def test_runs_are_averaged_and_weighed_in_an_ensemble(study: Study) -> None:
    answers = results(study)
    queries, together = answers["encode.queries"], answers["ensemble.together"]
    each = [json.loads((study.out / f"encode/queries/run-{k}/results.json").read_text())["answer"] for k in (1, 2)]
    centers = [answer["center"] for answer in each]
    assert centers[0] != centers[1]
    assert queries["center"] == pytest.approx(np.mean(centers)) and queries["runs"] == 2
    assert queries["spread"] == pytest.approx(abs(centers[0] - centers[1]) / 2**0.5)
    assert queries["roi_spread"].keys() == {"A", "B"}

    assert set(together["weights"]) == {"pooled", "queries-run-1", "queries-run-2"}
    assert sum(together["weights"].values()) == pytest.approx(1, abs=1e-5)
    assert together["weights"]["pooled"] > 0.8
    assert together["center"] > max(a["center"] for n, a in answers.items() if n.startswith("encode")) - 0.02
    for place in ("encode/pooled", "encode/queries", "ensemble/together"):
        assert np.load(study.out / place / "scores.npz")["normalised"].shape == (6,)


def test_training_weights_and_score_use_three_sets(study: Study) -> None:
    whole = load_encoder(study.out / "ensemble" / "together" / "model")
    assert isinstance(whole, Ensemble)
    first, *others = (set(member.stimulus_ids_) for member in whole.members.values())
    assert all(other == first for other in others)
    assert len(first) < len(whole.stimulus_ids_) == 48 and first < set(whole.stimulus_ids_)


def test_the_table_has_a_row_a_model_and_region(study: Study) -> None:
    answers = results(study)
    table = pd.read_csv(study.out / "results.csv", keep_default_na=False, na_values=[""])
    assert len(table) == 3 * 3 and set(table.roi) == {"A", "B", "all"}
    assert list(table.columns) == [
        *("encode", "model", "routing", "features", "roi", "metric", "n", "r", "low", "high", "ceiling", "spread"),
        "runs",
    ]
    row = table.set_index(["encode", "roi"]).loc[("queries", "B")]
    answer = answers["encode.queries"]
    assert (row.model, row.routing, row.features, row.n, row.runs) == ("transformer", "roi", "tokens", 4, 2)
    assert row.r == pytest.approx(answer["roi"]["B"], rel=1e-5) and row.low < row.r < row.high
    assert row.spread == pytest.approx(answer["roi_spread"]["B"], rel=1e-4)
    assert table.ceiling.between(0.5, 1).all()
    assert set(table[table.encode == "together"].model) == {"ensemble"}
    assert (study.out / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_numbers(folder: Path) -> None:
    study = Study.load(folder / "study.toml").model_copy(update={"ensemble": ()})
    whole = study.model_copy(update={"out": folder / "whole"})
    trained: list[int] = []
    run(whole, on_event=lambda e: trained.append(e.done) if e.stage == "train" else None)
    steps: list[int] = []
    for limit in (3, 5, 6, None):

        def watch(event: Event) -> None:
            if event.stage == "train":
                steps.append(event.done)

        start = len(steps)
        try:
            run(study, on_event=watch, stop=lambda s=start, n=limit: n is not None and len(steps) - s >= n)  # type: ignore[misc]
        except Cancelled:
            assert limit is not None and list(study.out.rglob("training-*"))
            assert not (study.out / "results.json").exists()
    assert results(study) == results(whole)
    assert steps == trained
    assert not list(study.out.rglob("training-*"))


@pytest.mark.slow
def test_a_checkpoint_of_other_data_is_not_gone_on_with(folder: Path) -> None:
    study = Study.load(folder / "study.toml").model_copy(update={"ensemble": ()})
    with pytest.raises(Cancelled):
        run(study, on_event=(seen := []).append, stop=lambda: bool(seen) and seen[-1].stage == "train")
    recording = Recording.load(folder / "recording.zarr")
    changed = Recording(recording.values + 1, recording.presentations, recording.neuroids)
    changed.save(folder / "recording.zarr", overwrite=True)
    assert run(study)["encode.queries"]["runs"] == 2
    assert not list(study.out.rglob("training-*"))


def test_a_routing_of_another_readout_is_refused(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(STUDY.replace('routing = "pooled"', 'routing = "cls"'))
    with pytest.raises(InputError, match="--readout cls"):
        run(Study.load(path))


def test_what_is_no_number_is_the_first_runs() -> None:
    one = {"center": 1.0, "metric": "r", "normalised": True, "roi": {"A": 2.0}, "roi_interval": {"A": [0.0, 4.0]}}
    two = {"center": 3.0, "metric": "r", "normalised": True, "roi": {"A": 4.0}, "roi_interval": {"A": [1.0, 5.0]}}
    found = mean_of_runs([one, two])
    assert found["center"] == 2 and found["roi"] == {"A": 3} and found["roi_interval"] == {"A": [0.5, 4.5]}
    assert found["metric"] == "r" and found["normalised"] is True
    assert found["spread"] == pytest.approx(2**0.5) == found["roi_spread"]["A"]


@pytest.mark.slow
def test_the_example_compares_all_routings(tmp_path: Path) -> None:
    fewer = EXAMPLE.read_text().replace("scenes = 400", "scenes = 240").replace("epochs = 20", "epochs = 10")
    (tmp_path / "study.toml").write_text(fewer)
    study = Study.load(tmp_path / "study.toml")
    run(study)
    table = pd.read_csv(study.out / "results.csv").set_index(["encode", "roi"]).r
    routings = {part.routing for part in study.encode}
    assert routings == set(ROUTINGS)
    # What a patch prefers is found wherever it stands by attention, and nowhere in particular by fixed weights.
    assert table["roi", "category"] > table["flattened", "category"] + 0.1
    members = study.ensemble[0].members
    assert table["ensemble", "all"] > max(table[name, "all"] for name in members)
    for roi in ("V1", "V4", "category"):
        assert table["ensemble", roi] > max(table[name, roi] for name in members) - 0.06
    assert (table.unstack().min() > 0).all()
