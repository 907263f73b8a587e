"""What the transformer encoder recovers of what was planted in the miniature world, over several seeds.

Each seed is another world and another subject. Three disjoint sets serve three ends: training (a tenth of it chooses
the epoch), the weights of the ensemble, and the scores.

    python benchmarks/transformer_truth.py            # three seeds; about 12 minutes each on one core
    python benchmarks/transformer_truth.py --seeds 0  # one seed
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import RESULTS, provenance

from encoders import Ensemble, FeatureExtractor, Features, TransformerEncoder, extract, make_routing
from encoders.attention.fields import receptive_fields
from encoders.encoder import Encoder
from recordings import Recording
from recordings.miniature import Scenes, render
from recordings.miniature.brain import simulate_subject
from recordings.miniature.scenes import GROUPS
from recordings.score import shuffled_score

LAYERS = ("blocks.1", "blocks.3", "blocks.5")
EARLY = ("V1", "V2", "V3", "V4")
SCORED = (*EARLY, "category", "MTL")
TRAIN, WEIGHTS, TEST = 1000, 200, 300
PATCH = 0.25  # of the backbone, in units of half the image
N_SHUFFLES = 50

# One setting a routing for all seeds; what is not named has the encoder's default.
SETTINGS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "flattened": {},
    "spatial": {"epochs": 12, "learning_rate": 2e-3},
    "gaussian": {"epochs": 12, "learning_rate": 2e-3},
    "roi": {"epochs": 15},
}
VERTEX = {"hidden": 192, "n_heads": 1, "feedforward": 0, "epochs": 20, "learning_rate": 2e-3}


class World:
    """One seed's pictures, responses and tokens."""

    def __init__(self, seed: int, folder: Path) -> None:
        scenes = Scenes.sample(TRAIN + WEIGHTS + TEST, seed=seed)
        rendered = render(scenes)
        subject = simulate_subject(scenes, rendered, seed=seed)
        recording = subject.recording.average_repetitions()
        extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")
        self.tokens: dict[str, Features] = extract(
            extractor, subject.stimuli, folder / "tokens.zarr", layers=LAYERS, readout="tokens"
        )
        order = recording.match(scenes.stimulus_id)
        self.silhouettes, self.groups = rendered.silhouette[order], scenes.groups[order]
        borders = np.cumsum([0, TRAIN, WEIGHTS, TEST])
        parts = (recording.take(np.arange(a, b)) for a, b in pairwise(borders))
        self.train, self.weights, self.test = parts
        self.ceiling = self.test.neuroid("planted_noise_ceiling")
        self.ids = [str(i) for i in self.test.stimulus_ids]

    def by_region(self, values: np.ndarray) -> dict[str, float]:
        """Mean of each region's neuroids."""
        return {name: float(np.nanmean(values[self.test.roi_mask(name)])) for name in SCORED}


def scores(world: World) -> tuple[dict[str, Any], dict[str, Encoder]]:
    """Noise-normalised r of every routing by region, on the same tokens."""
    found, encoders = {}, {}
    for name, settings in SETTINGS.items():
        start = time.process_time()
        device = {"device": "cpu"}
        encoders[name] = make_routing(name, **settings, **device).fit(world.tokens, world.train)
        score = encoders[name].score(world.tokens, world.test, ceiling=world.ceiling, n_bootstrap=0)
        found[name] = world.by_region(score.normalised) | {"cpu_seconds": round(time.process_time() - start, 1)}
        print(f"  {name:10s}", {k: round(v, 3) for k, v in found[name].items()}, flush=True)
    return found, encoders


