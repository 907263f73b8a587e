"""Scores of the miniature generator on scenes it has not seen, and the gate that they must pass to be shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from recordings.events import OnEvent, Stop

from ..evaluation.attributes import agreement, read_attributes
from ..evaluation.measures import Resampling
from ..pictures.generator import Generator
from ..pictures.inputs import DecodedInputs
from ..pictures.presets import Preset
from ..pictures.reconstructor import ImageReconstructor
from .autoencoder import psnr
from .looks import look_of
from .pictures import Pictures, draw_pictures, is_borderline
from .reader import Reader, load_reader, true_attributes

EVALUATION_SEED, READING_SEED = 3003, 7001
N_SCENES, N_READ = 200, 2000
# What is asked of the generator alone, told the true caption, and of the pairs it has never seen.
GATE = {
    "psnr": 33.0,
    "reader.category": 0.97,
    "reader.colour": 0.93,
    "text.category": 0.95,
    "text.colour": 0.95,
    "text.position": 0.85,
    "held_out.category": 0.85,
    "held_out.colour": 0.85,
    "controlnet.nearness": 0.93,
    # It sees the map at the latents' resolution, an eighth of the picture's.
    "depth2img.nearness": 0.80,
    "ip_adapter.category": 0.9,
    "ip_adapter.position": 0.9,
}
TEXT = Preset("text", start=None, text="caption", strength=1.0, guidance=2.0, steps=25)


def evaluate(
    folder: Path,
    n_scenes: int = N_SCENES,
    n_read: int = N_READ,
    seed: int = EVALUATION_SEED,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, float]:
    """Scores of the parts below `folder`, by name.

    psnr : of the autoencoder, in decibels. reader.* : of the reader on rendered scenes, see `reader_scores`. text.* :
    of pictures made from captions alone, read by the reader; held_out.* : the same for pairs of category and colour
    never trained on. controlnet.*, depth2img.* : with the true depth as well. ip_adapter.* : from the true embedding
    without words.

    Parameters
    ----------
    n_scenes : of the world `seed`, less those of pairs that are held out, are drawn by each means.
    n_read : other scenes that the reader reads as they are.
    """
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    pictures = draw_pictures(n_scenes, seed, held_out=False)
    unseen = draw_pictures(8 * n_scenes, seed, held_out=True, start=n_scenes)
    unseen = take(unseen, np.arange(min(n_scenes, len(unseen))))
    reader = load_reader(folder / "reader")
    generator = Generator.from_pretrained(folder / "diffusion", device="cpu")
    decoded = generator.decode_latents(generator.encode_images(pictures.image))
    scores = {"psnr": psnr(pictures.image, decoded)}
    scores |= reader_scores(reader, draw_pictures(n_read, READING_SEED, held_out=None))
    scores |= read_scores("autoencoder", reader, decoded, pictures)
    for name, shown in (("text", pictures), ("held_out", unseen)):
        scores |= read_scores(name, reader, draw(generator, TEXT, shown, **watched), shown)
    deep = replace(TEXT, name="controlnet", depth="controlnet")
    controlled = Generator.from_pretrained(folder / "diffusion", controlnet=folder / "controlnet", device="cpu")
    scores |= read_scores("controlnet", reader, draw(controlled, deep, pictures, **watched), pictures)
    seeing = Generator(
        generator.vae,
        UNet2DConditionModel.from_pretrained(folder / "depth_unet", torch_dtype=torch.float32),
        generator.scheduler,
        generator.text_encoder,
        generator.tokenizer,
    )
    deep = replace(TEXT, name="depth2img", depth="depth2img")
    scores |= read_scores("depth2img", reader, draw(seeing, deep, pictures, **watched), pictures)
    adapted = Generator.from_pretrained(folder / "diffusion", ip_adapter=folder / "ip_adapter", device="cpu")
    look = replace(TEXT, name="ip_adapter", text=None, embedding=True)
    return scores | read_scores("ip_adapter", reader, draw(adapted, look, pictures, **watched), pictures)


def failures(scores: dict[str, float]) -> list[str]:
    """What of the gate is missed, in words."""
    return [f"{name} {scores[name]:.3f} under {least}" for name, least in GATE.items() if scores[name] < least]


def draw(
    generator: Generator, preset: Preset, pictures: Pictures, on_event: OnEvent | None = None, stop: Stop | None = None
) -> np.ndarray:
    """Pictures, uint8 (n, 64, 64, 3), that a generator makes when told the truth of `pictures` as the preset wants."""
    told = DecodedInputs(
        list(pictures.scenes.stimulus_id),
        depth=pictures.nearness.astype(np.float32) if preset.depth else None,
        embedding=look_of(pictures.image) if preset.embedding else None,
        captions=pictures.captions,
    )
    made = ImageReconstructor(generator, preset).reconstruct(told, batch_size=50, on_event=on_event, stop=stop)
    return made.images[:, 0]


def reader_scores(reader: Reader, pictures: Pictures) -> dict[str, float]:
    """What the reader reads in rendered scenes: "reader.attribute" over all of them.

    Names divide a circle of hues, so that some colours could be called by either name: "reader.borderline" is the share
    of scenes with such a colour (`is_borderline`), "reader.clear_colour" the accuracy of colour over the others.
    """
    near = is_borderline(pictures.scenes)
    clear = take(pictures, np.flatnonzero(~near))
    scores = read_scores("reader", reader, pictures.image, pictures)
    colour = read_scores("clear", reader, clear.image, clear)["clear.colour"]
    return scores | {"reader.borderline": float(near.mean()), "reader.clear_colour": colour}


def read_scores(name: str, reader: Reader, image: np.ndarray, pictures: Pictures) -> dict[str, float]:
    """Agreement of what the reader sees in pictures, uint8 (n, 64, 64, 3), with the truth, by "name.attribute"."""
    truth = true_attributes(pictures.scenes, pictures.nearness)
    found = agreement(read_attributes(reader.read, image), truth, resampling=Resampling(0, 0))
    return {f"{name}.{attribute}": measure.value for attribute, measure in found.items()}


def take(pictures: Pictures, rows: np.ndarray) -> Pictures:
    """Some of the pictures."""
    captions = [pictures.captions[k] for k in rows]
    return Pictures(pictures.scenes[rows], pictures.image[rows], pictures.nearness[rows], captions)
