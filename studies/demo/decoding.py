"""The demo's decoder: from responses to the features of a network, and from there to the picture that was shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from decoders import Identification, LatentDecoder, Retrieval
from encoders import Features
from recordings.events import OnEvent, Stop
from studies.encoding import solver_device

from .world import World

SOURCE, LAYER, DECODER = "backbone", "blocks.3", "latent_decoder"
N_SHUFFLES = 50
MAX_NEUROIDS = 500


@dataclass(frozen=True)
class Decoded:
    """The held-out scenes looked up among their own pictures.

    Attributes
    ----------
    identified : among all pictures, with ranks and the null of shuffled scenes.
    retrieved : the three closest pictures of each scene, with confidence.
    n_neuroids : how many the decoder reads.
    """

    identified: Identification
    retrieved: Retrieval
    n_neuroids: int


def decode(
    world: World,
    features: Mapping[str, dict[str, Features]],
    folder: Path,
    seed: int,
    device: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Decoded:
    """Fit a decoder to the training scenes, save it below `folder`, and look up the held-out scenes."""
    space = features[SOURCE][LAYER]
    decoder = LatentDecoder(max_neuroids=MAX_NEUROIDS, device=solver_device(device), seed=seed)
    decoder.fit(world.part("train"), space, on_event=on_event, stop=stop)
    decoder.save_pretrained(folder / DECODER, overwrite=True)
    test, gallery = world.part("test").average_repetitions(), space.select(world.test)
    identified = decoder.identify(test, gallery, n_permutations=N_SHUFFLES, seed=seed)
    return Decoded(identified, decoder.retrieve(test, gallery, k=3), len(decoder.neuroids_))
