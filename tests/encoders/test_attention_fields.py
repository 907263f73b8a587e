"""Receptive fields read from encoders, and controls that take content or place away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoders import Features
from encoders.attention.contributions import contributions
from encoders.attention.controls import (
    permute_tokens,
    with_swapped_queries,
    with_uniform_attention,
    without_position,
)
from encoders.attention.encoder import TransformerEncoder
from encoders.attention.fields import receptive_fields
from encoders.attention.gaussian import fit_gaussians
from encoders.attention.modules import _MAP_GAIN, _PLACE_GAIN, GaussianField
from encoders.attention.position import token_centres
from recordings import Recording
from recordings.errors import InputError, UnknownNameError

SIDE, CHANNELS = 6, 4
FIELDS = np.array([[-0.5, 0.5], [0.5, 0.2], [0.0, -0.6]])


def world(n: int = 80, seed: int = 0, stem: str = "s") -> tuple[Features, Recording]:
    """Three neuroids, each in a region of its own, that weigh one channel by a Gaussian of s.d. 0.3."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n, SIDE**2, CHANNELS))
    responses = np.einsum("nt,tv->nv", tokens[..., 0], planted_maps())
    ids = [f"{stem}{i}" for i in range(n)]
    recording = Recording(responses, {"stimulus_id": ids}, {"roi": ["V1", "V2", "V3"]})
    return Features.from_arrays(tokens, ids, grid=[SIDE, SIDE]), recording


def planted_maps() -> np.ndarray:
    square = ((token_centres((SIDE, SIDE))[:, None] - FIELDS) ** 2).sum(-1)
    return np.exp(-0.5 * square / 0.3**2)


def fitted(routing: str, **options: object) -> tuple[TransformerEncoder, Features, Recording]:
    """An encoder after one epoch, which has hardly learnt anything."""
    features, recording = world()
    settings = {"epochs": 1, "device": "cpu", "refit": False, "batch_size": 16} | options
    return TransformerEncoder(routing, **settings).fit(features, recording), features, recording  # type: ignore[arg-type]


def with_planted_fields(routing: str) -> TransformerEncoder:
    """An encoder whose maps, and read-out of one channel, are those of the world."""
    encoder, _, _ = fitted(routing)
    module = encoder.module_
    with torch.no_grad():
        if isinstance(module.routing, GaussianField):
            module.routing.place.copy_(torch.as_tensor(FIELDS) / _PLACE_GAIN)
        else:
            logits = np.log(planted_maps().T) / _MAP_GAIN
            module.routing.logits.copy_(torch.as_tensor(logits))
        module.readout.weight.zero_()
        module.readout.weight[:, 0] = 1
    return encoder


@pytest.fixture(scope="module")
def attending() -> tuple[TransformerEncoder, Features, Recording]:
    return fitted("roi", hidden=16, n_heads=2, feedforward=8)


# Receptive fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["gaussian", "spatial", "spatial_roi"])
def test_planted_receptive_fields_are_read(routing: str) -> None:
    encoder = with_planted_fields(routing)
    table = receptive_fields(encoder, by="attention")
    np.testing.assert_allclose(table[["x", "y"]], FIELDS, atol=1e-3)
    if routing != "gaussian":
        np.testing.assert_allclose(table["sigma"], 0.3, atol=1e-3)
        np.testing.assert_allclose(table["floor"], 0, atol=1e-3)
    np.testing.assert_allclose(table["eccentricity"], np.hypot(*FIELDS.T), atol=1e-3)
    np.testing.assert_allclose(table["polar_angle"], [135, 21.8, -90], atol=0.2)
    names = list(encoder.regions_.names) if routing == "spatial_roi" else ["n0", "n1", "n2"]
    assert table.iloc[:, 0].tolist() == names
    degrees = receptive_fields(encoder, by="attention", radius=4.2)
    np.testing.assert_allclose(degrees[["x", "sigma"]], 4.2 * table[["x", "sigma"]])
    np.testing.assert_allclose(degrees["polar_angle"], table["polar_angle"])


