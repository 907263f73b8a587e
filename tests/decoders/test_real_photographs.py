"""Real photographs through a real autoencoder: what is decoded is nearer than what could be recalled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    import real_photographs

    return real_photographs


def test_crops_do_not_overlap(benchmark_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pixels that name their column: held-out crops lie to the right of all others.
    columns = np.broadcast_to((np.arange(640) * 255 // 640).astype(np.uint8)[None, :, None], (427, 640, 3))
    monkeypatch.setattr(benchmark_module, "photographs", lambda: {"a": columns, "b": columns[:300, :451]})
    training, held_out = benchmark_module.crops(np.random.default_rng(0), 101)
    assert len(training) == 101 and training.shape[1:] == (64, 64, 3)
    # Of 640 columns 160 are held out and of 451 113, in which two tiles and one fit.
    assert len(held_out) == 2 * 6 + 1 * 4
    assert training[:51].max() <= held_out[:12].min() and training[51:].max() <= held_out[12:].min()


@pytest.mark.slow
@pytest.mark.real
def test_decoded_photographs_beat_the_nearest_of_the_training(benchmark_module: Any, real_data: Path) -> None:
    found = benchmark_module.measure(real_data / "taef2", noise=1.0)
    assert found["n_training"] == 500 and found["noise_ceiling"] == 0.5
    assert found["interval"]["gain_over_nearest"][0] > 0
    # Even over the nearest by pixels, which no decoder could know.
    assert found["gain_over_nearest_by_pixels"] > 0
    assert abs(found["shuffled"]) < 0.15 < found["decoded"] < found["autoencoder"]
