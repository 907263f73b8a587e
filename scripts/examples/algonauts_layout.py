"""A made-up subject in the layout and size of Algonauts 2023: ``python -m scripts.examples.algonauts_layout OUT``.

It lets everything that reads, fits and scores the challenge's data be tried, and measured at full size, where the data
are not at hand. Nothing in it is real: pictures are a coloured background with a disc of one of four colours, or none;
vertices of prf-visualrois answer to the colour at their place, those of the floc groups to the disc of their group
wherever it lies, the rest to the colour of the whole. OUT/planted.npz holds the weights and the noise ceiling. Sizes of
regions are of the order of real ones, some are empty, and vertices do not lie where they would in a brain.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from recordings.storage import atomic_path

VERTICES = {"lh": 19_004, "rh": 20_544}
FSAVERAGE = 163_842
SIDE = 425
# Where each group begins, as a share of a hemisphere's vertices, and the sizes of its regions in lh and rh.
GROUPS: dict[str, tuple[float, dict[str, tuple[int, int]]]] = {
    "prf-visualrois": (0.0, {
        "V1v": (760, 690), "V1d": (800, 830), "V2v": (640, 610), "V2d": (670, 700),
        "V3v": (520, 560), "V3d": (610, 640), "hV4": (650, 540),
    }),
    "floc-words": (0.27, {
        "OWFA": (420, 360), "VWFA-1": (700, 310), "VWFA-2": (350, 280), "mfs-words": (310, 0), "mTL-words": (0, 0),
    }),
    "floc-faces": (0.30, {
        "OFA": (330, 380), "FFA-1": (450, 470), "FFA-2": (300, 350), "mTL-faces": (0, 130), "aTL-faces": (110, 150),
    }),
    "floc-bodies": (0.41, {"EBA": (2900, 3200), "FBA-1": (590, 480), "FBA-2": (370, 430), "mTL-bodies": (0, 0)}),
    "floc-places": (0.66, {"OPA": (1500, 1600), "PPA": (980, 1050), "RSC": (560, 590)}),
    "streams": (0.0, {
        "early": (5100, 5300), "midventral": (900, 980), "midlateral": (860, 850), "midparietal": (930, 880),
        "ventral": (3500, 3700), "lateral": (3800, 4300), "parietal": (3100, 3500),
    }),
}  # fmt: skip
CATEGORIES = ("floc-bodies", "floc-faces", "floc-places", "floc-words")
_COLOURS = np.array([[230, 120, 30], [40, 90, 230], [50, 190, 70], [220, 40, 160]])
_TRAINING = ("training_split/training_images", "training_split/training_fmri")
_POOL, _BACKGROUND, _FIELD = 12, 6, 0.12
_PICTURE, _WIRING, _NOISE, _REFERENCE = 0, 1, 2, 3
_N_REFERENCE = 200


def write_subject(folder: Path, n_images: int, *, noise_ceiling: float = 0.5, seed: int = 0) -> Path:
    """Write a subject of `n_images` pictures; a smaller one is the beginning of a larger one.

    Raises `InputError` if the folder is there already.
    """
    with atomic_path(folder) as part:
        images, fmri, masks = (part / name for name in (*_TRAINING, "roi_masks"))
        for each in (images, fmri, masks):
            each.mkdir(parents=True)
        wiring = {side: _wire(labels, seed, side) for side, labels in _write_masks(masks, seed).items()}
        out = {
            side: np.lib.format.open_memmap(fmri / f"{side}_training_fmri.npy", "w+", np.float32, (n_images, n))
            for side, n in VERTICES.items()
        }
        _, mean, std = _reference(seed)
        noise_sd = np.sqrt((1 - noise_ceiling) / noise_ceiling)
        for number in range(n_images):
            picture, shown = draw([seed, _PICTURE, number])
            picture.save(images / f"train-{number + 1:04d}_nsd-{7 * number + 13:05d}.png", compress_level=1)
            for side, n in VERTICES.items():
                noise = np.random.default_rng([seed, _NOISE, n, number]).standard_normal(n, np.float32)
                out[side][number] = (shown - mean) / std @ wiring[side] + noise_sd * noise
        for responses in out.values():
            responses.flush()
        np.savez(part / "planted.npz", noise_ceiling=noise_ceiling, lh=wiring["lh"], rh=wiring["rh"])
    return folder


def draw(key: list[int]) -> tuple[Image.Image, np.ndarray]:
    """A picture of 425 x 425 pixels, and what drives responses to it: colours on a grid of 12 x 12 and the disc shown.

    The second is float32 (12 x 12 x 3 + 4,).
    """
    rng = np.random.default_rng(key)
    coarse = rng.integers(60, 190, (_BACKGROUND, _BACKGROUND, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    category, radius = int(rng.integers(len(CATEGORIES) + 1)), rng.uniform(45, 80)
    x, y = rng.uniform(radius, SIDE - radius, 2)
    present = np.zeros(len(CATEGORIES), np.float32)
    if category < len(CATEGORIES):
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(picture).ellipse(box, fill=tuple(_COLOURS[category]))
        present[category] = 1
    colours = np.asarray(picture.resize((_POOL, _POOL), Image.Resampling.BOX), np.float32) / 255
    return picture, np.concatenate([colours.ravel(), present])


@cache
def _reference(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What 200 other pictures show, standardised, with mean and s.d.: a response does not depend on its neighbours."""
    shown = np.stack([draw([seed, _REFERENCE, number])[1] for number in range(_N_REFERENCE)])
    mean, std = shown.mean(0), shown.std(0)
    return (shown - mean) / std, mean, std


