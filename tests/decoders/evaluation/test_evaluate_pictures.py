"""The whole evaluation on planted pictures: signal, no signal, guards, samples, and what cannot be computed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from decoders.evaluation import Attributes, PictureEvaluation, evaluate_pictures
from recordings.errors import (
    DuplicateIdError,
    InputError,
    LeakageError,
    MismatchedIdsError,
    RepetitionError,
    ShapeError,
    UnknownNameError,
)

N = 9
IDS = [f"s{i}" for i in range(N)]
CATEGORIES = [f"c{i % 3}" for i in range(N)]
QUICK: dict[str, Any] = {"n_permutations": 40, "n_bootstrap": 40, "stimulus_ids": IDS}


def pixels(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, ::2, ::2].reshape(len(pictures), -1)


NETWORKS = {"pixels": pixels}
FIXED, ORIGINAL = "two_way.pixels.reconstruction_fixed", "two_way.pixels.original_fixed"


def draw(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)


def noisy(pictures: np.ndarray, weight: float, seed: int) -> np.ndarray:
    mixed = (1 - weight) * pictures.astype(float) + weight * draw(seed, len(pictures))
    return mixed.round().astype(np.uint8)


@pytest.fixture(scope="module")
def shown() -> np.ndarray:
    return draw(0)


@pytest.fixture(scope="module")
def found(shown: np.ndarray) -> PictureEvaluation:
    made = np.stack([noisy(shown, 0.6, seed) for seed in (1, 2)], 1)
    return evaluate_pictures(
        made, shown, networks=NETWORKS, categories=CATEGORIES, training_pictures=draw(9, 30), **QUICK
    )


def test_signal_is_found_by_every_score(found: PictureEvaluation) -> None:
    assert found[FIXED].value > 0.95 and found[ORIGINAL].value > 0.95
    assert found[f"{FIXED}.within_category"].value > 0.9 and found[f"{ORIGINAL}.across_category"].value > 0.9
    assert found["pixcorr"].value > 0.4 and 0 < found["ssim"].value < 1
    assert found["distance.pixels"].value == pytest.approx(1 - 0.4 / np.hypot(0.4, 0.6), abs=0.08)
    assert found[FIXED].null.p_value < 0.05 and found.n_samples == 2
    assert found.dimensions["pixels.shown"] > 5 and found.dimensions["pixels.reconstructed"] > 5


def test_guards_compare_with_the_nearest_training_picture(found: PictureEvaluation) -> None:
    assert found[f"nearest_training.{FIXED}"].value < found[FIXED].value - 0.05
    assert found["nearest_training.pixcorr"].value < 0.2
    gain = found["over_nearest_training.pixcorr"]
    assert gain.value == pytest.approx(found["pixcorr"].value - found["nearest_training.pixcorr"].value)
    assert 0.2 < gain.interval[0] < gain.value < gain.interval[1]


def test_the_summary_is_json_without_holes(found: PictureEvaluation) -> None:
    summary = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert summary["n_pictures"] == N and summary["n_samples"] == 2
    entry = summary["metrics"][FIXED]
    assert entry["low"] <= entry["value"] <= entry["high"] and entry["chance"] == 0.5
    assert entry["shuffled_low"] < entry["shuffled"] < entry["shuffled_high"]
    table = found.to_frame()
    assert list(table.index) == IDS and table["pixcorr"].mean() == pytest.approx(found["pixcorr"].value)


def test_samples_are_averaged_in_similarity(shown: np.ndarray) -> None:
    samples = [noisy(shown, 0.8, seed) for seed in (1, 2, 3)]
    found = evaluate_pictures(np.stack(samples, 1), shown, networks=NETWORKS, **QUICK)
    c = np.mean([np.corrcoef(pixels(shown), pixels(s))[:N, N:] for s in samples], 0)
    assert found[ORIGINAL].values == pytest.approx([(c[i] < c[i, i]).sum() / (N - 1) for i in range(N)])
    assert found["distance.pixels"].value == pytest.approx(1 - c.diagonal().mean())


@pytest.mark.slow
def test_no_signal(shown: np.ndarray) -> None:
    values, gains = [], []
    for seed in range(1, 7):
        found = evaluate_pictures(
            draw(seed), shown, networks=NETWORKS, training_pictures=draw(99, 5), n_permutations=0, n_bootstrap=0,
            stimulus_ids=IDS,
        )  # fmt: skip
        values.append([found[FIXED].value, found[ORIGINAL].value])
        gains.append([found["pixcorr"].value, found["over_nearest_training.pixcorr"].value])
    assert abs(np.mean(values) - 0.5) < 4 / np.sqrt(12 * N * 6)
    assert np.abs(np.mean(gains, 0)).max() < 0.1


def test_collapsed_reconstructions_lose_dimensions(shown: np.ndarray) -> None:
    few = shown[[0, 1]][np.arange(N) % 2]
    found = evaluate_pictures(few, shown, networks=NETWORKS, **QUICK)
    assert found.dimensions["pixels.reconstructed"] == pytest.approx(1)
    assert found[ORIGINAL].n_tied > 0


def test_flat_reconstructions_are_counted(shown: np.ndarray) -> None:
    made = noisy(shown, 0.3, 1)
    made[4] = 90
    found = evaluate_pictures(made, shown, networks=NETWORKS, **QUICK)
    for name in (FIXED, ORIGINAL, "pixcorr", "distance.pixels"):
        assert found[name].n_undefined == 1 and np.isfinite(found[name].value)
    assert found["ssim"].n_undefined == 0


def test_paired_difference_of_two_evaluations(found: PictureEvaluation, shown: np.ndarray) -> None:
    worse = evaluate_pictures(noisy(shown, 0.95, 5), shown, networks=NETWORKS, **QUICK)
    gain = found.difference(worse, "pixcorr")
    assert gain.value == pytest.approx(found["pixcorr"].value - worse["pixcorr"].value) and gain.interval[0] > 0
    other = evaluate_pictures(shown, shown, networks=NETWORKS, **QUICK | {"stimulus_ids": IDS[::-1]})
    with pytest.raises(MismatchedIdsError):
        found.difference(other, "pixcorr")
    assert other[FIXED].value == 1 and other["ssim"].value == pytest.approx(1, abs=1e-6)


def test_given_neighbours_embeddings_captions_and_reader(shown: np.ndarray) -> None:
    truth = Attributes(category=np.array(CATEGORIES))
    found = evaluate_pictures(
        noisy(shown, 0.3, 1), shown, networks=NETWORKS, training_pictures=draw(9, 30), nearest_training=[2] * N,
        embeddings=(np.eye(N) + 0.1, np.eye(N)), captions=(CATEGORIES, CATEGORIES),
        reader=lambda p: Attributes(category=np.array(CATEGORIES)[: len(p)]), attributes=truth, **QUICK,
    )  # fmt: skip
    assert np.isnan(found[f"nearest_training.{ORIGINAL}"].value)
    assert found["retrieval.image"].value == found["retrieval.brain"].value == 1
    assert found["retrieval.image"].chance == 1 / N
    assert found["caption.rouge1"].value == 1 and "caption.meteor" in {**found.not_computed, **found.measures}
    assert found["attributes.category"].value == found["attributes.shown.category"].value == 1


def test_by_default_the_miniature_backbone_is_named(shown: np.ndarray) -> None:
    found = evaluate_pictures(shown[:2], shown[:2], **QUICK | {"stimulus_ids": IDS[:2]})
    assert {name for name in found.measures if name.startswith("two_way")} == {
        "two_way.miniature:backbone.reconstruction_fixed",
        "two_way.miniature:backbone.original_fixed",
    }


def test_absent_weights_give_no_number(shown: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    found = evaluate_pictures(
        shown[:2], shown[:2], networks="published", training_pictures=draw(9, 3), **QUICK | {"stimulus_ids": IDS[:2]}
    )
    assert set(found.measures) == {"pixcorr", "ssim"}
    assert set(found.not_computed) == {
        "AlexNet(2)", "AlexNet(5)", "Inception", "CLIP", "EffNet-B", "SwAV", "nearest_training",
    }  # fmt: skip
    with pytest.raises(UnknownNameError, match="There are: pixcorr, ssim"):
        found["two_way.CLIP.reconstruction_fixed"]


def test_bad_input(shown: np.ndarray) -> None:
    def score(made: np.ndarray = shown, originals: np.ndarray = shown, **options: Any) -> PictureEvaluation:
        return evaluate_pictures(made, originals, networks=NETWORKS, **QUICK | options)

    with pytest.raises(ShapeError, match="shape"):
        score(shown[0])
    with pytest.raises(ShapeError, match="8 reconstructions for 9"):
        score(shown[:-1])
    with pytest.raises(ShapeError, match="float64"):
        score(shown / 255)
    with pytest.raises(RepetitionError, match="1 picture"):
        score(shown[:1], shown[:1], stimulus_ids=["a"])
    with pytest.raises(DuplicateIdError, match="'s0'"):
        score(stimulus_ids=["s0", *IDS[:-1]])
    with pytest.raises(ShapeError, match="2 categories for 9"):
        score(categories=["a", "b"])
    with pytest.raises(LeakageError, match="training picture 1 is the picture of stimulus 's3'"):
        score(training_pictures=np.stack([draw(5)[0], shown[3]]))
    with pytest.raises(ShapeError, match="nearest_training"):
        score(training_pictures=draw(5), nearest_training=[50] * N)
    with pytest.raises(InputError, match="Give training_pictures"):
        score(nearest_training=[0] * N)
    with pytest.raises(ShapeError, match="embeddings"):
        score(embeddings=(np.eye(3), np.eye(3)))
    with pytest.raises(InputError, match="go together"):
        score(reader=lambda p: Attributes())
