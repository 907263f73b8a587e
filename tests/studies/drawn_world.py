"""A tiny untrained generator, and scenes whose latents, words, depth and tokens a planted brain holds."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import torch

from decoders import CaptionDecoder, Generator, make_targets
from encoders import FeatureExtractor, Features
from recordings import Recording, Stimuli, Subject
from recordings.miniature import Scenes, make_stimuli

from ..decoders.pictures.tiny import (
    WIDTH,
    make_adapter,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)

N_STIMULI, N_TEST, N_VOXELS, REPETITIONS = 60, 12, 60, 2
TARGETS = ("z", "c", "depth", "embedding", "tokens")
# The width of the miniature backbone's class token, which its IP-Adapter reads.
EMBEDDING = 192


def save_generator(folder: Path, seed: int = 0, sees_depth: bool = False) -> Path:
    """A generator of 64 x 64 pictures, none of it trained: with ControlNet and IP-Adapter, or with a UNet that sees
    depth."""
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = make_tokenizer(folder / "tokenizer")
    torch.manual_seed(seed)
    unet = make_unet(5 if sees_depth else 4)
    adapter = make_adapter(unet)
    adapter["image_proj"]["proj.weight"] = torch.randn(4 * WIDTH, EMBEDDING)
    controlnet = diffusers.ControlNetModel.from_unet(
        unet, conditioning_channels=1, conditioning_embedding_out_channels=(4, 8, 8, 8)
    )
    generator = Generator(
        make_vae(),
        unet,
        make_scheduler(),
        make_text_encoder(len(tokenizer)),
        tokenizer,
        None if sees_depth else controlnet,
        ip_adapter=None if sees_depth else adapter,
    )
    generator.save_pretrained(folder / "generator")
    return folder / "generator"


def save_subject(folder: Path, generator: Path, noise: float = 0.1) -> Path:
    """A subject whose region of each target's name holds random mixtures of it, shown every scene twice."""
    stimuli = make_stimuli(Scenes.sample(N_STIMULI, seed=0))
    targets = targets_of(stimuli, generator)
    rng = np.random.default_rng(0)
    signals = []
    for values in targets.values():
        flat = values.read().reshape(N_STIMULI, -1)
        mixed = (flat - flat.mean(0)) @ rng.standard_normal((flat.shape[1], N_VOXELS))
        signals.append(mixed / mixed.std(0))
    signal = np.concatenate(signals, 1)
    values = np.concatenate([signal + noise * rng.standard_normal(signal.shape) for _ in range(REPETITIONS)])
    rois = np.repeat(list(TARGETS), N_VOXELS)
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(len(rois))], "roi": rois})
    recording = Recording(values, {"stimulus_id": stimuli.ids * REPETITIONS}, neuroids)
    Subject("drawn", recording, stimuli).save(folder / "subject")
    return folder / "subject"


def targets_of(stimuli: Stimuli, generator: Path) -> dict[str, Features]:
    """The true targets."""
    captioner = CaptionDecoder.from_pretrained(device="cpu")
    return make_targets(
        stimuli,
        TARGETS,
        generator=Generator.from_pretrained(generator, device="cpu"),
        depth="truth",
        embedding=FeatureExtractor.from_uri("miniature:backbone", device="cpu"),
        tokens=captioner.extractor,
        tokens_layer=captioner.layer,
    )
