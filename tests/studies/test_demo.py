"""The demo: what it promises about the planted truth, what it writes, and that it can be repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from encoders import Features, RidgeEncoder
from encoders.attention import AttentionMaps, TransformerEncoder
from encoders.linear import DEFAULT_ALPHAS
from recordings import Subject
from recordings.errors import Cancelled, InputError
from recordings.events import Event
from studies.demo import chain, run
from studies.demo.attention_page import chosen_scenes, opposite_half
from studies.demo.commands import commands
from studies.demo.encoding import LAYERS, MODELS, N_SHUFFLES, Model, score_model
from studies.demo.numbers import meaning
from studies.demo.regions import SCORED
from studies.demo.transformer import (
    FLATTENED,
    PATCHES,
    TRANSFORMER,
    Attended,
    gains,
    shown_groups,
    silhouettes_of,
    watch,
)
from studies.demo.world import World, simulate

EARLY = ("V1", "V2", "V3", "V4")


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return simulate(tmp_path_factory.mktemp("world"), 100, 30, 0, None, None)


def test_the_world_is_whole_on_disk_and_its_ceiling_is_found(small_world: World) -> None:
    recording = small_world.subject.recording
    assert len(recording) == 3 * 130 and recording.data.encoding["source"].endswith("recording.zarr")
    assert set(small_world.part("train").stimulus_ids) == set(small_world.train)
    assert set(small_world.part("test").stimulus_ids) == set(small_world.test)
    assert abs(small_world.ceiling.mean() - small_world.planted.mean()) < 0.03
    assert small_world.ceiling_error < 0.06


def test_the_true_model_reaches_the_ceiling_and_noise_does_not(small_world: World) -> None:
    train, test = (small_world.part(split).average_repetitions() for split in ("train", "test"))
    rng, truth = np.random.default_rng(0), small_world.true_features
    noise = Features.from_arrays(rng.standard_normal((130, 20)), list(truth.stimulus_ids), uri="noise")
    model = Model("m", "m", "m", "m")
    scores = []
    for features, alphas in ((truth, DEFAULT_ALPHAS), (noise, (100.0,))):
        predicted = RidgeEncoder(alphas).fit(features, train).predict(features, list(test.stimulus_ids))
        scores.append(score_model(model, predicted, test, small_world.ceiling, 20, 0))
    true, none = scores
    assert true.center > 0.7 and abs(none.center) < 0.05
    assert all(low < middle < high for middle, low, high in true.by_roi.values())
    assert abs(true.null.mean) < 3 * true.null.standard_error + 0.02 and len(true.null.scores) == N_SHUFFLES


def test_a_gain_is_found_and_none_where_there_is_none(small_world: World) -> None:
    test, rng = small_world.part("test").average_repetitions(), np.random.default_rng(0)
    noisy = [test.values + s * rng.standard_normal(test.values.shape) for s in (2.0, 1.0)]
    found = gains(*noisy, test, small_world.ceiling, 50, 0)
    assert all(0 < low < gain < high for gain, low, high in found.values())
    assert set(gains(noisy[0], noisy[0], test, small_world.ceiling, 20, 0).values()) == {(0.0, 0.0, 0.0)}
    lost = gains(*noisy[::-1], test, small_world.ceiling, 20, 0)
    assert {roi: -gain for roi, (gain, *_) in lost.items()} == pytest.approx({r: g for r, (g, *_) in found.items()})


def test_silhouettes_lie_where_their_objects_stand(small_world: World) -> None:
    ids = small_world.test[::-1]
    masks, table = silhouettes_of(small_world, ids), small_world.subject.stimuli.select(ids).table
    across = np.linspace(-1, 1, masks.shape[-1])
    for axis, name, way in ((1, "x", 1), (2, "y", -1)):
        middle = (masks.mean(axis) * across).sum(1) / masks.mean(axis).sum(1)
        assert np.corrcoef(way * middle, table[name])[0, 1] > 0.95


def test_patches_that_look_at_their_objects_are_told_from_others(
    made_up_world: World, made_up_attention: Attended
) -> None:
    """Heads of the made-up attention differ where the object is there, and only the second does."""
    assert made_up_attention.on_object == 1 and made_up_attention.by_chance < 0.1
    groups = shown_groups(made_up_world, made_up_world.test)
    for patch in made_up_attention.patches:
        assert patch.n_with == (groups == patch.name).sum() and patch.n_with + patch.n_without == len(groups)
        assert patch.mass > 10 * patch.area and patch.on_others == 0
        assert patch.entropy_with < 0.6 < patch.entropy_without
    maps = made_up_attention.maps
    elsewhere = replace(made_up_world, silhouettes=np.roll(made_up_world.silhouettes, 32, axis=2))
    missed = watch(maps, replace(maps, weights=maps.weights[:, :, ::-1]), elsewhere)
    assert all(patch.on_object == 0 for patch in missed)
    assert all(patch.entropy_with == pytest.approx(1) for patch in missed)


def test_opposite_halves_are_those_of_the_hemispheres(made_up_attention: Attended) -> None:
    right = np.zeros((1, 2, 8, 8), np.float32)
    right[..., 4:] = 1 / 32
    assert opposite_half(AttentionMaps(right, ["a"], ("L V1", "R V1"))) == {"L V1": 1, "R V1": 0}


def test_scenes_with_and_without_objects_are_shown(made_up_world: World) -> None:
    groups = shown_groups(made_up_world, made_up_world.test)
    shown = chosen_scenes(groups)
    assert [str(g) for g in groups[shown]] == [*PATCHES, "", "", ""] and len(set(shown)) == 6


def test_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="something else"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stopped_demo_leaves_no_results(tmp_path: Path) -> None:
    (tmp_path / chain.MARK).write_text("{}")
    (tmp_path / chain.SUMMARY).write_text("{}")
    with pytest.raises(Cancelled):
        run(tmp_path, stop=lambda: True)
    assert [p.name for p in tmp_path.iterdir()] == [chain.MARK]


def test_commands_name_what_the_demo_leaves() -> None:
    lines = [line for group in commands().values() for line in group]
    assert all(line.startswith("penfield ") for line in lines)
    assert {f"models/{m.key}" for m in (*MODELS, TRANSFORMER)} <= {w for line in lines for w in line.split()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    return folder, run(folder)


@pytest.mark.slow
def test_the_planted_truth_is_recovered(demo: tuple[Path, dict[str, float]]) -> None:
    _, numbers = demo
    assert numbers["encode.noise_ceiling_error"] < 0.03
    assert min(numbers[f"encode.true_features.{roi}"] for roi in EARLY) >= 0.9
    assert min(numbers[f"encode.{model}.{roi}"] for model in ("ridge", "banded_ridge") for roi in EARLY) >= 0.6
    routed = {roi: numbers[f"encode.transformer.{roi}"] - numbers[f"encode.flattened_ridge.{roi}"] for roi in SCORED}
    assert routed["category"] >= 0.10 and min(routed[roi] for roi in EARLY) >= -0.02
    assert numbers["encode.transformer.attention_on_object"] >= 0.8
    assert numbers["encode.transformer.attention_on_object_chance"] <= 0.25
    assert numbers["encode.transformer.entropy_with_object"] < numbers["encode.transformer.entropy_without_object"]
    assert 0.9 <= numbers["score.ceiling_fraction"] <= 1.02
    assert numbers["decode.retrieval_chance"] == 1 / 200
    assert numbers["decode.retrieval_top1"] >= 0.10


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is(demo: tuple[Path, dict[str, float]]) -> None:
    _, numbers = demo
    for model in (*MODELS, FLATTENED, TRANSFORMER):
        null, error = numbers[f"encode.{model.key}.shuffled"], numbers[f"encode.{model.key}.shuffled_se"]
        assert abs(null) < 3 * error and abs(null) < 0.02
    assert abs(numbers["decode.retrieval_shuffled"] - 0.005) < 0.004


@pytest.mark.slow
def test_summary_report_and_artifacts_are_written(demo: tuple[Path, dict[str, float]]) -> None:
    folder, numbers = demo
    assert json.loads((folder / chain.SUMMARY).read_text()) == numbers
    assert all(meaning(name) and np.isfinite(value) for name, value in numbers.items())
    page = (folder / chain.PAGE).read_text()
    assert all(name in page for name in numbers)
    assert "simulated" in page
    subject = Subject.load(folder / "subject-01")
    encoder = RidgeEncoder.from_pretrained(str(folder / "models" / "gabor"))
    score = encoder.score(Features.load(folder / "features" / "gabor.zarr"), subject.recording.where(split="test"))
    by_roi = score.by_roi()
    assert {roi: pytest.approx(by_roi[roi], abs=1e-5) for roi in SCORED} == {
        roi: numbers[f"encode.gabor.{roi}"] for roi in SCORED
    }


@pytest.mark.slow
def test_the_transformer_that_is_left_gives_its_scores_again(demo: tuple[Path, dict[str, float]]) -> None:
    folder, numbers = demo
    encoder = TransformerEncoder.from_pretrained(str(folder / "models" / TRANSFORMER.key))
    tokens = {name: Features.load(folder / "features" / f"{TRANSFORMER.source}.zarr", name) for name in LAYERS}
    test = Subject.load(folder / "subject-01").recording.where(split="test")
    by_roi = encoder.score(tokens, test, n_bootstrap=0).by_roi()
    assert {roi: pytest.approx(by_roi[roi], abs=1e-5) for roi in SCORED} == {
        roi: numbers[f"encode.transformer.{roi}"] for roi in SCORED
    }


@pytest.mark.slow
def test_a_second_run_extracts_nothing_and_gives_the_same_numbers(demo: tuple[Path, dict[str, float]]) -> None:
    folder, numbers = demo
    computed: list[int] = []

    def listen(event: Event) -> None:
        if event.stage == "extract":
            computed.append(event.payload["computed"])

    again = run(folder, on_event=listen)
    assert computed and max(computed) == 0
    measured = ("seconds.", "peak_memory")
    assert {k: v for k, v in again.items() if not k.startswith(measured)} == {
        k: v for k, v in numbers.items() if not k.startswith(measured)
    }