def routing_claims(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How far region queries are above flattened ridge in the patches, and below the best routing elsewhere."""
    best = {name: max(scores[name] for scores in found.values()) for name in EARLY}
    below = {f"below_best_{name}": best[name] - found["roi"][name] for name in EARLY}
    return {"gain_in_patches": found["roi"]["category"] - found["flattened"]["category"], **below}


def attention_claims(world: World, encoder: TransformerEncoder) -> dict[str, Any]:
    """Where each patch's queries look: on its object's silhouette, and how spread out without it.

    A patch's map is the mean over heads and the two hemispheres.
    """
    maps = encoder.attention(world.tokens, world.ids)
    silhouettes, groups = world.silhouettes[-TEST:], world.groups[-TEST:]
    rows, columns = maps.grid
    size = silhouettes.shape[1] // rows
    covered = silhouettes.reshape(len(groups), rows, size, columns, size).any((2, 4)).reshape(len(groups), -1)
    found = {}
    for group in GROUPS:
        queries = [maps.queries.index(f"{side} {group}") for side in "LR"]
        weights = maps.weights[:, queries].mean(1).reshape(len(groups), -1)
        shown = groups == group
        entropy = -(weights * np.log(weights)).sum(1) / np.log(weights.shape[1])
        on = covered[np.arange(len(groups)), weights.argmax(1)]
        found[group] = {
            "peak_on_object": float(on[shown].mean()),
            "chance": float(covered[shown].mean()),
            "entropy_with": float(entropy[shown].mean()),
            "entropy_without": float(entropy[~shown].mean()),
        }
    return found


def field_claims(world: World) -> dict[str, Any]:
    """Distance of vertex queries' receptive fields from the planted centres, median by region, in patches."""
    early = {name: getattr(world, name).roi(*EARLY) for name in ("train", "test")}
    tokens = world.tokens["blocks.1"]
    encoder = TransformerEncoder("vertex", device="cpu", **VERTEX).fit(tokens, early["train"])
    score = encoder.score(tokens, early["test"], ceiling=early["test"].neuroid("planted_noise_ceiling"), n_bootstrap=0)
    planted = np.column_stack([early["test"].neuroid(f"planted_{axis}") for axis in "xy"])
    found: dict[str, Any] = {}
    for by in ("contribution", "attention"):
        fields = receptive_fields(encoder, tokens, world.ids, by=by)
        error = np.linalg.norm(fields[["x", "y"]].to_numpy() - planted, axis=1) / PATCH
        found[by] = {"all": float(np.nanmedian(error))}
        found[by] |= {name: float(np.nanmedian(error[early["test"].roi_mask(name)])) for name in EARLY}
    means = {name: float(np.nanmean(score.normalised[early["test"].roi_mask(name)])) for name in EARLY}
    return {"centre_error_in_patches": found, "score": means}


def ensemble_claims(world: World, encoder: TransformerEncoder) -> dict[str, Any]:
    """An ensemble of layers and its best member, on stimuli that neither has seen."""
    members: dict[str, Encoder] = {"all-layers": encoder}
    given: dict[str, Any] = {"all-layers": world.tokens}
    for layer in LAYERS:
        members[layer] = TransformerEncoder("roi", device="cpu", **SETTINGS["roi"]).fit(
            world.tokens[layer], world.train
        )
        given[layer] = world.tokens[layer]
    ensemble = Ensemble(members).fit(given, world.weights)
    overall = {
        name: member.score(given[name], world.test, ceiling=world.ceiling, n_bootstrap=0).center
        for name, member in members.items()
    }
    together = ensemble.score(given, world.test, ceiling=world.ceiling, n_bootstrap=0)
    return {
        "members": overall,
        "ensemble": together.center,
        "gain_over_best": together.center - max(overall.values()),
        "by_region": world.by_region(together.normalised),
        "largest_error_of_weight_sum": float(np.abs(ensemble.weights_.sum(0) - 1).max()),
    }


def shuffled_claims(world: World, encoder: TransformerEncoder) -> dict[str, float]:
    """Score with the stimuli shuffled, and of an encoder that was trained on shuffled pairs."""
    test: Recording = world.test
    score = encoder.score(world.tokens, test, ceiling=world.ceiling, n_bootstrap=0)
    null = shuffled_score(score, encoder.predict(world.tokens, world.ids), test, n=N_SHUFFLES, seed=0)
    order = np.random.default_rng(0).permutation(TRAIN)
    train = world.train
    pairs = Recording(train.values[order], train.presentations, train.neuroids, space=train.space)
    tokens = world.tokens["blocks.3"]
    misled = TransformerEncoder("roi", device="cpu", epochs=5).fit(tokens, pairs)
    trained = misled.score(tokens, test, ceiling=world.ceiling, n_bootstrap=0).center
    return {"mean": null.mean, "standard_error": null.standard_error, "trained_on_shuffled": trained}


def run(seed: int) -> dict[str, Any]:
    """All claims for one seed."""
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, Path(folder))
        found, encoders = scores(world)
        roi = encoders["roi"]
        assert isinstance(roi, TransformerEncoder)
        answer = {
            "scores": found,
            "routing": routing_claims(found),
            "attention": attention_claims(world, roi),
            "shuffled": shuffled_claims(world, roi),
            "ensemble": ensemble_claims(world, roi),
            "fields": field_claims(world),
        }
    for name in ("routing", "attention", "shuffled", "ensemble", "fields"):
        print(f"  {name}", json.dumps(answer[name]), flush=True)
    return answer


def spread(answers: list[Any]) -> Any:
    """Mean and standard deviation over seeds of every number in nested answers."""
    if isinstance(answers[0], dict):
        return {name: spread([answer[name] for answer in answers]) for name in answers[0]}
    values = np.array(answers, float)
    return {"mean": round(float(values.mean()), 4), "sd": round(float(values.std(ddof=min(1, len(values) - 1))), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "transformer_truth.json")
    given = parser.parse_args()
    # Matrices are small; threads that wait for each other on a busy machine are many times slower than one.
    torch.set_num_threads(1)
    origin = provenance()
    answers = [run(seed) for seed in given.seeds]
    report = {
        **origin,
        "over_seeds": spread(answers),
        "seeds": dict(zip(map(str, given.seeds), answers, strict=True)),
    }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["over_seeds"]["routing"], indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
