"""A report on made-up numbers, on the real cortex, for looking at the page without running the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import load_fsaverage

from decoders import identify, retrieve
from encoders import Features
from encoders.attention import AttentionMaps
from recordings import Recording, Score, Space, Stimuli, Subject
from recordings.miniature import Scenes
from recordings.statistics import Null
from studies.demo.attention_page import EARLY, attention_section
from studies.demo.decoding import Decoded
from studies.demo.decoding_page import decoding_section
from studies.demo.encoding_page import EncoderScore, encoding_section
from studies.demo.numbers import numbers_section
from studies.demo.pictures import DRAWN, Pictured, evaluate_drawings
from studies.demo.pictures import SCORED as SCORED_PICTURES
from studies.demo.pictures_page import pictures_section
from studies.demo.regions import SCORED
from studies.demo.scoring import alignment_section
from studies.demo.transformer import PATCHES, Attended, shown_groups, silhouettes_of, watch
from studies.demo.world import World, world_section
from studies.report import Headline, write_report

ROIS = ("V1", "V2", "V3", "V4", "category|vehicles", "category|furniture", "category|vessels", "MTL")
SUMMARY = {
    "encode.ridge.V1": 0.71,
    "encode.ridge.shuffled": 0.0004,
    "encode.noise_ceiling_error": 0.0152,
    "decode.retrieval_top1": 0.25,
    "decode.retrieval_chance": 0.05,
    "score.ceiling_fraction": 0.957,
    "seconds.encode": 84.2,
    "peak_memory_gb": 1.84,
}


def patches(hemisphere: str) -> np.ndarray:
    """60 neighbouring vertices a region, on a circle around the lateral pole of a hemisphere."""
    sphere = load_fsaverage("fsaverage5")["sphere"].parts[hemisphere].coordinates
    turns = np.arange(len(ROIS)) * 2 * np.pi / len(ROIS)
    outward = np.full(len(ROIS), -1 if hemisphere == "left" else 1)
    centres = np.stack([outward, np.cos(turns), np.sin(turns)], 1) * 100 / np.sqrt(2)
    return np.concatenate([np.argsort(np.linalg.norm(sphere - centre, axis=1))[:60] for centre in centres])


@pytest.fixture(scope="session")
def made_up_world() -> World:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    ids = [f"s{i}" for i in range(20)]
    groups = [("vehicles", "furniture", "vessels", "other", "other")[i % 5] for i in range(20)]
    captions = [f"a made-up picture <{i}>" for i in range(20)]
    scenes = Scenes.sample(20, categories=["mug", "car"]).to_frame().drop(columns=["stimulus_id", "group"])
    columns = {name: values.to_numpy() for name, values in scenes.items()}
    stimuli = Stimuli.from_arrays(images, ids, caption=captions, group=groups, **columns)
    silhouettes = np.zeros((20, 64, 64), bool)
    for i, silhouette in enumerate(silhouettes):
        # One place of the grid of tokens; never the first, where the peak of even attention is.
        row, column = 1 + i % 7, i % 8
        silhouette[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
    vertices = {side: patches(name) for side, name in (("L", "left"), ("R", "right"))}
    neuroids = pd.DataFrame(
        {
            "neuroid_id": [f"{side}{v}" for side in "LR" for v in vertices[side]],
            "roi": np.tile(np.repeat(ROIS, 60), 2),
            "hemisphere": np.repeat(["L", "R"], 60 * len(ROIS)),
            "vertex": np.concatenate([vertices["L"], vertices["R"]]),
        }
    )
    recording = Recording(
        rng.standard_normal((60, len(neuroids))),
        pd.DataFrame({"stimulus_id": np.repeat(ids, 3)}),
        neuroids,
        space=Space.surface("fsaverage5", (10242, 10242)),
    )
    ceiling = 0.7 + 0.02 * rng.standard_normal(len(neuroids))
    subject, planted = Subject("made-up", recording, stimuli), np.full(len(neuroids), 0.7)
    truth = Features.from_arrays(rng.standard_normal((20, 3)), ids)
    return World(
        subject, ids[:10], ids[10:], truth, ceiling, planted, silhouettes, 0.4 * silhouettes.astype(np.float16)
    )


@pytest.fixture(scope="session")
def made_up_scores(made_up_world: World) -> list[EncoderScore]:
    rng = np.random.default_rng(1)
    recording, scores = made_up_world.subject.recording, []
    for key, level, baseline in (("ridge", 0.7, False), ("pixels", 0.3, True)):
        values = level + 0.05 * rng.standard_normal(recording.n_neuroids)
        by_roi = dict.fromkeys(SCORED, (level, level - 0.04, level + 0.05))
        scores.append(
            EncoderScore(
                key, f"the {key}", f"reads {key}", values, by_roi, Null(0.01 * rng.standard_normal(50), level), baseline
            )
        )
    return scores


@pytest.fixture(scope="session")
def made_up_decoding(made_up_world: World) -> Decoded:
    """The first scenes are found at once, later ones at later places."""
    ids, gallery = made_up_world.test, np.random.default_rng(2).standard_normal((10, 40))
    # Picture k + 1 + j outweighs the own one, for j below k.
    rows = [gallery[k] + sum(2 * gallery[(k + 1 + j) % 10] for j in range(k)) for k in range(10)]
    how = {"temperature": 0.1, "n_permutations": 50}
    found = identify(np.array(rows), ids, gallery, candidate_ids=ids, **how)
    return Decoded(found, retrieve(np.array(rows), gallery, 3, temperature=0.1, gallery_ids=ids), 300)


@pytest.fixture(scope="session")
def made_up_pictures(made_up_world: World) -> Pictured:
    """Each held-out scene drawn as the training scene of its row, or with noise by its own name."""
    rng, ids = np.random.default_rng(3), made_up_world.test
    shown, training = (
        np.stack(list(made_up_world.subject.stimuli.select(part))) for part in (ids, made_up_world.train)
    )
    noisy = (shown + rng.normal(0, 30, shown.shape)).clip(0, 255).astype(np.uint8)
    images = {name: training if name == "z" else noisy for name in [*DRAWN, "nearest"]}
    evaluations = {
        name: evaluate_drawings(made_up_world, ids, images[name], training, 20, 0) for name in SCORED_PICTURES
    }
    return Pictured(ids, [f"a thing called {name}" for name in ids], images, evaluations)


@pytest.fixture(scope="session")
def made_up_attention(made_up_world: World, made_up_scores: list[EncoderScore]) -> Attended:
    """Two heads: one whose patches look at their objects and evenly elsewhere, and one that looks evenly anywhere."""
    queries = tuple(f"{side} {name}" for side in "LR" for name in (*EARLY, "MTL", *PATCHES))
    maps = []
    for ids in (made_up_world.test, made_up_world.train):
        weights = np.full((10, len(queries), 2, 8, 8), 1.0, np.float32)
        masks = silhouettes_of(made_up_world, ids).reshape(10, 8, 8, 8, 8).any((2, 4))
        for row, (name, mask) in enumerate(zip(shown_groups(made_up_world, ids), masks, strict=True)):
            for k in [k for k, query in enumerate(queries) if name and query.endswith(name)]:
                weights[row, k, 1] += 100 * mask
        maps.append(AttentionMaps(weights / weights.sum((-2, -1), keepdims=True), ids, queries, per_head=True))
    ridge, other = made_up_scores
    return Attended(
        other, ridge, dict.fromkeys(SCORED, (0.4, 0.35, 0.45)), maps[0], watch(maps[0], maps[1], made_up_world)
    )


@pytest.fixture(scope="session")
def report_page(
    made_up_world: World,
    made_up_attention: Attended,
    made_up_scores: list[EncoderScore],
    made_up_decoding: Decoded,
    made_up_pictures: Pictured,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Path of a whole report on made-up numbers."""
    recording, stimuli = made_up_world.subject.recording, made_up_world.subject.stimuli
    sections = [
        world_section(made_up_world),
        encoding_section(recording, made_up_scores, "ridge", 10, 10),
        attention_section(
            recording,
            made_up_attention,
            stimuli.select(made_up_world.test),
            shown_groups(made_up_world, made_up_world.test),
        ),
        decoding_section(made_up_decoding, stimuli),
        pictures_section(made_up_pictures, stimuli),
        alignment_section(Score(0.7 * np.ones(60), None, {}, interval=(0.6, 0.8))),
        numbers_section(SUMMARY, {"Encode": ["penfield encode fit " + "--a-long-option " * 20]}),
    ]
    return write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        "Made-up numbers",
        "These data are made up.",
        "For looking at the page.",
        [Headline("0.71", "of the ceiling", "made up"), Headline("25 %", "found", "chance 5 %")],
        sections,
        {"Seed": "0"},
    )
