"""``penfield score``: planted agreement found, none found where there is none, and real RDMs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from recordings import Stimuli
from studies.sources import extract_layers


@pytest.mark.parametrize("metric", ["rsa", "predictivity"])
def test_layers_against_a_recording(penfield: Callable[..., Any], world: Path, metric: str) -> None:
    command = ("score", "--features", world / "features.zarr", "--recording", world / "subject", "--metric", metric)
    result = penfield(*command, "--json")
    assert result.exit_code == 0, result.stderr
    layers = result.json["layers"]
    assert layers["good"]["score"] > 0.4 > 0.15 > abs(layers["bad"]["score"])
    assert layers["good"]["low"] < layers["good"]["score"] < layers["good"]["high"]
    assert set(layers["good"]["roi"]) == {"A", "B"}


@pytest.mark.parametrize(
    ("model", "scored", "left_out"),
    [
        ("untrained:timm:test_vit", {"patch_embed", "blocks.0", "norm"}, {"blocks", "blocks.0.attn"}),
        ("untrained:timm:test_resnet", {"conv1", "layer1", "layer4"}, {"layer1.0"}),
    ],
)
def test_layers_of_a_model_are_its_blocks_or_its_stages(
    tmp_path: Path, rng: np.random.Generator, model: str, scored: set[str], left_out: set[str]
) -> None:
    shown = Stimuli.from_arrays(rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8))
    layers = extract_layers(model, shown, tmp_path / "model.zarr", device="cpu")
    assert scored < set(layers) and not left_out & set(layers)


@pytest.mark.slow
def test_a_model_and_its_baselines(penfield: Callable[..., Any], world: Path) -> None:
    command = ("score", "--model", "baseline:pixels", "--recording", world / "subject", "--metric", "rsa")
    answer = penfield(*command, "--baselines", "--json").json
    assert answer["layers"]["output"]["score"] == pytest.approx(answer["baselines"]["pixels"]["score"])
    assert set(answer["baselines"]) == {"pixels", "gabor"}


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "pooled"])
def test_baselines_of_a_network_take_its_readout(penfield: Callable[..., Any], world: Path, readout: str) -> None:
    command = ("score", "--model", "miniature:backbone", "--layer", "blocks.5", "--readout", readout, "--metric", "rsa")
    answer = penfield(*command, "--recording", world / "subject", "--baselines", "--json").json
    assert set(answer["baselines"]) == {"pixels", "gabor", "untrained"}
    assert answer["baselines"]["untrained"]["score"] != answer["layers"]["blocks.5"]["score"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--metric", "rsa"), "--features"),
        (("--metric", "cka", "--features", "x", "--recording", "y"), "cka"),
        (("--metric", "rsa", "--features", "absent.zarr", "--recording", "{world}/subject"), "absent.zarr"),
        (("--metric", "rsa", "--features", "{world}/features.zarr", "--rdms", "absent.npz"), "absent.npz"),
        (
            ("--metric", "rsa", "--features", "{world}/features.zarr", "--recording", "{world}/subject", "--roi", "Z"),
            "A",
        ),
    ],
)
def test_wrong_options(refused: Callable[..., str], world: Path, options: tuple[str, ...], says: str) -> None:
    assert says in refused("score", *(option.format(world=world) for option in options))


@pytest.mark.slow
@pytest.mark.real
def test_pixels_against_human_rdms(penfield: Callable[..., Any], real_data: Path) -> None:
    rdms = real_data / "kriegeskorte92"
    answer = penfield("score", "--model", "baseline:pixels", "--rdms", rdms, "--metric", "rsa", "--json").json
    pixels = answer["layers"]["output"]
    images = [Image.open(rdms / path).convert("RGB") for path in pd.read_csv(rdms / "stimuli.csv")["path"]]
    rows = np.stack([np.asarray(i.resize((32, 32), Image.Resampling.BICUBIC)).ravel() for i in images])
    human = np.load(rdms / "human_it_rdms.npz")["rdms"]
    peer = [spearmanr(pdist(rows, "correlation"), squareform(rdm, checks=False))[0] for rdm in human]
    assert pixels["score"] == pytest.approx(np.mean(peer), abs=1e-3)
    assert pixels["low"] < pixels["score"] < pixels["high"]
    assert answer["ceiling"]["lower"] < answer["ceiling"]["upper"] and len(pixels["people"]) == 4
