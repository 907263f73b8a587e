"""``penfield decode``: categories, patterns and features, from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import Recording


def blocks(path: Path, signal: float) -> Path:
    """Four runs of two blocks of each of three categories, whose mean patterns differ by `signal` noise s.d."""
    rng = np.random.default_rng(1)
    patterns = rng.standard_normal((3, 30))
    category = np.tile(np.repeat([0, 1, 2], 2), 4)
    run = np.repeat([0, 1, 2, 3], 6)
    ids = [f"{c}-{r}-{i}" for i, (c, r) in enumerate(zip(category, run, strict=True))]
    names = np.array(["cat", "face", "house"])[category]
    values = signal * patterns[category] + rng.standard_normal((24, 30))
    Recording(values, {"stimulus_id": ids, "category": names, "run": run}).save(path)
    return path


def test_categories_of_a_block_design(penfield: Callable[..., Any], tmp_path: Path) -> None:
    recording = blocks(tmp_path / "blocks.zarr", signal=2)
    result = penfield("decode", "evaluate", "--recording", recording, "--shuffles", 19, "--json")
    assert result.exit_code == 0, result.stderr
    answer = result.json
    assert answer["accuracy"] > 0.9 and answer["chance"] == pytest.approx(1 / 3)
    assert answer["p_value"] == 0.05 and answer["n_shuffles"] == 19
    assert abs(answer["shuffled"] - 1 / 3) < 0.15


def test_blocks_without_signal_are_at_chance(penfield: Callable[..., Any], tmp_path: Path) -> None:
    recording = blocks(tmp_path / "blocks.zarr", signal=0)
    answer = penfield("decode", "evaluate", "-r", recording, "--shuffles", 19, "--json").json
    assert answer["accuracy"] < 0.65 and answer["p_value"] > 0.05


def test_patterns_of_single_presentations(penfield: Callable[..., Any], world: Path) -> None:
    command = ("decode", "evaluate", "-r", world / "subject", "--what", "patterns", "--ways", 10, "--json")
    answer = penfield(*command).json
    assert answer["chance"] == 0.1 and answer["accuracy"] > 0.6


@pytest.fixture
def decoder(penfield: Callable[..., Any], world: Path) -> Path:
    command = ("decode", "fit", "-r", world / "subject", *store(world), "--out", world / "decoder", "--json")
    result = penfield(*command)
    assert result.exit_code == 0, result.stderr
    assert result.json["stimuli"] == 96
    return world / "decoder"


def store(world: Path, layer: str = "good") -> tuple[object, ...]:
    return ("--features", world / "features.zarr", "--layer", layer)


def test_a_dry_run_writes_nothing(penfield: Callable[..., Any], world: Path) -> None:
    command = ("decode", "fit", "-r", world / "subject", *store(world), "--out", world / "d", "--dry-run", "--json")
    assert 0 < penfield(*command).json["estimate"]["seconds"] < 30
    assert not (world / "d").exists()


def test_held_out_stimuli_are_identified(penfield: Callable[..., Any], world: Path, decoder: Path) -> None:
    result = penfield("decode", "identify", "-m", decoder, "-r", world / "subject", *store(world), "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["chance"] == pytest.approx(1 / 24) and result.json["accuracy"] > 0.8
    assert len(result.json["answers"]) == 24
    assert all(0 <= row["confidence"] <= 1 for row in result.json["answers"])


def test_held_out_stimuli_are_retrieved(penfield: Callable[..., Any], world: Path, decoder: Path) -> None:
    result = penfield("decode", "retrieve", "-m", decoder, "-r", world / "subject", *store(world), "-k", 2, "--json")
    answers = result.json["answers"]
    assert result.json["n_gallery"] == 120 and all(len(row["retrieved"]) == 2 for row in answers)
    assert np.mean([row["shown"] in row["retrieved"] for row in answers]) > 0.8


def test_a_decoder_is_evaluated(penfield: Callable[..., Any], world: Path, decoder: Path) -> None:
    command = ("decode", "evaluate", "-m", decoder, "-r", world / "subject", *store(world), "--json")
    answer = penfield(*command).json
    assert answer["accuracy"] > 0.8 and answer["p_value"] < 0.02
    assert answer["retrieval"]["top1"] > 0.5 and answer["retrieval"]["chance"] == pytest.approx(1 / 120)


def test_a_category_decoder_is_fitted(
    penfield: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    recording = blocks(tmp_path / "blocks.zarr", signal=2)
    command = ("decode", "fit", "-r", recording, "--split", "run:3", "--out", tmp_path / "decoder", "--json")
    result = penfield(*command)
    assert result.json["kind"] == "CategoryDecoder" and result.json["cross_validated_accuracy"] > 0.8
    assert "--model" in refused("decode", "evaluate", "-m", tmp_path / "decoder", "-r", recording)


class TestBadInput:
    """Each is refused in one line."""

    def test_a_category_that_is_none(self, refused: Callable[..., str], world: Path) -> None:
        assert "category" in refused("decode", "evaluate", "-r", world / "subject")

    def test_a_group_that_is_none(self, refused: Callable[..., str], tmp_path: Path) -> None:
        line = refused("decode", "evaluate", "-r", blocks(tmp_path / "blocks.zarr", 1), "--group", "week")
        assert "week" in line and "run" in line

    def test_one_run_only(self, refused: Callable[..., str], tmp_path: Path) -> None:
        Recording(np.eye(4), {"stimulus_id": list("abcd"), "category": list("xxyy")}).save(tmp_path / "r.zarr")
        assert "run" in refused("decode", "evaluate", "-r", tmp_path / "r.zarr")

    def test_features_of_another_layer(self, refused: Callable[..., str], world: Path, decoder: Path) -> None:
        line = refused("decode", "identify", "-m", decoder, "-r", world / "subject", *store(world, "bad"))
        assert "features of another space" in line

    def test_no_features(self, refused: Callable[..., str], world: Path, decoder: Path) -> None:
        assert "--features" in refused("decode", "evaluate", "-m", decoder, "-r", world / "subject")

    def test_too_many_ways(self, refused: Callable[..., str], world: Path, decoder: Path) -> None:
        command = ("decode", "identify", "-m", decoder, "-r", world / "subject", *store(world), "--ways", 999)
        assert "999" in refused(*command)

    def test_no_repetitions_to_select_by(self, refused: Callable[..., str], world: Path) -> None:
        Recording.load(world / "subject" / "recording.zarr").average_repetitions().save(world / "average.zarr")
        line = refused("decode", "fit", "-r", world / "average.zarr", *store(world), "--out", world / "d")
        assert "more than once" in line and not (world / "d").exists()

    @pytest.mark.parametrize("verb", ["identify", "retrieve"])
    def test_a_decoder_that_is_none(
        self, penfield: Callable[..., Any], refused: Callable[..., str], world: Path, verb: str
    ) -> None:
        given = ("-r", world / "subject", *store(world))
        assert "config.json" in refused("decode", verb, "-m", world / "absent", *given)
        assert penfield("encode", "fit", *given, "--out", world / "encoder").exit_code == 0
        assert "holds a RidgeEncoder" in refused("decode", verb, "-m", world / "encoder", *given)
