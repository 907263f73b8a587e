"""How well linear read-outs of a backbone's blocks predict what the visual system is held to encode."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor

from encoders.solvers import AlphaEdgeWarning, ridge_cv
from recordings.events import OnEvent, Stop, report
from recordings.miniature import CATEGORIES, Rendered, Scenes, render
from recordings.statistics import correlate

from .targets import ATTRIBUTES, attributes, chromaticity, gabor_energy

EVALUATION_SEED = 2003
ALPHAS = np.logspace(0, 6, 13)
CHANNELS = ("Gabor energy", "silhouette", "chromaticity", "category", *ATTRIBUTES)


@dataclass(frozen=True)
class Evaluation:
    """Scores of a backbone on held-out scenes.

    Attributes
    ----------
    scores : by module name of the block, by name in `CHANNELS`: mean Pearson r over the channel's units.
    accuracy : fraction of scenes that the classifier names rightly (chance 1/12).
    """

    scores: dict[str, dict[str, float]]
    accuracy: float


def evaluate(
    model: VisionTransformer,
    n_train: int = 1000,
    n_test: int = 500,
    seed: int = EVALUATION_SEED,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Evaluation:
    """Ridge from all tokens of each block to channels of held-out scenes.

    Parameters
    ----------
    model : a timm vision transformer for 64-pixel images with 12 classes.
    n_train, n_test : scenes of the world `seed` to fit on and to score on.
    """
    scenes = Scenes.sample(n_train + n_test, seed=seed)
    pictures = render(scenes)
    channels = _channels(scenes, pictures)
    tokens, logits = _forward(model, pictures.image)
    accuracy = float((logits[n_train:].argmax(1) == scenes.category[n_train:]).mean())
    scores = {}
    for done, (name, features) in enumerate(tokens.items(), 1):
        scores[name] = _readout(features, channels, n_train)
        report(on_event, stop, "evaluate", done, len(tokens))
    return Evaluation(scores, accuracy)


def _channels(scenes: Scenes, pictures: Rendered) -> dict[str, np.ndarray]:
    silhouette = torch.as_tensor(pictures.silhouette).float()[:, None]
    channels = {
        "Gabor energy": _pooled(gabor_energy(pictures.image, 0.25), 8),
        "silhouette": _pooled(silhouette, 8),
        "chromaticity": _pooled(chromaticity(pictures.image), 16),
        "category": np.eye(len(CATEGORIES))[scenes.category],
    }
    return channels | dict(zip(ATTRIBUTES, attributes(scenes).numpy().T[..., None], strict=True))


def _pooled(maps: Tensor, cell: int) -> np.ndarray:
    return F.avg_pool2d(maps, cell).flatten(1).numpy()


@torch.inference_mode()
def _forward(model: VisionTransformer, image: np.ndarray, batch: int = 100) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tokens float32 (n, tokens * width) by block, and logits float32 (n, classes)."""
    names = [f"blocks.{i}" for i in range(len(model.blocks))]
    tokens: dict[str, list[Tensor]] = {name: [] for name in names}
    logits = []
    for start in range(0, len(image), batch):
        final, blocks = model.forward_intermediates(normalise(image[start : start + batch]), output_fmt="NLC")
        logits.append(model.forward_head(final))
        for name, values in zip(names, blocks, strict=True):
            tokens[name].append(values.flatten(1))
    return {name: torch.cat(values).numpy() for name, values in tokens.items()}, torch.cat(logits).numpy()


def normalise(image: np.ndarray) -> Tensor:
    """The backbone's input: float32 (n, 3, H, W) in [-1, 1], of uint8 (n, H, W, 3)."""
    return torch.as_tensor(image).movedim(-1, 1).float() / 127.5 - 1


def _readout(features: np.ndarray, channels: dict[str, np.ndarray], n_train: int) -> dict[str, float]:
    targets = np.concatenate(list(channels.values()), 1)
    owner = np.repeat(list(channels), [values.shape[1] for values in channels.values()])
    # Units that never vary (a corner that no object reaches) have no correlation.
    varies = (targets[:n_train].std(0) > 1e-6) & (targets[n_train:].std(0) > 1e-6)
    targets, owner = targets[:, varies] / targets[:n_train, varies].std(0), owner[varies]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlphaEdgeWarning)
        fit = ridge_cv(features[:n_train], targets[:n_train], ALPHAS)
    predicted = features[n_train:] @ fit.coefficients(features[:n_train])
    # A prediction that does not vary explains nothing.
    r = np.nan_to_num(correlate(predicted, targets[n_train:]))
    return {name: float(r[owner == name].mean()) for name in channels}
