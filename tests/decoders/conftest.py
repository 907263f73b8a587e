"""A planted brain: some neuroids carry known features, the others noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from encoders import Features
from recordings import Recording

N_STIMULI, N_TEST, N_FEATURES, N_SIGNAL, N_NOISE, REPETITIONS = 360, 100, 20, 60, 60, 3


class World(NamedTuple):
    train: Recording
    test: Recording
    features: Features
    test_features: Features
    carries: np.ndarray


def plant(seed: int = 0, snr: float = 1.0) -> World:
    """Neuroids 0 .. N_SIGNAL - 1 are mixtures of the features plus noise; the rest is noise. Means are far from 0."""
    rng = np.random.default_rng(seed)
    ids = [f"stim{i:03d}" for i in range(N_STIMULI)]
    latents = rng.normal(size=(N_STIMULI, N_FEATURES)) + rng.normal(5, 2, N_FEATURES)
    weights = np.hstack([rng.normal(size=(N_FEATURES, N_SIGNAL)), np.zeros((N_FEATURES, N_NOISE))])
    signal = snr * (latents - latents.mean(0)) @ weights / np.sqrt(N_FEATURES)
    noise = rng.normal(size=(REPETITIONS, N_STIMULI, N_SIGNAL + N_NOISE))
    values = (signal + noise + 100).reshape(-1, N_SIGNAL + N_NOISE)
    recording = Recording(values, {"stimulus_id": ids * REPETITIONS})
    features = Features.from_arrays(latents, ids, uri="planted", layer="latents")
    is_test = np.isin(recording.stimulus_ids.astype(str), ids[-N_TEST:])
    carries = np.arange(N_SIGNAL + N_NOISE) < N_SIGNAL
    test = recording.take(np.flatnonzero(is_test)).average_repetitions()
    return World(recording.take(np.flatnonzero(~is_test)), test, features, features.select(ids[-N_TEST:]), carries)


@pytest.fixture(scope="session")
def world() -> World:
    return plant()
