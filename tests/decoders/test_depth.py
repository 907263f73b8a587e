"""Depth maps from DPT's hidden states: its own maps from its own states, what a brain holds of them, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, DPTForDepthEstimation

from decoders import LatentDecoder
from decoders.depth import DepthDecoder, check_depth
from recordings import Recording, Stimuli
from recordings.errors import (
    ArtifactError,
    Cancelled,
    ConstantUnitError,
    InputError,
    MismatchedIdsError,
    MissingWeightsError,
    NotFiniteError,
    ShapeError,
)

from .transformers_models import save_blip, save_dpt

IDS = [f"photo-{k}" for k in range(5)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dpt(tmp_path_factory.mktemp("hub") / "dpt")


@pytest.fixture(scope="module")
def decoder(folder: Path) -> DepthDecoder:
    return DepthDecoder.from_pretrained(str(folder), device="cpu")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 70, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def states(decoder: DepthDecoder, images: np.ndarray) -> dict[str, np.ndarray]:
    stored = decoder.hidden_states_of(Stimuli.from_arrays(images, IDS), batch_size=2)
    return {layer: features.read() for layer, features in stored.items()}


def test_maps_of_its_own_hidden_states_are_those_of_dpt_itself(
    decoder: DepthDecoder, folder: Path, images: np.ndarray, states: dict[str, np.ndarray]
) -> None:
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(images), return_tensors="pt")
    with torch.inference_mode():
        expected = DPTForDepthEstimation.from_pretrained(folder)(**pixels).predicted_depth.numpy()
    assert {layer: values.shape for layer, values in states.items()} == dict.fromkeys(decoder.layers, (5, 17, 24))
    np.testing.assert_allclose(decoder.decode(states, batch_size=2), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(decoder.depth_of(images, batch_size=3), expected, rtol=1e-4, atol=1e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    small = decoder.decode(states, size=(16, 20))
    assert small.shape == (5, 16, 20)
    assert small.dtype == np.float32
    assert expected.min() <= small.min() < small.max() <= expected.max()


@pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")
def test_brain_holds_the_depth_it_was_given(decoder: DepthDecoder) -> None:
    rng = np.random.default_rng(1)
    layout = rng.random((160, 4, 4, 3)) * 255
    stimuli = Stimuli.from_arrays(np.kron(layout, np.ones((1, 16, 16, 1))).astype(np.uint8))
    hidden, shown = decoder.hidden_states_of(stimuli), decoder.depth_of(stimuli)[120:]
    responses = layout.reshape(160, -1) / 255 @ rng.normal(size=(48, 80)) + 0.3 * rng.normal(size=(160, 80))
    brain = Recording(responses.astype(np.float32), {"stimulus_id": stimuli.ids})
    train, test = brain.take(slice(None, 120)), brain.take(slice(120, None))
    decoded = {}
    for layer, features in hidden.items():
        fitted = LatentDecoder(alphas=(0.1, 1, 10), reliability=None, calibration_folds=0).fit(train, features)
        decoded[layer] = fitted.predict(test).reshape(40, 17, 24)
    maps = decoder.decode(decoded)

    def correlation(order: np.ndarray) -> float:
        centred = (maps - maps.mean(0))[order].ravel(), (shown - shown.mean(0)).ravel()
        return float(np.corrcoef(*centred)[0, 1])

    assert correlation(np.arange(40)) > 0.6
    assert abs(np.mean([correlation(rng.permutation(40)) for _ in range(50)])) < 0.05


def test_cancelled_between_batches(decoder: DepthDecoder, images: np.ndarray, states: dict[str, np.ndarray]) -> None:
    for work in (lambda stop: decoder.decode(states, batch_size=1, stop=stop),
                 lambda stop: decoder.depth_of(images, batch_size=1, stop=stop)):  # fmt: skip
        asked: list[int] = []
        with pytest.raises(Cancelled, match="after 2 of 5"):
            work(lambda asked=asked: asked.append(0) or len(asked) > 2)


def test_bad_hidden_states(decoder: DepthDecoder, states: dict[str, np.ndarray]) -> None:
    last = decoder.layers[-1]
    with pytest.raises(MismatchedIdsError, match=last):
        decoder.decode({layer: values for layer, values in states.items() if layer != last})
    with pytest.raises(ShapeError, match="24"):
        decoder.decode(states | {last: states[last][..., :12]})
    with pytest.raises(ShapeError, match="square"):
        decoder.decode({layer: values[:, :16] for layer, values in states.items()})
    with pytest.raises(ShapeError, match="same stimuli"):
        decoder.decode(states | {last: states[last][:3]})
    holed = states[last].copy()
    holed[2, 0, 0] = np.inf
    with pytest.raises(NotFiniteError, match="'photo-2'"):
        decoder.decode(states | {last: holed}, IDS)


def test_map_without_depth_names_its_stimulus(folder: Path, states: dict[str, np.ndarray]) -> None:
    blind = DepthDecoder.from_pretrained(str(folder), device="cpu")
    torch.nn.init.constant_(blind.model.head.head[-2].bias, -1e3)
    with pytest.raises(ConstantUnitError, match=r"'photo-0'.*5 of 5"):
        blind.decode(states, IDS)


def test_maps_decoded_directly() -> None:
    maps = np.random.default_rng(0).random((3, 8, 8))
    ids = ["a", "b", "c"]
    checked = check_depth(maps, ids, (8, 8))
    assert checked.dtype == np.float32
    np.testing.assert_allclose(checked, maps, rtol=1e-6)
    with pytest.raises(ShapeError, match="64, 64"):
        check_depth(maps, ids, (64, 64))
    with pytest.raises(ShapeError, match="height, width"):
        check_depth(maps.reshape(3, -1))
    with pytest.raises(ShapeError, match="2 stimulus ids"):
        check_depth(maps, ids[:2])
    flat, holed = maps.copy(), maps.copy()
    flat[1] = 0.25
    with pytest.raises(ConstantUnitError, match="'b'"):
        check_depth(flat, ids)
    holed[2, 4, 4] = np.nan
    with pytest.raises(NotFiniteError, match="'c'"):
        check_depth(holed, ids)


def test_absent_partial_and_other_models(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="`penfield models fetch transformers:Intel/no-such-dpt`"):
        DepthDecoder.from_pretrained("Intel/no-such-dpt")
    with pytest.raises(ArtifactError, match="type blip, not dpt"):
        DepthDecoder.from_pretrained(str(save_blip(tmp_path / "blip")))
    hybrid = DPTForDepthEstimation.from_pretrained(folder)
    hybrid.config.is_hybrid = True
    with pytest.raises(ArtifactError, match="plain vision transformer"):
        DepthDecoder(hybrid, AutoImageProcessor.from_pretrained(folder))
    weights = load_file(folder / "model.safetensors")
    published = {name: value for name, value in weights.items() if "fusion_stage.layers.0.residual_layer1" not in name}
    assert len(published) < len(weights)
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    DepthDecoder.from_pretrained(str(folder), device="cpu")
    headless = {name: value for name, value in weights.items() if not name.startswith("head")}
    save_file(headless, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lacks 6 weights .* first head\.head\.0\.bias"):
        DepthDecoder.from_pretrained(str(folder))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_clips_have_no_depth_map(decoder: DepthDecoder) -> None:
    with pytest.raises(InputError, match="clip"):
        decoder.depth_of(Stimuli.from_arrays(np.zeros((1, 3, 64, 64, 3), np.uint8)))