def test_fields_of_attention_are_those_of_the_mean_map(
    attending: tuple[TransformerEncoder, Features, Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, features, _ = attending
    chosen = [f"s{i}" for i in range(50)]
    monkeypatch.setattr("encoders.attention.predictor.BLOCK_BYTES", 1)
    table = receptive_fields(encoder, features, chosen, by="attention").set_index("region")
    expected = encoder.attention(features, chosen).centre_and_spread()
    np.testing.assert_allclose(table[["x", "y", "sigma"]], expected[["x", "y", "sigma"]], atol=1e-3)
    with pytest.raises(InputError, match="depend on pictures"):
        receptive_fields(encoder)
    with pytest.raises(UnknownNameError, match="no receptive fields by"):
        receptive_fields(encoder, features, by="magic")


@pytest.mark.parametrize("routing", ["roi", "vertex"])
def test_each_neuroid_has_a_field_where_it_reads_from(routing: str) -> None:
    encoder, features, _ = fitted(routing, hidden=16, n_heads=2, feedforward=0)
    ids, neuroids = list(features.stimulus_ids[:40]), encoder.recording_["neuroid_ids"]
    table = receptive_fields(encoder, features, ids)
    assert table["neuroid_id"].tolist() == neuroids
    with torch.inference_mode():
        memory = encoder.module_.memory([torch.as_tensor(features.read(features.rows(ids)))])
        each = (torch.tensor([v]) for v in range(len(neuroids)))
        parts = [contributions(encoder.module_, encoder.regions_, memory, v) for v in each]
    variance = torch.cat(parts, 1).var(0, unbiased=False).numpy()
    expected = fit_gaussians((variance / variance.sum(1, keepdims=True)).reshape(-1, SIDE, SIDE))
    np.testing.assert_allclose(table[["x", "y", "sigma"]], expected[["x", "y", "sigma"]], atol=2e-2)


def test_heads_can_be_kept_apart(attending: tuple[TransformerEncoder, Features, Recording]) -> None:
    encoder, features, _ = attending
    heads, mean = (encoder.attention(features, ["s0", "s1"], per_head=kept) for kept in (True, False))
    assert heads.weights.shape == (2, 3, 2, SIDE, SIDE)
    assert heads.entropy().shape == (2, 3, 2)
    np.testing.assert_allclose(heads.in_space, mean.weights, atol=1e-7)


def test_moments_before_a_run_do_not_count() -> None:
    features, recording = world(60)
    runs = np.repeat([0, 1, 2], 20)
    recording = Recording(recording.values, recording.presentations.assign(run=runs), recording.neuroids)
    encoder = TransformerEncoder("vertex", delays=[0, 1, 2], hidden=4, n_heads=1, epochs=1, device="cpu")
    encoder.fit(features, recording)
    chosen = [f"s{i}" for i in range(5)]
    table = receptive_fields(encoder, features, chosen, by="attention", runs=np.zeros(5, int))
    module = encoder.module_
    seen = [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]
    with torch.inference_mode():
        tokens = torch.as_tensor(features.read(seen))
        standardised = (tokens - module.mean0) / module.scale0
        maps = module.routing.weights(module.routing.memory(standardised)).mean((0, 2)).numpy()
    expected = fit_gaussians(maps.reshape(-1, SIDE, SIDE))
    np.testing.assert_allclose(table["x"], expected["x"], atol=1e-3)


# Controls --------------------------------------------------------------------------------------------------------


def test_permuted_tokens_keep_their_content_and_lose_their_place(rng: np.random.Generator) -> None:
    features = Features.from_arrays(rng.standard_normal((5, 36, 4)), list("abcde"), grid=[6, 6])
    permuted = permute_tokens(features, seed=3)
    assert permuted.fingerprint() == features.fingerprint()
    assert not np.array_equal(permuted.read(), features.read())
    np.testing.assert_array_equal(np.sort(permuted.read(), 1), np.sort(features.read(), 1))
    # An order of its own for each stimulus, whatever it is read with.
    alone = permuted.select(["d", "b"])
    np.testing.assert_array_equal(alone.read([1]), permuted.read([1]))
    np.testing.assert_array_equal(alone.read(np.array([True, False])), permuted.read(slice(3, 4)))
    assert not np.array_equal(permuted.read(), permute_tokens(features, seed=4).read())
    with pytest.raises(InputError, match="no tokens"):
        permute_tokens(Features.from_arrays(np.ones((2, 3)), ["a", "b"]))


def test_an_encoder_of_places_loses_its_score_without_them() -> None:
    encoder = with_planted_fields("spatial")
    held_out, recording = world(80, seed=1, stem="t")

    def r(encoder: TransformerEncoder, features: Features) -> float:
        return float(encoder.score(features, recording, n_bootstrap=2).values.mean())

    assert r(encoder, held_out) > 0.99
    assert r(with_uniform_attention(encoder), held_out) < 0.7
    assert r(encoder, permute_tokens(held_out)) < r(with_uniform_attention(encoder), held_out)
    # The original is as it was.
    assert r(encoder, held_out) > 0.99


def test_without_position_attention_follows_tokens_wherever_they_are(
    attending: tuple[TransformerEncoder, Features, Recording],
) -> None:
    encoder, features, _ = attending
    chosen, permuted = ["s3", "s4"], permute_tokens(features)
    blind = without_position(encoder)
    np.testing.assert_allclose(blind.predict(permuted, chosen), blind.predict(features, chosen), atol=1e-5)
    assert np.abs(encoder.predict(permuted, chosen) - encoder.predict(features, chosen)).max() > 1e-3


def test_uniform_attention_is_uniform(attending: tuple[TransformerEncoder, Features, Recording]) -> None:
    encoder, features, _ = attending
    maps = with_uniform_attention(encoder).attention(features, ["s0", "s1"])
    np.testing.assert_allclose(maps.weights, 1 / SIDE**2, atol=1e-6)


def test_regions_swap_their_places(attending: tuple[TransformerEncoder, Features, Recording]) -> None:
    encoder, features, _ = attending
    before = encoder.attention(features, ["s0"]).weights
    after = with_swapped_queries(encoder, "V1", "V3").attention(features, ["s0"]).weights
    np.testing.assert_allclose(after, before[:, [2, 1, 0]], atol=1e-6)
    with pytest.raises(UnknownNameError, match="'MT'"):
        with_swapped_queries(encoder, "V1", "MT")


def test_controls_that_make_no_sense_are_refused() -> None:
    encoder, _, _ = fitted("gaussian")
    for control, words in (
        (without_position, "no position code"),
        (with_uniform_attention, "never even"),
        (lambda e: with_swapped_queries(e, "V1", "V2"), "no query a region"),
    ):
        with pytest.raises(InputError, match=words):
            control(encoder)
    with pytest.raises(InputError, match="not fitted"):
        without_position(TransformerEncoder())
