"""A repository of small models that were really fitted: an encoder of the miniature backbone, and decoders."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from decoders import LatentDecoder
from encoders import FeatureExtractor, Features, RidgeEncoder, extract
from recordings import Recording, Stimuli, Subject
from recordings.miniature import Scenes, make_stimuli
from service.engine import Engine
from service.repository import ModelRepository
from service.runner import LocalRunner
from studies.pictures.fitting import fit_brain_decoder
from studies.pictures.targets import Sources

from ..studies.drawn_world import TARGETS, save_generator, save_subject

N_STIMULI, N_UNITS, LAYER = 60, 40, "blocks.3"
ENCODER, DECODER, LATENT = "ridge", "subject-01/decoder", "subject-01/latents"


@pytest.fixture(scope="session")
def scenes() -> Stimuli:
    """Pictures, 64 x 64, with everything that is known of them."""
    return make_stimuli(Scenes.sample(N_STIMULI, seed=0))


@pytest.fixture(scope="session")
def pictures(scenes: Stimuli) -> list[np.ndarray]:
    """uint8 (64, 64, 3)."""
    return list(scenes)


@pytest.fixture(scope="session")
def scene_features(scenes: Stimuli, tmp_path_factory: pytest.TempPathFactory) -> Features:
    """What the models of `encoder_folder` read, as `penfield features` writes it."""
    extractor = FeatureExtractor.from_uri("miniature:backbone", "cpu")
    return extract(extractor, scenes, tmp_path_factory.mktemp("features") / "f.zarr", [LAYER], "pooled")[LAYER]


def fit_encoder(features: Features, seed: int = 0, **options: Any) -> RidgeEncoder:
    """Ridge of `N_UNITS` mixtures of the features, of their averages over tokens if there are tokens."""
    rng = np.random.default_rng(seed)
    values = features.read()
    values = values.mean(1) if values.ndim == 3 else values
    responses = (values - values.mean(0)) @ rng.standard_normal((values.shape[1], N_UNITS))
    responses += rng.standard_normal(responses.shape)
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(N_UNITS)], "roi": ["A"] * 30 + ["B"] * 10})
    recording = Recording(responses, {"stimulus_id": list(features.stimulus_ids)}, neuroids)
    return RidgeEncoder(alphas=(1e3,), cv=2, device="cpu", **options).fit(features, recording)


@pytest.fixture(scope="session")
def encoder_folder(scene_features: Features, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one encoder, `ENCODER`; copy it to change it."""
    folder = tmp_path_factory.mktemp("encoders")
    fit_encoder(scene_features).save_pretrained(folder / ENCODER)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``generator``, tiny and untrained, and ``subject``, whose regions hold what it starts from."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("drawn")
    save_subject(folder, save_generator(folder))
    return folder


@pytest.fixture(scope="session")
def responses(drawn: Path) -> Recording:
    """Responses of the neuroids of `DECODER`, a row a scene, averaged over repetitions."""
    return Subject.load(drawn / "subject").recording.average_repetitions()


@pytest.fixture(scope="session")
def models_folder(encoder_folder: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of `ENCODER`, `DECODER` and `LATENT`; copy it to change it."""
    folder = tmp_path_factory.mktemp("service") / "models"
    shutil.copytree(encoder_folder, folder)
    subject = Subject.load(drawn / "subject")
    own = str(drawn / "generator")
    sources = Sources(generator=own, controlnet=f"{own}/controlnet", ip_adapter=f"{own}/ip_adapter", depth="truth")
    rois = {name: None if name == "tokens" else [name] for name in TARGETS}
    fit_brain_decoder(
        subject.recording, subject.stimuli, rois, sources, folder / DECODER, components=20, rescale=False,
        device="cpu",
    )  # fmt: skip
    values = np.random.default_rng(1).standard_normal((N_STIMULI, 12)).astype(np.float32)
    features = Features.from_arrays(values, subject.stimuli.ids, uri="planted", layer="twelve")
    LatentDecoder(calibration_folds=0, alphas=(10.0,)).fit(subject.recording, features).save_pretrained(folder / LATENT)
    return folder


Serving = Callable[..., Any]


@pytest.fixture(scope="session")
def serving() -> Serving:
    """``async with serving(folder, **options) as engine``: an engine on the CPU that is closed at the end."""

    @asynccontextmanager
    async def serve(folder: Path, *, runner: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Engine]:
        repository = ModelRepository(folder, device="cpu")
        local = LocalRunner(repository, device="cpu", **(runner or {}))
        engine = Engine(repository, local, **options)
        try:
            yield engine
        finally:
            await engine.close()

    return serve


@pytest.fixture
def engine(models_folder: Path, serving: Serving) -> Serving:
    """``async with engine() as e``: an engine of all models, which belongs to the event loop that it is opened in."""
    return lambda **options: serving(models_folder, **options)
