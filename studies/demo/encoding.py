"""The demo's encoders: features of networks, baselines and the truth, fitted by ridge and scored on held-out scenes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders import BandedRidgeEncoder, FeatureExtractor, Features, RidgeEncoder, extract
from encoders.solvers import AlphaEdgeWarning
from recordings import Recording, score_predictions
from recordings.errors import ArtifactError
from recordings.events import OnEvent, Stop, report
from recordings.score import shuffled_score
from studies.encoding import solver_device, unnamed

from .encoding_page import EncoderScore
from .regions import SCORED
from .world import World

N_SHUFFLES = 50
# Draws of band weights: all alike, each of three layers alone, and eight mixtures.
N_DRAWS = 12
LAYERS = ("blocks.1", "blocks.3", "blocks.5")
TRUE_MODEL = "true_features"


@dataclass(frozen=True)
class Source:
    """Where a set of features comes from.

    Attributes
    ----------
    uri : of the extractor. layers : module paths. reduction : map to fewer features for layers with too many; a
        random one, so that no picture has a part in it. dtype : of the store.
    """

    uri: str
    layers: tuple[str, ...] = ("output",)
    readout: str = "flat"
    reduction: str | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class Model:
    """One encoder of the demo: what it is called, what it reads, and whether its bands are weighed apart."""

    key: str
    title: str
    about: str
    source: str
    banded: bool = False
    baseline: bool = False


SOURCES = {
    "backbone": Source("miniature:backbone", LAYERS, reduction="srp:2048"),
    "untrained": Source("untrained:miniature:backbone", LAYERS, reduction="srp:2048"),
    "tokens": Source("miniature:backbone", LAYERS, readout="tokens", dtype="float16"),
    "gabor": Source("baseline:gabor"),
    "pixels": Source("baseline:pixels"),
}
MODELS = (
    Model(TRUE_MODEL, "true scene features", "what the regions were built from, the best that can be done", TRUE_MODEL),
    Model("banded_ridge", "banded ridge", "three layers of a small trained network, each with a weight of its own for "
          "every neuroid", "backbone", banded=True),
    Model("ridge", "ridge", "the same three layers side by side", "backbone"),
    Model("untrained", "untrained network", "the same layers before training", "untrained", baseline=True),
    Model("gabor", "Gabor energy", "a pyramid of oriented filters", "gabor", baseline=True),
    Model("pixels", "pixels", "the picture itself", "pixels", baseline=True),
)  # fmt: skip


def extract_features(
    world: World, folder: Path, device: str, on_event: OnEvent | None, stop: Stop | None
) -> dict[str, dict[str, Features]]:
    """Features of all scenes, by source and layer, kept in a store a source below `folder`."""
    truth = world.true_features.save(folder / f"{TRUE_MODEL}.zarr", overwrite=True)
    found = {TRUE_MODEL: {str(truth.attrs["layer"]): truth}}
    for name, source in SOURCES.items():
        extractor = FeatureExtractor.from_uri(source.uri, device)
        how: dict[str, Any] = {"layers": source.layers, "readout": source.readout, "reduction": source.reduction}
        how |= {"store_dtype": source.dtype, "on_event": on_event, "stop": stop}
        try:
            found[name] = extract(extractor, world.subject.stimuli, folder / f"{name}.zarr", **how)
        except ArtifactError:
            # An earlier run left features of other weights or settings.
            found[name] = extract(extractor, world.subject.stimuli, folder / f"{name}.zarr", overwrite=True, **how)
    return found


def encode(
    world: World,
    features: Mapping[str, dict[str, Features]],
    folder: Path,
    seed: int,
    n_bootstrap: int,
    device: str,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> list[EncoderScore]:
    """Fit every model to the training scenes, save it below `folder`, and score it on the held-out scenes."""
    train, test = (world.part(split).average_repetitions() for split in ("train", "test"))
    on, scores = solver_device(device), []
    for done, model in enumerate(MODELS):
        report(on_event, stop, "encode", done, len(MODELS), model=model.key)
        encoder = (
            BandedRidgeEncoder(n_draws=N_DRAWS, cv=3, device=on, seed=seed) if model.banded else RidgeEncoder(device=on)
        )
        space = unnamed(features[model.source])
        with warnings.catch_warnings():
            if model.baseline:
                # Baselines are there to fail in some regions; that they do is no reason for a warning.
                warnings.simplefilter("ignore", AlphaEdgeWarning)
            encoder.fit(space, train, on_event=on_event, stop=stop)
        encoder.save_pretrained(folder / model.key, overwrite=True)
        predicted = encoder.predict(space, list(test.stimulus_ids))
        scores.append(score_model(model, predicted, test, world.ceiling, n_bootstrap, seed))
    return scores


def score_model(
    model: Model, predicted: np.ndarray, test: Recording, ceiling: np.ndarray, n_bootstrap: int, seed: int
) -> EncoderScore:
    """Noise-normalised r of each neuroid and region, and the same with the stimuli shuffled.

    Parameters
    ----------
    predicted : (stimulus, neuroid), rows as in `test`, the responses averaged over repetitions.
    ceiling : (neuroid,) fraction of variance.
    """
    by_roi = {}
    for roi in SCORED:
        inside = test.roi_mask(roi)
        score = score_predictions(
            predicted[:, inside], test.roi(roi), ceiling=ceiling[inside], n_bootstrap=n_bootstrap, seed=seed
        )
        low, high = score.interval or (np.nan, np.nan)
        by_roi[roi] = (score.center, low, high)
    whole = score_predictions(predicted, test, ceiling=ceiling, n_bootstrap=0)
    null = shuffled_score(whole, predicted, test, n=N_SHUFFLES, seed=seed)
    return EncoderScore(model.key, model.title, model.about, whole.normalised, by_roi, null, model.baseline)
