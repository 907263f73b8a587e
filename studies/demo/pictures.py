"""The demo's pictures: held-out scenes drawn by latent diffusion from what was decoded of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from decoders import BrainDecoder, CaptionDecoder
from decoders.evaluation import (
    PictureEvaluation,
    PictureFeatures,
    evaluate_pictures,
    load_network,
    nearest_training_pictures,
)
from decoders.miniature.reader import load_reader, true_attributes
from decoders.pictures import PRESETS, DecodedInputs, Generator, ImageReconstructor, Preset
from decoders.targets import make_targets
from encoders import FeatureExtractor
from recordings.events import OnEvent, Stop, report
from recordings.miniature import Scenes
from recordings.storage import atomic_path
from studies.encoding import solver_device
from studies.pictures.targets import TRUTH, Sources

from .world import World

DECODER = "brain_decoder"
EARLY = ("V1", "V2", "V3", "V4")
ROIS: dict[str, tuple[str, ...] | None] = {"z": EARLY, "depth": EARLY, "c": None, "embedding": None, "tokens": None}
MAX_NEUROIDS = 800
STRENGTH, STEPS, GUIDANCE, BATCH = 0.6, 20, 2.0, 25
# From the decoded latents, from the decoded words, from both, with depth, and with how the picture looks as well.
_BOTH = Preset("z and c", strength=STRENGTH, steps=STEPS, guidance=GUIDANCE)
DRAWN = {
    "z": replace(_BOTH, name="z", text=None, strength=0.0, guidance=1.0),
    "c": replace(_BOTH, name="c", start=None, strength=1.0),
    "zc": _BOTH,
    "zcd": replace(_BOTH, name="z, c and depth", depth="controlnet"),
    "best": replace(PRESETS["penfield"], steps=STEPS, rois={}),
}
# Scored on all scenes; the others are only shown.
SCORED = ("z", "c", "best")
N_SHOWN = 16
NETWORK = "miniature:backbone"
TWO_WAY = f"two_way.{NETWORK}.reconstruction_fixed"


@dataclass(frozen=True)
class Pictured:
    """Reconstructions of held-out scenes.

    Attributes
    ----------
    stimulus_ids : (n,). captions : (n,) decoded, in words.
    images : uint8 (n or `N_SHOWN`, H, W, 3) by the names of `DRAWN`; under "nearest" the training scenes most like
        "best".
    evaluations : of those in `SCORED`.
    """

    stimulus_ids: list[str]
    captions: list[str]
    images: dict[str, np.ndarray]
    evaluations: dict[str, PictureEvaluation]

    def numbers(self) -> dict[str, float]:
        """The numbers of the summary."""
        names = {"best": "two_way", "z": "two_way_z", "c": "two_way_c"}
        identified = {key: self.evaluations[which][TWO_WAY] for which, key in names.items()}
        null = identified["two_way"].null
        assert null is not None
        found = {key: measure.value for key, measure in identified.items()} | {"two_way_shuffled": null.mean}
        read = {"category": "category", "colour": "colour", "position_r": "position"}
        found |= {key: self.evaluations["best"][f"attributes.{name}"].value for key, name in read.items()}
        return {f"decode.image.{key}": value for key, value in found.items()}


def picture(
    world: World,
    n_scenes: int,
    folder: Path,
    seed: int,
    n_bootstrap: int,
    device: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Pictured:
    """Decode what the generator starts from, save the decoder below `folder`, draw held-out scenes, and score them."""
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    generator = Generator.from_pretrained(
        "miniature:diffusion", controlnet="miniature:controlnet", ip_adapter="miniature:ip_adapter", device=device
    )
    captioner = CaptionDecoder.from_pretrained(device=device)
    ids, decoded = decode_inputs(world, n_scenes, generator, captioner, folder, seed, device, on_event, stop)
    captions = captioner.decode(decoded["tokens"], ids, **watched)
    inputs = DecodedInputs.from_decoded(ids, decoded, generator, captions=captions)
    images = {}
    for done, (name, preset) in enumerate(DRAWN.items()):
        report(on_event, stop, "draw", done, len(DRAWN), what=preset.name)
        wanted = inputs if name in SCORED else inputs.select(slice(N_SHOWN))
        made = ImageReconstructor(generator, preset).reconstruct(wanted, seed=seed, batch_size=BATCH, **watched)
        images[name] = made.images[:, 0]
    images["nearest"] = _nearest(world, images["best"])
    nearest = {"best": images["nearest"]}
    evaluations = {
        name: evaluate_drawings(world, ids, images[name], nearest.get(name), n_bootstrap, seed, **watched)
        for name in SCORED
    }
    return Pictured(ids, captions, images, evaluations)


def decode_inputs(
    world: World,
    n_scenes: int,
    generator: Generator,
    captioner: CaptionDecoder,
    folder: Path,
    seed: int,
    device: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> tuple[list[str], Mapping[str, np.ndarray]]:
    """Ids of `n_scenes` held-out scenes and what was decoded of them, by a decoder fitted on the training scenes."""
    targets = make_targets(
        world.subject.stimuli.select(world.train),
        list(ROIS),
        generator=generator,
        depth=world.nearness[: len(world.train)].astype(np.float32),
        embedding=FeatureExtractor.from_uri("miniature:backbone", device=device),
        tokens=captioner.extractor,
        tokens_layer=captioner.layer,
        on_event=on_event,
        stop=stop,
    )
    options: dict[str, Any] = {
        "max_neuroids": MAX_NEUROIDS,
        "calibration_folds": 2,
        "device": solver_device(device),
        "seed": seed,
    }
    decoder = BrainDecoder(ROIS, components=500, **options)
    decoder.fit(world.part("train"), targets, on_event=on_event, stop=stop)
    with atomic_path(folder / DECODER, overwrite=True) as part:
        decoder.save_pretrained(part)
        Sources(depth=TRUTH).save(part, fingerprint=generator.fingerprint)
    test = world.part("test").where(stimulus_id=world.test[:n_scenes]).average_repetitions()
    return list(map(str, test.stimulus_ids)), decoder.predict(test, on_event=on_event, stop=stop)


def _nearest(world: World, images: np.ndarray) -> np.ndarray:
    """The training scene most like each picture, uint8 (n, H, W, 3)."""
    training = np.stack(list(world.subject.stimuli.select(world.train)))
    network = load_network(NETWORK)
    return training[nearest_training_pictures(PictureFeatures(images, network), PictureFeatures(training, network))]


def evaluate_drawings(
    world: World,
    ids: list[str],
    images: np.ndarray,
    nearest: np.ndarray | None,
    n_bootstrap: int,
    seed: int,
    **watched: Any,
) -> PictureEvaluation:
    """Scores of drawings, uint8 (n, H, W, 3), of the scenes `ids`, beside those of the `nearest` training scenes."""
    stimuli = world.subject.stimuli.select(ids)
    row = {name: k for k, name in enumerate([*world.train, *world.test])}
    maps = world.nearness[[row[name] for name in ids]]
    return evaluate_pictures(
        images,
        np.stack(list(stimuli)),
        stimulus_ids=ids,
        categories=list(stimuli.table["category"].astype(str)),
        training_pictures=nearest,
        nearest_training=None if nearest is None else range(len(ids)),
        reader=load_reader().read,
        attributes=true_attributes(Scenes.from_frame(stimuli.table), maps),
        n_bootstrap=n_bootstrap,
        seed=seed,
        **watched,
    )
