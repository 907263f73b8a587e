"""Subjects whose neuroids are mixtures of the same few causes, each in a different way and number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from encoders import Features
from recordings import Recording

N_STIMULI, N_TEST, N_CAUSES = 240, 60, 8


class Subjects(NamedTuple):
    train: dict[str, Recording]
    test: dict[str, Recording]
    embedding: Features
    latents: Features
    causes: np.ndarray

    @property
    def candidates(self) -> Features:
        return self.embedding.select([str(i) for i in self.embedding.stimulus_ids[-N_TEST:]])


def plant(noise: float = 1.0, neuroids: tuple[int, ...] = (50, 60, 70), seed: int = 0) -> Subjects:
    """Responses = causes, rotated into each subject's neuroids, plus noise; embedding and latents are mixtures too."""
    rng = np.random.default_rng(seed)
    ids = [f"stim{i:03d}" for i in range(N_STIMULI)]
    causes = rng.normal(size=(N_STIMULI, N_CAUSES)) * np.linspace(1.5, 0.75, N_CAUSES)
    embedding = causes @ rng.normal(size=(N_CAUSES, 20)) + rng.normal(3, 1, 20)
    latents = causes @ rng.normal(size=(N_CAUSES, 12)) + rng.normal(-2, 1, 12)
    train, test = {}, {}
    for number, n in enumerate(neuroids):
        maps = np.linalg.qr(rng.normal(size=(n, N_CAUSES)))[0] * np.sqrt(n / N_CAUSES)
        values = causes @ maps.T + noise * rng.normal(size=(N_STIMULI, n)) + rng.normal(50, 10, n)
        table = {"neuroid_id": [f"s{number}n{k}" for k in range(n)]}
        recording = Recording(values, {"stimulus_id": ids}, table)
        name = f"subject-{number + 1:02d}"
        train[name], test[name] = recording.take(slice(-N_TEST)), recording.take(slice(-N_TEST, None))
    return Subjects(
        train,
        test,
        Features.from_arrays(embedding, ids, uri="planted", layer="embedding"),
        Features.from_arrays(latents, ids, uri="planted", layer="latents"),
        causes,
    )
