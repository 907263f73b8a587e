"""What the intercept and the spread of decoded latents z and text states c are worth, on a simulated brain.

The original ridge (Takagi & Nishimoto 2023: himalaya's `RidgeCV` on standardised responses) has no intercept, so that
decoded codes scatter about 0 instead of the mean of the training stimuli. It is fitted beside `LatentDecoder`, which
keeps the mean, and `LatentDecoder(rescale=True)`, which also keeps the spread; alphas and folds are the same.

    python benchmarks/centred_targets.py --out benchmarks/results/centred_targets.json
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from himalaya.ridge import RidgeCV
from provenance import provenance

from decoders import LatentDecoder, identify
from decoders.pictures import Generator
from decoders.targets import make_targets
from encoders import Features
from recordings import Recording
from recordings.miniature import Scenes, simulate_subject

ALPHAS = np.logspace(0, 5, 11)
ROIS = {"z": ("V1", "V2", "V3"), "c": ("V4", "vehicles", "furniture", "vessels", "MTL")}


def decode(train: Recording, test: Recording, features: Features) -> dict[str, np.ndarray]:
    """Decoded features of the test stimuli, (stimulus, feature), by method."""
    targets = features.read(features.rows(train.stimulus_ids)).reshape(len(train), -1)
    mean, scale = train.values.mean(0), train.values.std(0)
    original = RidgeCV(alphas=ALPHAS, fit_intercept=False, cv=5).fit((train.values - mean) / scale, targets)
    found = {"without intercept": original.predict((test.values - mean) / scale)}
    for name, rescale in (("with intercept", False), ("with intercept and spread", True)):
        decoder = LatentDecoder(ALPHAS, 5, None, calibration_folds=5 if rescale else 0, rescale=rescale)
        found[name] = decoder.fit(train, features).predict(test)
    return found


def score(decoded: np.ndarray, truth: np.ndarray, training: np.ndarray, ids: list[str]) -> dict[str, float]:
    """Agreement of decoded with true features.

    r : over all stimuli and dimensions, the training mean taken off. r_image : across dimensions, as the original
    prints it. two_way, two_way_centred : identification across dimensions, of features as they are and standardised by
    the training stimuli. mean_kept : share of dimensions whose mean is within 3 standard errors of the training's.
    spread : s.d. of decoded over that of true features. rmse : in s.d. of all true features about the training mean.
    """
    mean = training.mean(0)
    scale = np.where(training.std(0) > 1e-4, training.std(0), 1)
    unit = (truth - mean).std()
    identified = {
        "two_way": identify(decoded, ids, truth, candidate_ids=ids, temperature=1.0),
        "two_way_centred": identify(decoded, ids, truth, candidate_ids=ids, temperature=1.0, mean=mean, scale=scale),
    }
    rows = [np.corrcoef(d, t)[0, 1] for d, t in zip(decoded, truth, strict=True)]
    varies = training.std(0) > 1e-4
    error = np.abs(decoded.mean(0) - mean)[varies] * np.sqrt(len(decoded)) / training.std(0)[varies]
    return {
        "r": float(np.corrcoef((decoded - mean).ravel(), (truth - mean).ravel())[0, 1]),
        "r_image": float(np.mean(rows)),
        **{name: found.two_way_candidates for name, found in identified.items()},
        "mean_kept": float((error <= 3).mean()),
        "spread": float((decoded.std(0)[varies] / truth.std(0)[varies]).mean()),
        "rmse": float(np.sqrt(((decoded - truth) ** 2).mean()) / unit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="miniature:diffusion", help="a name, or a folder in diffusers' layout")
    parser.add_argument("--scenes", type=int, default=800, help="100 of them are held out")
    parser.add_argument("--noise-ceiling", type=float, nargs="+", default=[0.2, 0.7])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    made, runs = provenance(), []
    scenes = Scenes.sample(arguments.scenes, seed=11)
    targets: dict[str, Features] = {}
    for ceiling in arguments.noise_ceiling:
        subject = simulate_subject(scenes, noise_ceiling=ceiling)
        average = subject.recording.average_repetitions()
        if not targets:
            generator = Generator.from_pretrained(arguments.generator, device="cpu")
            targets = make_targets(subject.stimuli, list(ROIS), generator=generator)
        test = np.isin(average.stimulus_ids.astype(str), scenes.stimulus_id[-100:])
        for name, rois in ROIS.items():
            shown = average.roi(*rois)
            train, held_out = shown.take(np.flatnonzero(~test)), shown.take(np.flatnonzero(test))
            ids = [str(i) for i in held_out.stimulus_ids]
            truth, training = (
                targets[name].read(targets[name].rows(part.stimulus_ids)).reshape(len(part), -1)
                for part in (held_out, train)
            )
            for method, decoded in decode(train, held_out, targets[name]).items():
                row: dict[str, Any] = {"noise_ceiling": ceiling, "target": name, "method": method}
                runs.append(row | score(decoded, truth, training, ids))
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
    if arguments.out is not None:
        settings = {"generator": arguments.generator, "scenes": arguments.scenes, "held_out": 100}
        arguments.out.write_text(json.dumps({**made, **settings, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
