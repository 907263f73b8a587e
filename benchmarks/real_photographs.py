"""Photographs decoded from a simulated linear brain, against the nearest photograph that was trained on.

Crops of 64 x 64 pixels come from sample photographs of scikit-learn and scikit-image; those to be decoded from the
right quarter of each, those for training from the rest, so that they never overlap. Voxels are random projections of
TAEF2's latents plus noise of planted size; ridge decodes latents, and the autoencoder makes pictures of them. A method
that only recalled its training set could do no better than the nearest of its crops.

    python benchmarks/real_photographs.py DATA_DIR   # DATA_DIR/taef2: encoder.safetensors, decoder.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import RESULTS, provenance

from decoders import LatentDecoder
from decoders.similarity import correlations
from decoders.taef2 import Taef2
from encoders import Features
from recordings import Recording
from recordings.statistics import bootstrap_interval

SIDE, TRAINING, VOXELS = 64, 500, 3000
HELD_OUT = 0.25  # part of each photograph's width


def photographs() -> dict[str, np.ndarray]:
    """Colour photographs that come with the two libraries, uint8 (H, W, 3)."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    found = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        found[name] = getattr(skimage.data, name)()
    found["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    return found


def crops(rng: np.random.Generator, n_training: int = TRAINING) -> tuple[np.ndarray, np.ndarray]:
    """Training crops at random places, and all held-out tiles, which overlap neither these nor one another."""
    pictures = list(photographs().values())
    training, held_out = [], []
    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        border = round(width * (1 - HELD_OUT))
        n = n_training // len(pictures) + (number < n_training % len(pictures))
        tops, lefts = rng.integers(0, height - SIDE + 1, n), rng.integers(0, border - SIDE + 1, n)
        training += [picture[t : t + SIDE, x : x + SIDE] for t, x in zip(tops, lefts, strict=True)]
        tiles = [(t, x) for t in range(0, height - SIDE + 1, SIDE) for x in range(border, width - SIDE + 1, SIDE)]
        held_out += [picture[t : t + SIDE, x : x + SIDE] for t, x in tiles]
    # A crop of one plain colour has no correlation with anything.
    kept = [tile for tile in held_out if tile.std() > 2]
    return np.stack(training), np.stack(kept)


def respond(latents: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Voxels (n, VOXELS): projections of unit variance over the training crops, and noise of the given s.d."""
    wiring, trials = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    weights = wiring.normal(0, 1 / np.sqrt(latents.shape[1]), (latents.shape[1], VOXELS))
    signal = latents @ weights
    return (signal / signal[:TRAINING].std(0) + trials.normal(0, noise, signal.shape)).astype(np.float32)


def measure(folder: Path, noise: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """PixCorr of decoded pictures and of training crops, each a mean over held-out crops.

    Parameters
    ----------
    folder : of TAEF2's weights. noise : s.d. of a voxel's noise over that of its signal.
    """
    taef2 = Taef2.from_folder(folder)
    training, shown = crops(np.random.default_rng(seed))
    pictures = np.concatenate([training, shown])
    latents = taef2.encode_images(pictures)
    z = latents.reshape(len(latents), -1)
    ids = [f"crop{k:04d}" for k in range(len(z))]
    recording = Recording(respond(z, noise, seed), {"stimulus_id": ids})
    features = Features.from_arrays(z, ids, uri="taef2", layer="latent")
    decoder = LatentDecoder(reliability=None, calibration_folds=0)
    decoder.fit(recording.take(np.arange(len(training))), features.select(ids[: len(training)]))
    decoded_z = decoder.predict(recording.take(np.arange(len(training), len(ids))))
    decoded = taef2.decode_latents(decoded_z.reshape(-1, *latents.shape[1:]))
    nearest = correlations(decoded_z, z[: len(training)], mean=decoder.feature_mean_, scale=decoder.feature_scale_)
    pixels = pixcorr(shown, training)
    scores = {
        "decoded": np.diagonal(pixcorr(shown, decoded)),
        "nearest": pixels[np.arange(len(shown)), nearest.argmax(1)],
        "nearest_by_pixels": pixels.max(1),
        "autoencoder": np.diagonal(pixcorr(shown, taef2.decode_latents(latents[len(training) :]))),
        "shuffled": np.diagonal(pixcorr(shown, np.roll(decoded, len(decoded) // 2, axis=0))),
    }
    gains = {f"gain_over_{name}": scores["decoded"] - scores[name] for name in ("nearest", "nearest_by_pixels")}
    interval = {name: _interval(gain, seed) for name, gain in gains.items()}
    return {
        "noise": noise, "noise_ceiling": 1 / (1 + noise**2), "n_training": len(training), "n_held_out": len(shown),
        "voxels": VOXELS, **{name: float(s.mean()) for name, s in (scores | gains).items()}, "interval": interval,
    }  # fmt: skip


def pixcorr(shown: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pearson r over all pixels and channels of each pair, (n, m)."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (shown, others))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    return (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)).clip(min=1e-9)


def _interval(gain: np.ndarray, seed: int) -> list[float]:
    return list(bootstrap_interval(lambda rows: float(gain[rows].mean()), len(gain), seed=seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder that holds taef2/")
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = provenance() | {"command": "python benchmarks/real_photographs.py DATA_DIR"}
    rows = [measure(options.data / "taef2", noise, options.seed) for noise in options.noise]
    for row in rows:
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in row.items()})
    (RESULTS / "real_photographs.json").write_text(json.dumps(made | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