def _write_masks(folder: Path, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Masks of both hemispheres in challenge and fsaverage space, and names; regions by hemisphere and group."""
    labels: dict[str, dict[str, np.ndarray]] = {side: {} for side in VERTICES}
    for hemisphere, (side, n) in enumerate(VERTICES.items()):
        rng = np.random.default_rng([seed, _WIRING, hemisphere])
        inside = np.zeros(FSAVERAGE, np.float32)
        inside[rng.choice(FSAVERAGE, n, replace=False)] = 1
        np.save(folder / f"{side}.all-vertices_fsaverage_space.npy", inside)
        for group, (start, regions) in GROUPS.items():
            sizes = [size[hemisphere] for size in regions.values()]
            numbers = np.zeros(n, np.float32)
            first = int(start * n)
            numbers[first : first + sum(sizes)] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
            whole = np.zeros(FSAVERAGE, np.float32)
            whole[inside == 1] = numbers
            np.save(folder / f"{side}.{group}_challenge_space.npy", numbers)
            np.save(folder / f"{side}.{group}_fsaverage_space.npy", whole)
            labels[side][group] = numbers
    for group, (_, regions) in GROUPS.items():
        names: Any = dict(enumerate(["Unknown", *regions]))
        np.save(folder / f"mapping_{group}.npy", names, allow_pickle=True)
    return labels


def _wire(labels: dict[str, np.ndarray], seed: int, side: str) -> np.ndarray:
    """Weights on what is shown, standardised, (12 x 12 x 3 + 4, vertex) float32; signals have a variance of about 1."""
    n = VERTICES[side]
    rng = np.random.default_rng([seed, _WIRING, n])
    at = (np.arange(_POOL) + 0.5) / _POOL
    rows, columns = np.meshgrid(at, at, indexing="ij")
    centre = rng.uniform(0.1, 0.9, (2, n))
    distance = (rows.reshape(-1, 1) - centre[0]) ** 2 + (columns.reshape(-1, 1) - centre[1]) ** 2
    place = np.where(labels["prf-visualrois"] > 0, np.exp(-distance / (2 * _FIELD**2)), 1)
    colours = (place[:, None] * rng.normal(size=(3, n))).reshape(-1, n)
    # A vertex in the regions of two categories answers to both.
    discs = np.stack([labels[group] > 0 for group in CATEGORIES]) * rng.uniform(0.7, 1.3, (len(CATEGORIES), n))
    weights = np.concatenate([colours * ~discs.any(0), discs])
    return (weights / (_reference(seed)[0] @ weights).std(0)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, such as subj01")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--noise-ceiling", type=float, default=0.5, help="share of the variance that is signal")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_subject(given.out, given.images, noise_ceiling=given.noise_ceiling, seed=given.seed)
    sys.stdout.write(json.dumps({"out": str(given.out), "images": given.images, "vertices": VERTICES}) + "\n")


if __name__ == "__main__":
    main()
