"""The shipped comparison of routings on files in the layout of Algonauts 2023, with a tiny network for its backbone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import studies
from encoders.routings import ROUTINGS
from recordings.readers import import_recording
from scripts.examples.algonauts_layout import write_subject
from studies.run import run
from studies.study import Study

from ..encoders.tiny import save_timm

EXAMPLE = Path(studies.__file__).parent / "examples" / "algonauts2023.toml"
REGIONS = ("V1d", "OFA")
TINY = {"blocks.11": "blocks.3", "blocks.9": "blocks.2", "blocks.7": "blocks.1", "blocks.5": "blocks.0"}


def reduced(folder: Path, model: str) -> Study:
    """The shipped study with another backbone, two regions and three epochs."""
    text = json.dumps(Study.load(EXAMPLE).model_dump(mode="json"))
    for layer, tiny in TINY.items():
        text = text.replace(layer, tiny)
    study = json.loads(text.replace("timm:vit_base_patch14_dinov2.lvd142m", model))
    study |= {"out": str(folder / "results"), "device": "cpu"}
    study["recording"] |= {"path": str(folder / "subj01.zarr"), "stimuli": str(folder / "subj01-stimuli")}
    study["recording"]["rois"] = REGIONS
    for part in study["encode"]:
        part["shuffles"] = 10
        if part["model"] == "transformer":
            few: dict[str, float] = {"epochs": 3, "batch_size": 8, "learning_rate": 5e-3}
            if part["routing"] in ("roi", "vertex"):
                few["n_heads"] = 1
            part["transformer"] = (part["transformer"] or {}) | few
    return Study.model_validate(study)


def test_it_asks_for_every_routing_but_fixed_maps_of_regions() -> None:
    study = Study.load(EXAMPLE)
    assert {part.routing for part in study.encode} == set(ROUTINGS) - {"spatial_roi"}
    assert study.split.ensemble


@pytest.mark.slow
def test_it_runs_on_files_of_its_layout_and_ends_in_a_table_and_a_page(tmp_path: Path) -> None:
    subject = write_subject(tmp_path / "subj01", 60, noise_ceiling=0.9)
    groups = ("prf-visualrois", "floc-faces")
    imported = import_recording("algonauts2023", subject, tmp_path / "subj01.zarr", groups=groups)
    assert imported.stimuli is not None
    imported.stimuli.save(tmp_path / "subj01-stimuli")
    study = reduced(tmp_path, f"timm:{save_timm(tmp_path / 'vit', depth=4)}")
    answers = run(study)
    names = {part.name for part in (*study.encode, *study.ensemble)}
    table = pd.read_csv(study.out / "results.csv")
    assert {(name, roi) for name, roi in zip(table["encode"], table["roi"], strict=True)} == {
        (name, roi) for name in names for roi in (*REGIONS, "all")
    }
    assert answers["ensemble.roi-queries"]["center"] > 0.2
    page = (study.out / "report.html").read_text()
    assert all(name in page for name in names)
