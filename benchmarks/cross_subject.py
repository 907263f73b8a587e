"""What other subjects are worth to one of whom there is little: two-way identification from an eighth of the data.

Five subjects of the miniature world share a layout and differ in receptive fields and tuning. Four saw 1,000 scenes
once; of the fifth there are 125 of these. All is judged on 200 scenes that nobody saw. The signal is low, so that
nothing is at its ceiling.

    python benchmarks/cross_subject.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import RESULTS, provenance

from decoders import LatentDecoder, identify
from decoders.functional_alignment import Hyperalignment, SharedResponseModel, transfer
from decoders.shared_space import SharedSpaceDecoder
from encoders import FeatureExtractor, Features, extract
from encoders.solvers import AlphaEdgeWarning
from recordings import Recording
from recordings.miniature import Scenes, make_stimuli, render, simulate_subject

TRAIN, PART, TEST, OTHERS = 1000, 125, 200, 4
CEILING = 0.05  # of a single presentation, which is all there is
NEW = "new"
TRAINED: dict[str, Any] = {"shared": 32, "batch_size": 128, "epochs": 30, "dropout": 0.3, "input_dropout": 0.5}


class World:
    """One seed's subjects, and the class token of the miniature backbone's last block."""

    def __init__(self, seed: int, folder: Path) -> None:
        scenes = Scenes.sample(TRAIN + TEST, seed=seed)
        rendered = render(scenes)
        extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")
        stimuli = make_stimuli(scenes, rendered=rendered)
        layer = "blocks.5"
        self.embedding: Features = extract(extractor, stimuli, folder, layers=[layer], readout="cls")[layer]
        names = [*(f"subject-{k + 1:02d}" for k in range(OTHERS)), NEW]
        shown = {}
        for number, name in enumerate(names):
            subject = simulate_subject(
                scenes, rendered, seed=seed, subject=number, noise_ceiling=CEILING, repetitions=1
            )
            order = subject.recording.match([str(i) for i in scenes.stimulus_id])
            shown[name] = subject.recording.take(np.argsort(order))
        self.others = {name: shown[name].take(slice(TRAIN)) for name in names[:-1]}
        self.little, self.all = shown[NEW].take(slice(PART)), shown[NEW].take(slice(TRAIN))
        self.test = shown[NEW].take(slice(TRAIN, None))
        self.candidates = self.embedding.select([str(i) for i in self.test.stimulus_ids])

    def ridge(self, recording: Recording, test: Recording | None = None) -> dict[str, float]:
        """Scores of a `LatentDecoder`."""
        decoder = fit_ridge(recording, self.embedding)
        return scores(decoder.identify(self.test if test is None else test, self.candidates, n_permutations=100))

    def network(self, decoder: SharedSpaceDecoder) -> dict[str, dict[str, float]]:
        """Scores of both heads on the new subject."""
        heads = ("retrieval", "embedding")
        return {
            head: scores(decoder.identify(NEW, self.test, self.candidates, head=head, n_permutations=100))
            for head in heads
        }


def fit_ridge(recording: Recording, embedding: Features) -> LatentDecoder:
    """Of single presentations, and all neuroids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlphaEdgeWarning)
        return LatentDecoder(reliability=None, calibration_folds=0).fit(recording, embedding)


def scores(found: Any) -> dict[str, float]:
    """Two-way identification in both directions, and the exact one among all."""
    return {
        "two_way_candidates": found.two_way_candidates,
        "two_way_rows": found.two_way_rows,
        "top1": found.accuracy,
        "top1_shuffled": found.null.mean,
    }


def ridge_claims(world: World) -> dict[str, Any]:
    """Ridge on the new subject alone, with an eighth and with all of the data."""
    return {"alone": world.ridge(world.little), "alone_all_data": world.ridge(world.all)}


