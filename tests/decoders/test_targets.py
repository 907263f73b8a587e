"""Targets of a decoder: what each is made of, in memory and in a store, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from decoders.miniature.pictures import nearness
from decoders.targets import make_targets
from encoders import FeatureExtractor, Features
from recordings import Stimuli
from recordings.errors import (
    Cancelled,
    InputError,
    MismatchedIdsError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from recordings.miniature import Scenes, make_stimuli, render

N = 7


class Encoders:
    """The encoders of a generator, of arithmetic that a test can repeat."""

    def __init__(self) -> None:
        self.vae, self.text_encoder = torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)
        self.batches: list[int] = []

    def encode_images(self, images: np.ndarray, *, sample: bool = False, seed: int = 0) -> np.ndarray:
        assert not sample
        self.batches.append(len(images))
        return images[:, ::32, ::32, :].transpose(0, 3, 1, 2).astype(np.float32) / 255

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([np.full((2, 3), len(text), np.float32) for text in texts])


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return make_stimuli(Scenes.sample(N, seed=4))


@pytest.fixture(scope="module")
def backbone() -> FeatureExtractor:
    return FeatureExtractor.from_uri("miniature:backbone", "cpu")


def test_latents_and_text(stimuli: Stimuli) -> None:
    generator = Encoders()
    found = make_targets(stimuli, ["z", "c"], generator=generator, batch_size=3)
    pictures = np.stack(list(stimuli))
    assert np.array_equal(found["z"].read(), generator.encode_images(pictures).reshape(N, -1))
    assert found["z"].shape == (N, 12) and found["c"].shape == (N, 2, 3)
    assert generator.batches[:3] == [3, 3, 1]
    assert [row[0, 0] for row in found["c"].read()] == [len(text) for text in stimuli.captions]
    assert list(found["c"].stimulus_ids) == stimuli.ids


def test_several_captions_are_averaged_after_encoding(stimuli: Stimuli) -> None:
    captions = {name: ["a" * (k + 1), "a" * (3 * k + 2)][: 1 + k % 2] for k, name in enumerate(stimuli.ids)}
    states = make_targets(stimuli, ["c"], generator=Encoders(), captions=captions, batch_size=4)["c"].read()
    assert [row[1, 2] for row in states] == [np.mean([len(text) for text in captions[i]]) for i in stimuli.ids]
    del captions[stimuli.ids[2]]
    with pytest.raises(MismatchedIdsError, match=repr(stimuli.ids[2])):
        make_targets(stimuli, ["c"], generator=Encoders(), captions=captions)


def test_depth_from_a_function_from_maps_and_from_the_scenes(stimuli: Stimuli) -> None:
    truth = nearness(render(Scenes.sample(N, seed=4)).depth)
    assert np.array_equal(make_targets(stimuli, ["depth"], depth="truth", batch_size=3)["depth"].read(), truth)
    assert np.array_equal(make_targets(stimuli, ["depth"], depth=truth, batch_size=3)["depth"].read(), truth)
    dark = make_targets(stimuli, ["depth"], depth=lambda images: images.mean(-1), batch_size=3)["depth"]
    assert dark.shape == (N, 64, 64)
    with pytest.raises(ShapeError, match="for 7 stimuli"):
        make_targets(stimuli, ["depth"], depth=truth[:3])
    with pytest.raises(InputError, match="'false'"):
        make_targets(stimuli, ["depth"], depth="false")
    with pytest.raises(UnknownNameError, match="scenes table"):
        make_targets(Stimuli.from_arrays(np.zeros((2, 8, 8, 3), np.uint8)), ["depth"], depth="truth")


def test_features_of_models(stimuli: Stimuli, backbone: FeatureExtractor) -> None:
    layer = backbone.layers()[2]
    names = ["embedding", "tokens", layer]
    models = {"embedding": backbone, "tokens": backbone, "layers": backbone}
    found = make_targets(stimuli, names, **models, batch_size=5)
    assert found["embedding"].shape == (N, 192) and found["tokens"].shape == (N, 65, 192)
    # The class token stands first.
    assert np.allclose(found["tokens"].read()[:, 0], found["embedding"].read(), atol=1e-5)
    flat = backbone(list(stimuli), [layer], "flat")[layer]
    assert np.allclose(found[layer].read(), flat, atol=1e-4)
    own = make_targets(stimuli, ["embedding"], embedding=backbone, embedding_readout="projected")["embedding"]
    assert np.allclose(own.read(), backbone(list(stimuli), readout="projected")["projected"], atol=1e-4)
    assert own.fingerprint() != found["embedding"].fingerprint()
    early = make_targets(stimuli, ["tokens"], tokens=backbone, tokens_layer="blocks.0")["tokens"]
    assert early.shape == (N, 65, 192) and not np.allclose(early.read(), found["tokens"].read())
    assert early.fingerprint() != found["tokens"].fingerprint()
    with pytest.raises(UnknownNameError, match="blocks"):
        make_targets(stimuli, ["blocks.99"], layers=backbone)
    with pytest.raises(ShapeError, match="not tokens"):
        make_targets(stimuli, ["tokens"], tokens=backbone, tokens_layer="output")


def test_a_store_holds_the_same(stimuli: Stimuli, tmp_path: Path) -> None:
    generator = Encoders()
    in_memory = make_targets(stimuli, ["z", "c"], generator=generator, batch_size=3)
    stored = make_targets(stimuli, ["z", "c"], generator=generator, batch_size=3, path=tmp_path / "targets")
    for name in ("z", "c"):
        again = Features.load(tmp_path / "targets" / name)
        assert np.array_equal(again.read(), in_memory[name].read())
        assert again.fingerprint() == in_memory[name].fingerprint() == stored[name].fingerprint()
    with pytest.raises(InputError, match="exists already"):
        make_targets(stimuli, ["z"], generator=Encoders(), path=tmp_path / "targets")
    make_targets(stimuli, ["z"], generator=Encoders(), path=tmp_path / "targets", overwrite=True)
    with pytest.raises(Cancelled):
        make_targets(stimuli, ["z"], generator=Encoders(), path=tmp_path / "stopped", stop=lambda: True)
    assert not list((tmp_path / "stopped").glob("*"))


def test_another_encoder_is_another_space(stimuli: Stimuli) -> None:
    generator = Encoders()
    first = make_targets(stimuli, ["z"], generator=generator)["z"].fingerprint()
    with torch.no_grad():
        generator.vae.weight += 1
    assert make_targets(stimuli, ["z"], generator=generator)["z"].fingerprint() != first


def test_refuses_what_it_lacks(stimuli: Stimuli) -> None:
    for name, what in {"z": "a generator", "depth": "depth", "tokens": "as tokens", "conv1": "as layers"}.items():
        with pytest.raises(InputError, match=what):
            make_targets(stimuli, [name])
    with pytest.raises(InputError, match="no target"):
        make_targets(stimuli, [])
    broken = np.zeros((N, 8, 8), np.float32)
    broken[5, 0, 0] = np.nan
    with pytest.raises(NotFiniteError, match=repr(stimuli.ids[5])):
        make_targets(stimuli, ["depth"], depth=broken, batch_size=3)
    with pytest.raises(UnknownNameError, match="caption"):
        make_targets(Stimuli.from_arrays(np.zeros((2, 8, 8, 3), np.uint8)), ["c"], generator=Encoders())
