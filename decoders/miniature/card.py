"""The model card of the miniature generator."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from .evaluate import EVALUATION_SEED, GATE, N_READ, READING_SEED
from .pictures import HELD_OUT

_ROWS = {
    "reader": "rendered scenes (how well the reader reads)",
    "autoencoder": "encoded and decoded",
    "text": "from the true caption alone",
    "held_out": "the same, pairs of category and colour never trained on",
    "controlnet": "caption and true depth, by the ControlNet",
    "depth2img": "caption and true depth, as a fifth channel",
    "ip_adapter": "true embedding alone, by the IP-Adapter",
}
_COLUMNS = ("category", "colour", "position", "nearness")


def model_card(scores: Mapping[str, float], steps: Mapping[str, int], n_scenes: Mapping[str, int], seed: int) -> str:
    """Markdown: what the parts are, how they were trained and how they score."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    trained = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in steps.items())
    pairs = ", ".join(f"{colour} {category}" for category, colour in sorted(HELD_OUT))
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [text-to-image]
---
# miniature:diffusion

A latent diffusion model of pictures of 64 x 64 pixels for the miniature world. It stands in for Stable Diffusion where
there is none, has the same parts, and says nothing about natural images.

    diffusers.StableDiffusionPipeline.from_pretrained("decoders/miniature/diffusion", safety_checker=None)

Beside it: `controlnet` (depth, one channel), `depth_unet` (depth as a fifth channel of the latents), `ip_adapter`
(class token of miniature:backbone), `captioner` and `reader`, an independent judge of pictures.

## Training

By `python -m decoders.miniature.train`, on {n_scenes["denoiser"]:,} scenes of world {seed} without those whose pair of
category and colour is held out: {pairs}. Steps: {trained}. The reader learnt from {n_scenes["reader"]:,} other scenes.
Weights are stored in half precision.

Software: Python {platform.python_version()}, {versions}.

## Scores

On scenes of world {EVALUATION_SEED}, 25 DDIM steps, guidance 2, judged by the reader: accuracy of category (chance
1/12) and colour (chance 1/8), Pearson r of the place over scenes and of nearness over a picture. The autoencoder's
PSNR is {scores["psnr"]:.1f} dB.

{_table(scores)}

{_reading(scores)}

The script writes nothing unless these are reached: {", ".join(f"{name} {least}" for name, least in GATE.items())}.
"""


def _reading(scores: Mapping[str, float]) -> str:
    near, clear = scores["reader.borderline"], scores["reader.clear_colour"]
    return f"""The reader read {N_READ:,} scenes of world {READING_SEED} for this. Names of colours divide a circle of
hues: {near:.0%} of the scenes lie within 7 degrees of another name, and of the others it names {clear:.1%} right.
Pictures made from captions may be above rendered scenes, for they take the colour that is typical of a name."""


def _table(scores: Mapping[str, float]) -> str:
    lines = ["| pictures | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, title in _ROWS.items():
        values = (f"{scores[f'{name}.{column}']:.3f}" for column in _COLUMNS)
        lines.append(f"| {title} | " + " | ".join(values) + " |")
    return "\n".join(lines)
