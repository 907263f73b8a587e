"""``penfield encode``: fit, predict and evaluate on a planted linear brain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders import Features
from recordings import Recording, Subject


@pytest.fixture
def fitted(penfield: Callable[..., Any], world: Path) -> Path:
    result = penfield("encode", "fit", *inputs(world), "--layer", "good", "--out", world / "model")
    assert result.exit_code == 0, result.stderr
    return world / "model"


def inputs(world: Path) -> tuple[object, ...]:
    return ("--features", world / "features.zarr", "--recording", world / "subject")


def evaluate(penfield: Callable[..., Any], world: Path, *options: object) -> dict[str, Any]:
    result = penfield("encode", "evaluate", "--model", world / "model", *inputs(world), *options, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(result.json)


def test_a_planted_brain_is_found_up_to_its_ceiling(penfield: Callable[..., Any], world: Path, fitted: Path) -> None:
    answer = evaluate(penfield, world, "--layer", "good")
    assert answer["n_train"] == 96 and answer["n_test"] == 24
    # Three repetitions with as much noise as signal: a ceiling of 3 / 4 of the variance.
    assert answer["ceiling"] == pytest.approx(0.75, abs=0.06)
    assert answer["center"] > 0.85 and answer["low"] < answer["center"] < answer["high"]
    assert set(answer["roi"]) == {"A", "B"}
    assert abs(answer["shuffled"]) < 4 * answer["shuffled_standard_error"] and answer["p_value"] < 0.02


def test_features_without_signal_score_nothing(penfield: Callable[..., Any], world: Path) -> None:
    result = penfield("encode", "fit", *inputs(world), "--layer", "bad", "--out", world / "model")
    assert result.exit_code == 0
    answer = evaluate(penfield, world, "--layer", "bad")
    assert abs(answer["center"]) < 0.2 and answer["p_value"] > 0.02


def test_baselines_are_scored_on_the_same_stimuli(penfield: Callable[..., Any], world: Path, fitted: Path) -> None:
    answer = evaluate(penfield, world, "--layer", "good", "--baselines", "--shuffles", 0)
    assert set(answer["baselines"]) == {"pixels", "gabor"}
    assert all(abs(b["center"]) < 0.3 for b in answer["baselines"].values())
    assert "shuffled" not in answer


@pytest.mark.parametrize("model", ["banded_ridge", "kernel_ridge"])
def test_other_models(penfield: Callable[..., Any], world: Path, model: str) -> None:
    result = penfield("encode", "fit", *inputs(world), "--model", model, "--out", world / "model", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["solver"] == ("kernel" if model == "kernel_ridge" else result.json["solver"])
    assert evaluate(penfield, world)["center"] > 0.8


def test_options_reach_the_fit(penfield: Callable[..., Any], world: Path) -> None:
    options = ("--split", "stimulus:20", "--roi", "B", "--alphas", "3,30", "--nuisance", "motion")
    command = ("encode", "fit", *inputs(world), "--layer", "good", *options, "--out", world / "model", "--json")
    result = penfield(*command)
    assert result.exit_code == 0, result.stderr
    assert result.json["stimuli"] == 100 and result.json["neuroids"] == 8
    assert set(result.json["alphas"]) <= {"3", "30"}
    assert evaluate(penfield, world, "--layer", "good", "--roi", "B", "--nuisance", "motion")["center"] > 0.8


def test_a_column_of_the_stimuli_is_held_out(penfield: Callable[..., Any], world: Path) -> None:
    command = ("encode", "fit", *inputs(world), "--layer", "good", "--split", "category:a", "--out", world / "model")
    result = penfield(*command, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["stimuli"] == 80
    assert evaluate(penfield, world, "--layer", "good")["n_test"] == 40


def test_a_time_series_is_fitted_with_delays(
    penfield: Callable[..., Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    drive = rng.standard_normal((200, 2)).astype(np.float32)
    late = np.vstack([np.zeros((2, 2)), drive[:-2]])
    runs = np.repeat([0, 1, 2, 3], 50)
    late[np.flatnonzero(np.diff(runs, prepend=-1))[:, None] + [0, 1]] = 0
    ids = [f"t{i}" for i in range(200)]
    Recording(late @ rng.standard_normal((2, 4)), {"stimulus_id": ids, "run": runs}).save(tmp_path / "r.zarr")
    Features.from_arrays(drive, ids, layer="drive").save(tmp_path / "f.zarr")
    given = ("-f", tmp_path / "f.zarr", "-r", tmp_path / "r.zarr")
    for delays, low, high in (("0,1,2,3", 0.99, 1.01), ("0,1", -0.4, 0.4)):
        options = ("--delays", delays, "--split", "run:3", "--folds", 3, "--overwrite", "--out", tmp_path / "m")
        result = penfield("encode", "fit", *given, *options)
        assert result.exit_code == 0, result.stderr
        answer = penfield("encode", "evaluate", "-m", tmp_path / "m", *given, "--json").json
        assert low < answer["center"] < high


def test_the_seed_chooses_the_held_out_stimuli(penfield: Callable[..., Any], world: Path) -> None:
    def held_out(name: str, seed: int) -> set[str]:
        command = ("encode", "fit", *inputs(world), "--layer", "good", "--out", world / name, "--seed", seed)
        assert penfield(*command).exit_code == 0
        fitted = penfield("describe", world / name, "--json").json
        from encoders.ridge import RidgeEncoder

        assert fitted["kind"] == "RidgeEncoder"
        return set(RidgeEncoder.from_pretrained(str(world / name)).stimulus_ids_)

    assert held_out("a", 1) == held_out("b", 1) != held_out("c", 2)


def test_predictions_are_a_recording(penfield: Callable[..., Any], world: Path, fitted: Path) -> None:
    out = world / "predicted.zarr"
    command = ("encode", "predict", "--model", fitted, "--features", world / "features.zarr", "--layer", "good")
    assert penfield(*command, "--out", out).exit_code == 0
    predicted, observed = Recording.load(out), Subject.load(world / "subject").recording
    assert list(predicted.neuroid_ids) == list(observed.neuroid_ids) and len(predicted) == 120
    r = np.corrcoef(predicted.values[:, 0], observed.average_repetitions().values[:, 0])[0, 1]
    assert r > 0.7


def test_a_dry_run_writes_nothing(penfield: Callable[..., Any], world: Path) -> None:
    command = ("encode", "fit", *inputs(world), "--layer", "good", "--out", world / "model", "--dry-run", "--json")
    estimate = penfield(*command).json["estimate"]
    assert 0 < estimate["seconds"] < 30 and 0.05 < estimate["memory_gb"] < 10
    assert not (world / "model").exists()


class TestBadInput:
    """Each is refused in one line that names the place, and leaves nothing behind."""

    def test_features_that_lack_stimuli(self, refused: Callable[..., str], world: Path) -> None:
        ids = [f"t{i}" for i in range(120)]
        Features.from_arrays(np.ones((120, 3)), ids, layer="x").save(world / "other.zarr")
        line = refused("encode", "fit", "-f", world / "other.zarr", "-r", world / "subject", "--out", world / "model")
        assert "s0" in line and not (world / "model").exists()

    def test_a_model_of_another_subject(self, refused: Callable[..., str], world: Path, fitted: Path) -> None:
        line = refused("encode", "evaluate", "-m", fitted, *inputs(world), "--layer", "good", "--roi", "A")
        assert "neuroids" in line

    def test_features_of_another_layer(self, refused: Callable[..., str], world: Path, fitted: Path) -> None:
        assert "features" in refused("encode", "evaluate", "-m", fitted, *inputs(world), "--layer", "bad")

    def test_nothing_held_out(self, penfield: Callable[..., Any], refused: Callable[..., str], world: Path) -> None:
        command = ("encode", "fit", *inputs(world), "--layer", "good", "--split", "none", "--out", world / "model")
        assert penfield(*command).exit_code == 0
        line = refused("encode", "evaluate", "-m", world / "model", *inputs(world), "--layer", "good")
        assert "--split" in line

    def test_leakage_by_run(self, refused: Callable[..., str], world: Path) -> None:
        line = refused("encode", "fit", *inputs(world), "--split", "run:0", "--out", world / "model")
        assert "'s000'" in line and "split" in line

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--split", "presentation:1"), "presentation"),
            (("--split", "stimulus:many"), "stimulus:0.2"),
            (("--roi", "V9"), "There are: A, B"),
            (("--layer", "conv9"), "There are: bad, good"),
            (("--alphas", "-1"), "alpha"),
            (("--alphas", "1;2"), "1,10,100"),
            (("--nuisance", "breathing"), "breathing"),
            (("--folds", "1"), "--folds"),
            (("--model", "forest"), "forest"),
        ],
    )
    def test_wrong_options(self, refused: Callable[..., str], world: Path, options: tuple[str, ...], says: str) -> None:
        assert says in refused("encode", "fit", *inputs(world), *options, "--out", world / "model")
        assert not (world / "model").exists()

    def test_what_exists_is_kept(self, refused: Callable[..., str], world: Path, fitted: Path) -> None:
        assert "exists already" in refused("encode", "fit", *inputs(world), "--layer", "good", "--out", fitted)

    def test_a_damaged_recording(self, refused: Callable[..., str], world: Path) -> None:
        chunk = next((world / "subject" / "recording.zarr" / "responses").rglob("0"), None)
        assert chunk is not None
        chunk = chunk if chunk.is_file() else next(f for f in chunk.rglob("*") if f.is_file())
        chunk.write_bytes(chunk.read_bytes()[:20])
        line = refused("encode", "fit", *inputs(world), "--layer", "good", "--out", world / "model")
        assert "recording.zarr" in line and not (world / "model").exists()

    def test_a_model_folder_that_is_none(self, refused: Callable[..., str], world: Path) -> None:
        assert "config.json" in refused("encode", "evaluate", "-m", world / "subject", *inputs(world))


def test_a_constant_voxel_is_refused_by_name_and_kept_when_asked(penfield: Callable[..., Any], world: Path) -> None:
    recording = Subject.load(world / "subject").recording
    values = recording.values
    values[:, 3] = 1.5
    flat = Recording(values, recording.presentations, recording.neuroids)
    flat.save(world / "flat.zarr")
    command = ("encode", "fit", "-f", world / "features.zarr", "--layer", "good", "-r", world / "flat.zarr")
    refused = penfield(*command, "--out", world / "model")
    assert refused.exit_code == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    for part in ("flat.zarr", repr(recording.neuroid_ids[3]), "--keep-constant"):
        assert part in refused.stderr
    assert not (world / "model").exists()
    kept = penfield(*command, "--keep-constant", "--out", world / "model", "--json")
    assert kept.exit_code == 0, kept.stderr
    assert kept.json["constant_neuroids"] == 1
