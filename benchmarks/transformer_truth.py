"""What the transformer encoder recovers of what was planted in the miniature world, over several seeds.

Each seed is another world and another subject. Three disjoint sets serve three ends: training (a tenth of it chooses
the epoch), the weights of the ensemble, and the scores.

    python benchmarks/transformer_truth.py                  # three seeds; about 10 minutes each on one core
    python benchmarks/transformer_truth.py --only ensemble  # one part, put beside the others in the results
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
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

    @cached_property
    def roi(self) -> TransformerEncoder:
        """An encoder with a query a region."""
        return TransformerEncoder("roi", device="cpu", **SETTINGS["roi"]).fit(self.tokens, self.train)

    def by_region(self, values: np.ndarray) -> dict[str, float]:
        """Mean of each region's neuroids."""
        return {name: float(np.nanmean(values[self.test.roi_mask(name)])) for name in SCORED}


def routing_claims(world: World) -> dict[str, Any]:
    """Noise-normalised r of every routing by region, on the same tokens.

    And how far region queries are above flattened ridge in the patches, and below the best routing elsewhere.
    """
    found: dict[str, dict[str, float]] = {}
    for name, settings in SETTINGS.items():
        encoder = (
            world.roi if name == "roi" else make_routing(name, device="cpu", **settings).fit(world.tokens, world.train)
        )
        score = encoder.score(world.tokens, world.test, ceiling=world.ceiling, n_bootstrap=0)
        found[name] = world.by_region(score.normalised)
    best = {name: max(scores[name] for scores in found.values()) for name in EARLY}
    below = {f"below_best_{name}": best[name] - found["roi"][name] for name in EARLY}
    return {"scores": found, "gain_in_patches": found["roi"]["category"] - found["flattened"]["category"], **below}


def attention_claims(world: World) -> dict[str, Any]:
    """Where each patch's queries look: on its object's silhouette, and how spread out without it.

    Once with heads averaged; and once of one head a query, the one that on training scenes is most focused with the
    object against without. A patch's map is the mean over the two hemispheres.
    """
    seen = [str(i) for i in world.train.stimulus_ids]
    learnt, held_out = (world.roi.attention(world.tokens, ids, per_head=True) for ids in (seen, world.ids))
    found: dict[str, Any] = {}
    for group in GROUPS:
        queries = [held_out.queries.index(f"{side} {group}") for side in "LR"]
        shown = world.groups[: len(seen)] == group
        entropy = learnt.entropy(relative=True)[:, queries]
        heads = (entropy[~shown].mean(0) - entropy[shown].mean(0)).argmax(-1)
        maps = {
            "heads_averaged": held_out.weights[:, queries].mean((1, 2)),
            "chosen_head": np.mean([held_out.weights[:, q, h] for q, h in zip(queries, heads, strict=True)], 0),
        }
        found[group] = {name: looks(weights, world, group) for name, weights in maps.items()}
    return found


def looks(weights: np.ndarray, world: World, group: str) -> dict[str, float]:
    """Share of scenes whose peak of attention (scene, row, column) is on the object; entropy, a share of log T."""
    n, rows, columns = weights.shape
    silhouettes, shown = world.silhouettes[-n:], world.groups[-n:] == group
    size = silhouettes.shape[1] // rows
    covered = silhouettes.reshape(n, rows, size, columns, size).any((2, 4)).reshape(n, -1)
    flat = weights.reshape(n, -1)
    entropy = -(flat * np.log(flat.clip(1e-30))).sum(1) / np.log(flat.shape[1])
    return {
        "peak_on_object": float(covered[np.arange(n), flat.argmax(1)][shown].mean()),
        "chance": float(covered[shown].mean()),
        "entropy_with": float(entropy[shown].mean()),
        "entropy_without": float(entropy[~shown].mean()),
    }


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


def ensemble_claims(world: World) -> dict[str, Any]:
    """Ensembles and their best member, on stimuli that neither has seen: over layers, and with all layers in one."""
    members: dict[str, Encoder] = {
        layer: TransformerEncoder("roi", device="cpu", **SETTINGS["roi"]).fit(world.tokens[layer], world.train)
        for layer in LAYERS
    }
    given: dict[str, Any] = {layer: world.tokens[layer] for layer in LAYERS}
    over_layers = ensemble_of(world, members, given)
    both = ensemble_of(world, members | {"all-layers": world.roi}, given | {"all-layers": world.tokens})
    return {"over_layers": over_layers, "with_all_layers": both}


def ensemble_of(world: World, members: dict[str, Encoder], given: dict[str, Any]) -> dict[str, Any]:
    """Score of an ensemble and of its members."""
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
        "largest_error_of_weight_sum": float(np.abs(ensemble.weights_.sum(0, dtype=np.float64) - 1).max()),
    }


def shuffled_claims(world: World) -> dict[str, float]:
    """Score with the stimuli shuffled, and of an encoder that was trained on shuffled pairs."""
    test: Recording = world.test
    score = world.roi.score(world.tokens, test, ceiling=world.ceiling, n_bootstrap=0)
    null = shuffled_score(score, world.roi.predict(world.tokens, world.ids), test, n=N_SHUFFLES, seed=0)
    order = np.random.default_rng(0).permutation(TRAIN)
    train = world.train
    pairs = Recording(train.values[order], train.presentations, train.neuroids, space=train.space)
    tokens = world.tokens["blocks.3"]
    misled = TransformerEncoder("roi", device="cpu", epochs=5).fit(tokens, pairs)
    trained = misled.score(tokens, test, ceiling=world.ceiling, n_bootstrap=0).center
    return {"mean": null.mean, "standard_error": null.standard_error, "trained_on_shuffled": trained}


PARTS: dict[str, Callable[[World], dict[str, Any]]] = {
    "routing": routing_claims,
    "attention": attention_claims,
    "shuffled": shuffled_claims,
    "ensemble": ensemble_claims,
    "fields": field_claims,
}


def run(seed: int, parts: Sequence[str]) -> dict[str, Any]:
    """The claims of some parts for one seed."""
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, Path(folder))
        for name in parts:
            start = time.process_time()
            answers[name] = PARTS[name](world)
            print(
                f"seed {seed}, {name}, {time.process_time() - start:.0f} CPU s:", json.dumps(answers[name]), flush=True
            )
    return answers


def spread(answers: list[Any]) -> Any:
    """Mean and standard deviation over seeds of every number in nested answers."""
    if isinstance(answers[0], dict):
        return {name: spread([answer[name] for answer in answers]) for name in answers[0]}
    values = np.array(answers, float)
    return {"mean": round(float(values.mean()), 4), "sd": round(float(values.std(ddof=min(1, len(values) - 1))), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "transformer_truth.json")
    given = parser.parse_args()
    # Matrices are small; threads that wait for each other on a busy machine are many times slower than one.
    torch.set_num_threads(1)
    origin = provenance()
    report = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.parent.mkdir(exist_ok=True)
    answers: dict[int, dict[str, Any]] = {}
    for seed in given.seeds:
        answers[seed] = run(seed, given.only)
        for name in given.only:
            by_seed = {str(done): answer[name] for done, answer in answers.items()}
            report[name] = {**origin, "over_seeds": spread(list(by_seed.values())), "seeds": by_seed}
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
