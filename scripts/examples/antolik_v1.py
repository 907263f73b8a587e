"""Mouse V1 (Antolik et al. 2016): ``python -m scripts.examples.antolik_v1 DATA_DIR``.

Identifies single repetitions of 50 images by their response patterns, and compares the geometry of the pixels with that
of the neurons.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from alignment import rdm, rsa
from decoders import identify_patterns
from recordings import Recording, SessionScaler, Stimuli
from recordings.rdms import RDMs
from recordings.readers.npy import NpyOptions, read_npy


def read_validation_set(folder: Path) -> tuple[Recording, Stimuli]:
    """Ten repetitions of 50 images, and the images."""
    options = NpyOptions(images=folder / "validation_inputs.npy", image_shape=(31, 31))
    contents = read_npy(folder / "raw_validation_set.npy", options)
    assert contents.stimuli is not None
    values = np.concatenate(list(contents.blocks))
    return Recording(values, contents.presentations, contents.neuroids), contents.stimuli


def neural_rdm(recording: Recording) -> RDMs:
    """Correlation-distance RDM of the mean responses, neurons z-scored over images."""
    average = recording.average_repetitions()
    scaled = SessionScaler().fit(average).transform(average)
    return RDMs(rdm(scaled)[None], list(average.stimulus_ids), ["neurons"])


def pixel_rdm(stimuli: Stimuli) -> np.ndarray:
    """Correlation-distance RDM of the grey values."""
    return rdm(np.stack([image[..., 0] for image in stimuli]))


def evaluate(folder: Path) -> dict[str, Any]:
    """Identification of single repetitions, and Spearman's correlation of the two RDMs."""
    recording, stimuli = read_validation_set(folder)
    agreement = rsa(pixel_rdm(stimuli), neural_rdm(recording)).to_dict()
    names = ("score", "low", "high", "p_value", "shuffled")
    return identify_patterns(recording).to_dict() | {"rsa": {name: agreement[name] for name in names}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(evaluate(Path(sys.argv[1])), indent=2) + "\n")
