"""Routings by name: each fits the same tokens, and those find a signal whose assumption is planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from encoders import (
    ROUTINGS,
    BandedRidgeEncoder,
    Features,
    RidgeEncoder,
    TransformerEncoder,
    load_encoder,
    make_routing,
)
from encoders.bands import read_flat
from encoders.differentiable import summed_response
from encoders.routings import RIDGE_ROUTINGS, check_readout
from recordings import Recording
from recordings.errors import InputError, ShapeError, UnknownNameError

N, GRID, CHANNELS = 60, 4, 8
IDS = [f"s{i:02d}" for i in range(N)]
NEUROIDS = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(6)], "roi": ["A"] * 3 + ["B"] * 3})
TINY = {"epochs": 2, "batch_size": 16, "device": "cpu"}
NETWORK = {**TINY, "n_heads": 2, "feedforward": 8, "hidden": 8}


@pytest.fixture(scope="module")
def tokens() -> Features:
    values = np.random.default_rng(0).standard_normal((N, GRID * GRID, CHANNELS))
    return Features.from_arrays(values, IDS, grid=[GRID, GRID], readout="tokens")


@pytest.fixture(scope="module")
def of_the_mean(tokens: Features) -> Recording:
    """Responses to the mean token alone."""
    rng = np.random.default_rng(1)
    signal = GRID * tokens.read().mean(1) @ rng.standard_normal((CHANNELS, 6))
    return Recording(signal + 0.3 * rng.standard_normal(signal.shape), {"stimulus_id": IDS}, NEUROIDS)


@pytest.mark.parametrize("name", [r for r in ROUTINGS if r != "cls"])
def test_every_routing_goes_by_one_store_of_tokens(tokens: Features, of_the_mean: Recording, name: str) -> None:
    options = {"alphas": (1, 100)} if name in RIDGE_ROUTINGS else NETWORK if name in ("roi", "vertex") else TINY
    check_readout(name, tokens)
    train, test = of_the_mean.where(stimulus_id=IDS[:40]), of_the_mean.where(stimulus_id=IDS[40:])
    encoder = make_routing(name, **options).fit(tokens, train)  # type: ignore[attr-defined]
    score = encoder.score(tokens, test, n_bootstrap=0)
    assert score.values.shape == (6,) and encoder.predict(tokens).shape == (N, 6)
    assert score.center > (0.9 if name == "pooled" else -1)


def test_pooled_is_ridge_on_the_mean_token(tokens: Features, of_the_mean: Recording, tmp_path: Path) -> None:
    mean = Features.from_arrays(tokens.read().mean(1), IDS)
    pooled = RidgeEncoder(alphas=(1, 10), pool=True).fit(tokens, of_the_mean)
    peer = RidgeEncoder(alphas=(1, 10)).fit(mean, of_the_mean)
    np.testing.assert_allclose(pooled.predict(tokens), peer.predict(mean), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pooled.coefficients(), peer.coefficients(), rtol=1e-3, atol=1e-3)
    summed = summed_response(pooled, np.ones(6))(torch.as_tensor(tokens.read()))
    np.testing.assert_allclose(summed, pooled.predict(tokens).sum(1), rtol=1e-3, atol=1e-3)
    pooled.save_pretrained(tmp_path / "model")
    back = load_encoder(tmp_path / "model")
    assert isinstance(back, RidgeEncoder) and back.pool and back.bands_[0].pool
    np.testing.assert_allclose(back.predict(tokens), pooled.predict(tokens), atol=1e-6)


def test_banded_ridge_pools_as_well(tokens: Features, of_the_mean: Recording) -> None:
    other = Features.from_arrays(np.random.default_rng(2).standard_normal((N, 5, 3)), IDS)
    encoder = BandedRidgeEncoder(alphas=(1, 10), n_draws=5, pool=True).fit({"a": tokens, "b": other}, of_the_mean)
    assert [len(band.mean) for band in encoder.bands_] == [CHANNELS, 3]
    assert encoder.gammas_ is not None and (encoder.gammas_[0] > encoder.gammas_[1]).all()


def test_models_from_before_pooling_still_load(tokens: Features, of_the_mean: Recording, tmp_path: Path) -> None:
    encoder = RidgeEncoder(alphas=(1, 10)).fit(tokens, of_the_mean)
    encoder.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["parameters"]["pool"], config["bands"][0]["pool"]
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(load_encoder(tmp_path / "model").predict(tokens), encoder.predict(tokens))


def test_pooling_reads_a_part_of_the_stimuli_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((200, 3, 2)).astype(np.float32)
    features, sizes = Features.from_arrays(values, [f"s{i}" for i in range(200)]), []
    read = Features.read

    def watched(self: Features, rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(Features, "read", watched)
    ids = ["s7", "s199", "s7", *(f"s{i}" for i in range(200))]
    found = read_flat(features, ids, pool=True)
    np.testing.assert_allclose(found, values.mean(1)[[7, 199, 7, *range(200)]], atol=1e-6)
    assert max(sizes) < 100


def test_flattened_is_ridge_in_kernel_form() -> None:
    encoder = make_routing("flattened", alphas=(1,))
    assert isinstance(encoder, RidgeEncoder) and encoder.solver == "kernel" and not encoder.pool
    encoder = make_routing("vertex", epochs=3)
    assert isinstance(encoder, TransformerEncoder) and (encoder.routing, encoder.epochs) == ("vertex", 3)


class TestBadInput:
    def test_no_such_routing(self) -> None:
        with pytest.raises(UnknownNameError, match=r"no routing 'rio'\. There are: cls, pooled"):
            make_routing("rio")

    @pytest.mark.parametrize(("name", "option"), [("pooled", "epochs"), ("roi", "alphas"), ("flattened", "solver2")])
    def test_an_option_of_another_routing(self, name: str, option: str) -> None:
        with pytest.raises(InputError, match=option):
            make_routing(name, **{option: 1})

    def test_pooling_what_has_no_tokens(self, of_the_mean: Recording) -> None:
        flat = Features.from_arrays(np.ones((N, 4)), IDS)
        with pytest.raises(ShapeError, match="no tokens to average"):
            RidgeEncoder(pool=True).fit(flat, of_the_mean)

    @pytest.mark.parametrize("name", ROUTINGS)
    def test_the_other_read_out(self, tokens: Features, name: str) -> None:
        cls = Features.from_arrays(np.ones((N, 4)), IDS, readout="cls")
        check_readout(name, cls if name == "cls" else tokens)
        with pytest.raises(InputError, match="--readout"):
            check_readout(name, tokens if name == "cls" else cls)
