"""What pictures drawn from simulated brains show of what was seen, over seeds, at low and high signals.

Each seed is another world and another subject. Signal is the ratio of standard deviations, response to noise, of a
single presentation; three presentations of a scene are averaged. The generator and the reader have seen other worlds.

    python benchmarks/pictures_truth.py             # three seeds, three signals; about 10 minutes each on one core
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import RESULTS, provenance

from decoders import BrainDecoder
from decoders.evaluation import PictureEvaluation, evaluate_pictures
from decoders.miniature.pictures import nearness
from decoders.miniature.reader import load_reader, true_attributes
from decoders.pictures import DecodedInputs, Generator, ImageReconstructor, Preset, choose_strength
from decoders.targets import make_targets
from encoders import FeatureExtractor, Features
from encoders.solvers import AlphaEdgeWarning, ConstantTargetWarning
from recordings import Recording, Stimuli
from recordings.miniature import Scenes, render, simulate_subject

TRAIN, TEST, TUNE = 2200, 150, 60
REPETITIONS = 3
# "low" as a signal of .3, and as a noise ceiling of .3, since the word is read both ways.
SIGNALS = {"low": 0.3, "low ceiling": (0.3 / 0.7 / REPETITIONS) ** 0.5, "high": 1.0}
ROIS: dict[str, list[str] | None] = {
    "z": ["V1", "V2", "V3", "V4"],
    "c": None,
    "depth": ["V1", "V2", "V3", "V4"],
    "embedding": None,
}
TWO_WAY = "two_way.miniature:backbone.reconstruction_fixed"
COMPARED = (TWO_WAY, "pixcorr", "attributes.nearness")
STEPS = 20
_BOTH = Preset("zc", strength=0.6, steps=STEPS, guidance=2.0)
CONDITIONS = {
    "z": replace(_BOTH, name="z", text=None, strength=0.0, guidance=1.0),
    "c": replace(_BOTH, name="c", start=None, strength=1.0),
    "zc": _BOTH,
    "zcd": replace(_BOTH, name="zcd", depth="controlnet"),
    "all": replace(_BOTH, name="all", depth="controlnet", embedding=True),
}


@dataclass
class World:
    """One seed's scenes, what a generator is told of them, and a subject's responses at one signal."""

    scenes: Scenes
    stimuli: Stimuli
    maps: np.ndarray
    targets: dict[str, Features]
    recording: Recording

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in self.scenes.stimulus_id]


def ceiling_of(signal: float) -> float:
    """Noise ceiling, a fraction of variance, of the mean over `REPETITIONS` presentations."""
    return REPETITIONS * signal**2 / (1 + REPETITIONS * signal**2)


def make_world(seed: int, signal: float, generator: Generator) -> World:
    scenes = Scenes.sample(TRAIN + TEST, seed=seed)
    rendered = render(scenes)
    ceiling = ceiling_of(signal)
    subject = simulate_subject(scenes, rendered, seed=seed, noise_ceiling=ceiling, repetitions=REPETITIONS)
    maps = nearness(rendered.depth)
    extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")
    targets = make_targets(subject.stimuli, list(ROIS), generator=generator, depth=maps, embedding=extractor)
    return World(scenes, subject.stimuli, maps, targets, subject.recording)


def study(seed: int, signal: float, generator: Generator) -> dict[str, Any]:
    """All conditions on one subject's held-out scenes."""
    world = make_world(seed, signal, generator)
    learnt = world.ids[:TRAIN]
    train = world.recording.where(stimulus_id=learnt)
    test = world.recording.where(stimulus_id=world.ids[TRAIN:]).average_repetitions()
    held_out = list(map(str, test.stimulus_ids))
    decoder = BrainDecoder(ROIS, components=500, reliability=None, calibration_folds=2)
    targets = {name: features.select(learnt) for name, features in world.targets.items()}
    decoder.fit(train, targets)
    inputs = told(decoder.predict(test), held_out, generator)
    truth = told(true_targets(world, held_out), held_out, generator)
    found: dict[str, PictureEvaluation] = {}
    for name, preset in CONDITIONS.items():
        found[name] = judge(draw(generator, preset, inputs, seed), world, held_out)
    found["truth"] = judge(draw(generator, CONDITIONS["all"], truth, seed), world, held_out)
    tuned, table = tune(decoder, train, targets, generator, world, seed)
    found["tuned"] = judge(draw(generator, tuned, inputs, seed), world, held_out)
    return {
        "seed": seed,
        "noise_ceiling": ceiling_of(signal),
        "chosen": {"strength": tuned.strength, "guidance": tuned.guidance},
        "grid": table,
        "decoded_r": decoded_r(inputs, truth),
        "scores": {name: summary(evaluation) for name, evaluation in found.items()},
        "differences": {
            f"{a}-{b}": {name: found[a].difference(found[b], name).to_dict() for name in COMPARED}
            for a, b in (("zc", "z"), ("zc", "c"), ("zcd", "zc"), ("all", "zc"), ("tuned", "z"))
        },
        "of_upper_bound": {
            name: found["all"].measures[name].value / found["truth"].measures[name].value
            for name in (f"attributes.{attribute}" for attribute in ("category", "colour", "position"))
        },
        "n": len(held_out),
    }