def network_claims(world: World, seed: int, inputs: str) -> dict[str, Any]:
    """The shared space on the new subject alone, with few and many steps; and after the others."""
    options: dict[str, Any] = {"seed": seed, "device": "cpu", **(TRAINED if inputs == "trained" else {})}
    found: dict[str, Any] = {}
    for views, epochs in product((2, 8) if inputs == "aligned" else (2,), (20, 100)):
        settings = {**options, "views": views, "epochs": epochs, "batch_size": 64}
        alone = SharedSpaceDecoder(inputs, **settings).fit({NEW: world.little}, world.embedding)  # type: ignore[arg-type]
        found[f"alone, {views} views, {epochs} epochs"] = world.network(alone)
    others = SharedSpaceDecoder(inputs, **options).fit(world.others, world.embedding)  # type: ignore[arg-type]
    for train in ("input", "all"):
        more: dict[str, Any] = {"epochs": 100} if inputs == "trained" else {}
        more |= {"learning_rate": 1e-4} if (inputs, train) == ("aligned", "all") else {}
        adapted = others.adapt(NEW, world.little, world.embedding, train=train, **more)  # type: ignore[arg-type]
        found[f"adapted_{train}"] = world.network(adapted)
    whole = others.adapt(NEW, world.all, world.embedding)
    return {**found, "adapted_input_all_data": world.network(whole)}


def alignment_claims(world: World) -> dict[str, Any]:
    """Ridge in the common space of the others; and one subject's decoder, to whose neuroids responses are carried."""
    found: dict[str, Any] = {}
    first = next(iter(world.others))
    own = fit_ridge(world.others[first], world.embedding)
    for name, alignment in (
        ("srm_10", SharedResponseModel(10)),
        ("srm_20", SharedResponseModel(20)),
        ("hyperalignment", Hyperalignment()),
    ):
        alignment.fit(world.others).add_subject(NEW, world.little)
        test = alignment.transform(NEW, world.test)
        one = alignment.transform(first, world.others[first])
        carried = transfer(own, alignment, world.test, subject=NEW, fitted_on=world.others[first], fitted_subject=first)
        found[name] = {
            "fitted_on_one_subject": world.ridge(one, test),
            "carried_to_one_subject": {"two_way_candidates": two_way(carried, world, own)},
        }
    return found


def two_way(decoded: np.ndarray, world: World, decoder: LatentDecoder) -> float:
    """Of decoded rows against other candidates."""
    found = identify(
        decoded,
        [str(i) for i in world.test.stimulus_ids],
        world.candidates,
        mean=decoder.feature_mean_,
        scale=decoder.feature_scale_,
        n_permutations=2,
        n_bootstrap=2,
    )
    return found.two_way_candidates


def run(seed: int) -> dict[str, Any]:
    """All claims of one seed."""
    parts: dict[str, Callable[[World], dict[str, Any]]] = {
        "ridge": ridge_claims,
        "aligned": lambda world: network_claims(world, seed, "aligned"),
        "trained": lambda world: network_claims(world, seed, "trained"),
        "functional_alignment": alignment_claims,
    }
    with tempfile.TemporaryDirectory() as folder:
        world = World(seed, Path(folder) / "features.zarr")
        found: dict[str, Any] = {}
        for name, part in parts.items():
            start = time.process_time()
            found[name] = part(world)
            seconds = time.process_time() - start
            print(f"seed {seed}, {name}, {seconds:.0f} CPU s:", json.dumps(found[name]), flush=True)
    key = "two_way_candidates"
    alone = [found["ridge"]["alone"][key]]
    for part in ("aligned", "trained"):
        lonely = [heads for how, heads in found[part].items() if how.startswith("alone")]
        alone += [head[key] for heads in lonely for head in heads.values()]
    found["gain_over_best_alone"] = found["aligned"]["adapted_input"]["retrieval"][key] - max(alone)
    return found


def mean(answers: list[Any]) -> Any:
    """Mean over seeds of every number."""
    if isinstance(answers[0], dict):
        return {name: mean([answer[name] for answer in answers]) for name in answers[0]}
    return round(float(np.mean(answers)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "cross_subject.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = provenance()
    report["world"] = {"noise_ceiling": CEILING, "train": TRAIN, "part": PART, "test": TEST, "others": OTHERS}
    answers: dict[str, Any] = {}
    for seed in given.seeds:
        answers[str(seed)] = run(seed)
        report |= {"mean_over_seeds": mean(list(answers.values())), "seeds": answers}
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
