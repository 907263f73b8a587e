"""What fewer tokens cost: region queries on the miniature world's tokens, 8 x 8 and averaged to 4 x 4."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from encoders import FeatureExtractor, Features, extract
from encoders.attention import TransformerEncoder
from recordings import Recording, split_by_stimulus
from recordings.miniature.brain import simulate_subject
from recordings.miniature.scenes import Scenes

GRIDS = {"8 x 8": None, "4 x 4": (4, 4)}


def accuracy(n_scenes: int = 1000, seeds: int = 3, **options: Any) -> dict[str, Any]:
    """Noise-normalised r on a held-out fifth of the scenes, by region: mean over seeds, and their s.d."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in GRIDS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            features, recording = _world(n_scenes, seed, Path(folder, f"{seed}.zarr"))
            for name, grid in GRIDS.items():
                scores[name].append(_score(features, recording, TransformerEncoder(grid=grid, seed=seed, **options)))
    return {
        "scenes": n_scenes,
        "seeds": seeds,
        "noise-normalised r": {name: _summary(found) for name, found in scores.items()},
        "cost": _summary([
            {region: full[region] - pooled[region] for region in full}
            for full, pooled in zip(scores["8 x 8"], scores["4 x 4"], strict=True)
        ]),
    }  # fmt: skip


def _world(n: int, seed: int, store: Path) -> tuple[Features, Recording]:
    subject = simulate_subject(Scenes.sample(n, seed=seed), seed=seed)
    extractor = FeatureExtractor.from_uri("miniature:backbone")
    features = extract(extractor, subject.stimuli, store, readout="tokens")
    return next(iter(features.values())), subject.recording.average_repetitions()


def _score(features: Features, recording: Recording, encoder: TransformerEncoder) -> dict[str, float]:
    train, test = split_by_stimulus(recording, 0.2).apply(recording)
    ceiling = test.neuroid("planted_noise_ceiling")
    return encoder.fit(features, train).score(features, test, ceiling=ceiling, n_bootstrap=0).by_roi()


def _summary(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        region: {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
        for region, values in ((region, [scores[region] for scores in found]) for region in found[0])
    }
