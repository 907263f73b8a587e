"""Real recordings: the published and measured figures, through the same code as the examples' commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignment import category_rdm, rdm_noise_ceiling, rsa
from decoders import evaluate_categories
from encoders import FeatureExtractor, Features, extract
from recordings import Recording, Stimuli
from recordings.errors import MissingWeightsError
from recordings.rdms import RDMs
from recordings.readers.nifti import NiftiOptions, read_nifti
from recordings.readers.rdm_sets import read_rdms
from scripts.examples import antolik_v1, cifar_resnet56, haxby_encoding

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[1]
URI = "python:scripts.examples.cifar_resnet56:build"
# Spearman with the eight human IT RDMs, of layer outputs flattened, by correlation distance.
LAYERS = {"pixels": 0.0473, "conv1": 0.0642, "layer1": 0.0988, "layer2": 0.1107, "layer3": 0.1535, "logits": 0.1691}


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "kriegeskorte92"


@pytest.fixture(scope="module")
def human(folder: Path) -> RDMs:
    return read_rdms(folder)


@pytest.fixture(scope="module")
def layers(folder: Path, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Features]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENFIELD_DATA", str(real_data))
        extractor = FeatureExtractor.from_uri(URI, device="cpu")
    store = tmp_path_factory.mktemp("features") / "resnet56.zarr"
    return extract(extractor, Stimuli.from_folder(folder), store, layers=list(LAYERS), readout="flat")


@pytest.mark.slow
def test_layers_of_a_network_against_human_it(layers: dict[str, Features], human: RDMs) -> None:
    found = {name: rsa(features, human, n_bootstrap=200, n_permutations=200) for name, features in layers.items()}
    scores = {name: result.score for name, result in found.items()}
    assert scores == pytest.approx(LAYERS, abs=0.01)
    assert list(scores.values()) == sorted(scores.values())
    for result in found.values():
        assert result.null is not None and result.null.p_value < 0.05
        assert result.interval is not None and result.interval[0] < result.score < result.interval[1]
        assert result.ceiling is not None and result.score < result.ceiling.lower


def test_animacy_against_human_it(folder: Path, human: RDMs) -> None:
    table = pd.read_csv(folder / "stimuli.csv", dtype={"stimulus_id": str}).set_index("stimulus_id")
    animate = table.loc[human.stimulus_ids, ["human", "animal"]].max(axis=1)
    assert rsa(category_rdm(animate), human, n_bootstrap=0).score == pytest.approx(0.3106, abs=0.001)


def test_ceilings_of_sessions_and_people(human: RDMs) -> None:
    sessions, people = rdm_noise_ceiling(human), rdm_noise_ceiling(human, unit="subject")
    assert sessions == pytest.approx((0.328, 0.525, 8), abs=0.001)
    assert people == pytest.approx((0.372, 0.666, 4), abs=0.001)


def test_missing_weights_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENFIELD_DATA", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="PENFIELD_DATA"):
        cifar_resnet56.build()


@pytest.mark.slow
def test_haxby_categories_of_blocks(real_data: Path) -> None:
    contents = read_nifti(real_data / "haxby-slice", NiftiOptions(unit="block", detrend=True, scale=True))
    values = np.concatenate(list(contents.blocks))
    recording = Recording(values, contents.presentations, contents.neuroids, space=contents.space)
    found = evaluate_categories(recording, n_permutations=100)
    assert found.accuracy >= 0.76 and found.chance == 0.125
    assert found.null is not None and 0.11 <= found.null.mean <= 0.14 and found.null.p_value < 0.01


@pytest.mark.slow
def test_haxby_voxels_from_conditions(real_data: Path) -> None:
    found = haxby_encoding.evaluate(real_data / "haxby-slice", shuffles=3)
    assert found["r_percentile_95"] >= 0.30
    assert found["r_percentile_95"] > found["permuted_percentile_95"]


def test_antolik_single_repetitions_and_pixels(real_data: Path) -> None:
    found = antolik_v1.evaluate(real_data / "antolik-v1")
    assert found["accuracy"] >= 0.50 and found["chance"] == 0.02
    assert found["low"] > 0.4 and found["p_value"] < 0.01 and found["shuffled"] == pytest.approx(0.02, abs=0.002)
    assert found["rsa"]["score"] == pytest.approx(0.151, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("kriegeskorte92.sh", ["layers.logits.score", "layers.pixels.low", "layers.conv1.high", "ceiling.lower"]),
        ("haxby_slice.sh", ["accuracy", "chance", "shuffled", "p_value"]),
        ("haxby_encoding.sh", ["r_percentile_95", "permuted_percentile_95"]),
        ("antolik_v1.sh", ["accuracy", "chance", "rsa.score"]),
    ],
)
def test_examples_print_one_json_object(real_data: Path, script: str, names: list[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [str(ROOT / "scripts" / "examples" / script), str(real_data)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    printed = json.loads(done.stdout)
    for name in names:
        value = printed
        for part in name.split("."):
            value = value[part]
        assert isinstance(value, float)
