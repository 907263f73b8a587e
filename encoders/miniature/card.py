"""The miniature backbone's model card."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import timm
import torch

from .evaluate import CHANNELS, EVALUATION_SEED, Evaluation


def model_card(settings: Mapping[str, float], trained: Evaluation, untrained: Evaluation) -> str:
    """Markdown with how the backbone was trained and what its blocks predict, beside the untrained network.

    Parameters
    ----------
    settings : steps, batch_size, learning_rate and seed of the training.
    trained, untrained : `evaluate` of the two networks.
    """
    scenes = int(settings["steps"] * settings["batch_size"])
    return f"""---
library_name: timm
license: apache-2.0
tags: [image-feature-extraction, image-classification]
---
# miniature:backbone

A vision transformer of 2.7 million parameters (64 x 64 pixels, patches of 8, width 192, 6 blocks, 3 heads) for the
miniature world. It stands in for a large backbone where there is none, and says nothing about natural images.

    timm.create_model("local-dir:encoders/miniature/backbone", pretrained=True)

## Training

By `python -m encoders.miniature.train`, on {scenes} scenes of world {settings["seed"]}, each seen once: Muon,
{settings["steps"]} steps of {settings["batch_size"]}, learning rate {settings["learning_rate"]}.

Linear heads, dropped afterwards, read Gabor energy and colour by patch from the second block, silhouette and depth by
patch from the fourth, silhouette by category from the last, and colour, place, scale, pose and shape from the class
token; the classifier over the twelve categories stays. Weights are stored in half precision.

Software: Python {platform.python_version()}, torch {torch.__version__.split("+")[0]}, timm {timm.__version__}.

## Scores

Ridge from all tokens of a block, fitted on 1000 and scored on 500 other scenes of world {EVALUATION_SEED} (one alpha
a target, by five folds): mean Pearson r. The classifier is right on {trained.accuracy:.3f} of these 500 scenes (chance
{1 / 12:.3f}).

{_table(trained)}

The same architecture with the weights it started from:

{_table(untrained)}
"""


def _table(evaluation: Evaluation) -> str:
    blocks = list(evaluation.scores)
    lines = ["| channel | " + " | ".join(blocks) + " |", "|---" * (len(blocks) + 1) + "|"]
    for channel in CHANNELS:
        values = (f"{evaluation.scores[block][channel]:.3f}" for block in blocks)
        lines.append(f"| {channel} | " + " | ".join(values) + " |")
    return "\n".join(lines)
