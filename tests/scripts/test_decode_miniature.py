"""From a simulated brain to pictures, words and depth with the generator that comes with Penfield."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import decoders.miniature
import studies
from decoders import Reconstructions
from scripts.penfield import app
from studies.pictures.targets import TARGETS
from studies.study import Study

pytestmark = pytest.mark.slow
EARLY, VENTRAL = "V1,V2,V3,V4", "V4,category,MTL"


def penfield(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``world/subject-01``, ``decoder`` and ``pictures`` of the scenes it was not fitted on."""
    folder = tmp_path_factory.mktemp("miniature")
    penfield("simulate", "--out", folder / "world", "--scenes", 300, "--subjects", 1)
    subject, decoder = folder / "world" / "subject-01", folder / "decoder"
    rois = ("--rois", f"z={EARLY}", "--rois", f"c={VENTRAL}")
    how = ("--max-neuroids", 500, "--components", 200, "--no-rescale", "--split", "stimulus:40")
    penfield(
        "decode", "fit", "-r", subject, "--preset", "penfield", "--target", "tokens", *rois, *how, "--out", decoder
    )
    settings = ("--strength", 0.5, "--guidance", 2, "--steps", 12)
    penfield("decode", "image", "-r", subject, "-m", decoder, *settings, "--out", folder / "pictures")
    return folder


def test_pictures_show_what_was_seen(drawn: Path) -> None:
    given = ("--stimuli", drawn / "world" / "subject-01", "--by", "category")
    found = penfield("decode", "evaluate", "--pictures", drawn / "pictures", *given)
    scores = found["metrics"]
    two_way = scores["two_way.miniature:backbone.reconstruction_fixed"]
    assert two_way["value"] > 0.7 and two_way["p_value"] < 0.02 and abs(two_way["shuffled"] - 0.5) < 0.02
    assert found["over_nearest_training"]["pixcorr"]["low"] > 0
    # Chance is one in twelve; the place is read on the scale of the scenes.
    assert scores["attributes.category"]["value"] > 0.2 and scores["attributes.position"]["value"] > 0.6
    assert scores["caption.rouge1"]["value"] > 0.6 and scores["retrieval.image"]["low"] > 1 / 40


def test_words_and_depth_of_the_same_decoder(drawn: Path) -> None:
    given = ("-r", drawn / "world" / "subject-01", "-m", drawn / "decoder")
    said = penfield("decode", "caption", *given)
    pictured = json.loads((drawn / "pictures" / "reconstructions.json").read_text())["settings"]["captions"]
    assert {row["stimulus"]: row["caption"] for row in said["captions"]} == pictured
    assert penfield("decode", "depth", *given, "--out", drawn / "depth")["correlation"]["value"] > 0.6


def test_a_picture_that_starts_from_inverted_features_and_sees_depth(drawn: Path, tmp_path: Path) -> None:
    subject, decoder = drawn / "world" / "subject-01", tmp_path / "decoder"
    how = ("--max-neuroids", 300, "--components", 100, "--no-rescale", "--split", "stimulus:40")
    given = ("--preset", "takagi-depth", "--generator", "miniature:depth")
    found = penfield("decode", "fit", "-r", subject, *given, *how, "--out", decoder)
    assert set(found["targets"]) == {"features.blocks.5", "tokens", "depth"} and len(found["notes"]) == 3
    shown = [part for row in captions(drawn)[:2] for part in ("--stimulus", row)]
    how = ("--preset", "takagi-depth", "--samples", 1, "--steps", 10, "--out", tmp_path / "pictures")
    made = penfield("decode", "image", "-r", subject, "-m", decoder, *shown, *how)
    assert made["pictures"] == 2 and set(made["captions"]) == set(captions(drawn)[:2])
    assert {path.name for path in (tmp_path / "pictures" / "compared").iterdir()} == {"shown", "image", "nearest"}


def captions(drawn: Path) -> list[str]:
    """Ids of the stimuli that were drawn."""
    return list(json.loads((drawn / "pictures" / "reconstructions.json").read_text())["settings"]["captions"])


def test_the_example_asks_for_targets_that_there_are() -> None:
    study = Study.load(Path(studies.__file__).parent / "examples" / "pictures.toml")
    assert [part.name for part in study.reconstruct] == ["takagi-cvpr", "penfield"]
    assert all(set(part.rois) <= set(TARGETS) for part in study.reconstruct)


def test_a_generator_by_its_path_takes_a_controlnet_and_an_adapter_beside_it(drawn: Path, tmp_path: Path) -> None:
    parts = Path(decoders.miniature.__file__).parent
    given = ("-r", drawn / "world" / "subject-01", "-m", drawn / "decoder", "--steps", 3)
    beside = ("--controlnet", parts / "controlnet", "--ip-adapter", parts / "ip_adapter")
    penfield("decode", "image", *given, "--out", tmp_path / "a")
    penfield("decode", "image", *given, "--generator", parts / "diffusion", *beside, "--out", tmp_path / "b")
    one, other = (Reconstructions.load(tmp_path / folder).images for folder in "ab")
    assert len(one) == 40 and np.array_equal(one, other)