def told(decoded: dict[str, np.ndarray], ids: list[str], generator: Generator) -> DecodedInputs:
    return DecodedInputs.from_decoded(ids, decoded, generator)


def true_targets(world: World, ids: list[str]) -> dict[str, np.ndarray]:
    """What the generator would be told by a perfect decoder."""
    return {name: f.select(ids).read().reshape(len(ids), *f.shape[1:]) for name, f in world.targets.items()}


def draw(generator: Generator, preset: Preset, inputs: DecodedInputs, seed: int) -> np.ndarray:
    made = ImageReconstructor(generator, preset).reconstruct(inputs, seed=seed, batch_size=50)
    assert not made.failed
    return made.images[:, 0]


def tune(
    decoder: BrainDecoder,
    train: Recording,
    targets: dict[str, Features],
    generator: Generator,
    world: World,
    seed: int,
) -> tuple[Preset, list[dict[str, float]]]:
    """Strength and guidance by what they gain on training scenes, decoded out of fold."""
    average = train.average_repetitions()
    ids = list(map(str, average.stimulus_ids))
    out_of_fold = told(decoder.cross_predict(train, targets, 3), ids, generator).select(slice(TUNE))
    shown = np.stack(list(world.stimuli.select(ids[:TUNE])))
    extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")

    def features(images: np.ndarray) -> np.ndarray:
        return next(iter(extractor(list(images), readout="cls").values()))

    choice = choose_strength(
        ImageReconstructor(generator, CONDITIONS["all"]),
        out_of_fold,
        shown,
        features,
        guidances=(1.0, 2.0),
        seed=seed,
        batch_size=TUNE,
    )
    preset = replace(CONDITIONS["all"], name="tuned", strength=choice.strength, guidance=choice.guidance)
    return preset, choice.table.to_dict("records")


def judge(images: np.ndarray, world: World, ids: list[str]) -> PictureEvaluation:
    row = {name: k for k, name in enumerate(world.ids)}
    rows = np.array([row[name] for name in ids])
    return evaluate_pictures(
        images,
        np.stack(list(world.stimuli.select(ids))),
        stimulus_ids=ids,
        categories=list(world.scenes[rows].category_names),
        training_pictures=np.stack(list(world.stimuli.select(world.ids[:TRAIN]))),
        reader=load_reader().read,
        attributes=true_attributes(world.scenes[rows], world.maps[rows]),
        n_permutations=200,
        n_bootstrap=300,
    )


def summary(evaluation: PictureEvaluation) -> dict[str, Any]:
    return {name: measure.to_dict() for name, measure in evaluation.measures.items()}


def decoded_r(inputs: DecodedInputs, truth: DecodedInputs) -> dict[str, float]:
    """Pearson r of decoded with true targets, pooled over scenes, each feature less its mean."""
    found = {}
    for name in ROIS:
        a, b = (getattr(side, name).reshape(len(side), -1) for side in (inputs, truth))
        found[name] = float(np.corrcoef((a - a.mean(0)).ravel(), (b - b.mean(0)).ravel())[0, 1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "pictures_truth.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for category in (AlphaEdgeWarning, ConstantTargetWarning):
        warnings.simplefilter("ignore", category)
    found: dict[str, Any] = {**provenance(), "train": TRAIN, "test": TEST, "signals": SIGNALS, "studies": {}}
    generator = Generator.from_pretrained(
        "miniature:diffusion", controlnet="miniature:controlnet", ip_adapter="miniature:ip_adapter", device="cpu"
    )
    for seed in options.seeds:
        for name, signal in SIGNALS.items():
            start = time.perf_counter()
            result = study(seed, signal, generator)
            result["seconds"] = time.perf_counter() - start
            found["studies"].setdefault(name, []).append(result)
            options.out.write_text(json.dumps(found, indent=2) + "\n")
            print(name, seed, tell(result), flush=True)


def tell(result: dict[str, Any]) -> str:
    """One line a condition."""
    columns = (TWO_WAY, "pixcorr", "attributes.category", "attributes.colour", "attributes.position")
    columns = (*columns, "attributes.nearness")
    rows = [f"chosen {result['chosen']}, decoded r {result['decoded_r']}, {result['seconds']:.0f} s"]
    for name, scores in result["scores"].items():
        rows.append(f"  {name:6}" + " ".join(f"{scores[c]['value']:.3f}" for c in columns))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
