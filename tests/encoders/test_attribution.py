"""Attribution against what linear encoders are known to do, completeness, and planted places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoders import FeatureExtractor, Features, RidgeEncoder
from encoders.attention.encoder import TransformerEncoder
from encoders.attribution import agreement, by_place, deletion_curve, integrated_gradients
from encoders.ensemble import Ensemble
from encoders.features.backbone import Backbone
from encoders.features.readouts import TokenLayout
from encoders.grad_cam import grad_cam
from recordings import Recording
from recordings.errors import ArtifactError, InputError, ShapeError, UnknownNameError

from .tiny import save_dinov2, save_timm

GRID, CHANNELS, N = (4, 4), 6, 60
PLANTED = 9


def ids(n: int) -> list[str]:
    return [f"s{i}" for i in range(n)]


def tokens_of(rng: np.random.Generator, n: int = N, **attrs: str) -> Features:
    values = rng.standard_normal((n, 16, CHANNELS)) + 0.5
    return Features.from_arrays(values, ids(n), grid=list(GRID), layer="blocks.1", **attrs)


def driven_by(values: np.ndarray, token: int, n_neuroids: int = 3) -> Recording:
    """Neuroids that answer to the channels' sum at one token."""
    signal = values[:, token].sum(-1, keepdims=True) * np.arange(1, n_neuroids + 1)
    return Recording(signal, {"stimulus_id": ids(len(values))}, {"roi": ["V1"] * n_neuroids})


def ridge(features: Features, recording: Recording, **options: object) -> RidgeEncoder:
    return RidgeEncoder(alphas=(1e-3,), cv=3, **options).fit(features, recording)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def planted() -> tuple[Features, RidgeEncoder]:
    features = tokens_of(np.random.default_rng(3), 200)
    return features, ridge(features, driven_by(features.read(), PLANTED), solver="primal")


@pytest.fixture(scope="module")
def attending() -> tuple[Features, TransformerEncoder]:
    features = tokens_of(np.random.default_rng(4))
    encoder = TransformerEncoder("vertex", hidden=8, n_heads=2, feedforward=8, epochs=1, device="cpu")
    return features, encoder.fit(features, driven_by(features.read(), PLANTED))


# Integrated gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["primal", "kernel"])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_integrated_gradients_of_ridge_are_distance_times_weight(
    solver: str, baseline: str, rng: np.random.Generator
) -> None:
    features = tokens_of(rng)
    encoder = ridge(features, driven_by(features.read(), 2), solver=solver)
    values = features.read().reshape(N, -1)
    found = integrated_gradients(encoder, features, ["s5", "s3"], [2, 0], baseline=baseline)  # type: ignore[arg-type]
    origin = values.mean(0) if baseline == "mean" else 0
    expected = (values[[5, 3]] - origin) * encoder.coefficients()[:, [0, 2]].sum(1)
    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 16, CHANNELS)
    np.testing.assert_allclose(found.reshape(2, -1), expected, atol=1e-4)


def test_bands_get_an_attribution_each(rng: np.random.Generator) -> None:
    spaces = {name: tokens_of(rng, uri=name) for name in ("a", "b")}
    encoder = RidgeEncoder(alphas=(1e-3,), cv=3).fit(spaces, driven_by(spaces["b"].read(), 2))
    found = integrated_gradients(encoder, spaces, ["s1"])
    assert isinstance(found, dict)
    parts = [encoder.predict(spaces, ["s1"], band=name)[0] for name in spaces]
    np.testing.assert_allclose([found[n].sum() for n in spaces], [p.sum() for p in parts], atol=1e-3)
    assert by_place(found["b"], GRID)[0].argmax() == 2 or by_place(found["b"], GRID)[0].argmin() == 2


@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_integrated_gradients_are_complete_for_attention(
    baseline: str, attending: tuple[Features, TransformerEncoder]
) -> None:
    features, encoder = attending
    found = integrated_gradients(encoder, features, ["s0", "s7"], [0, 2], baseline=baseline, n_steps=300)  # type: ignore[arg-type]
    assert isinstance(found, np.ndarray)
    mean = encoder.module_.mean0.numpy() if baseline == "mean" else 0
    nothing = Features.from_arrays(np.zeros((1, 16, CHANNELS)) + mean, ["none"], **features.attrs)
    difference = encoder.predict(features, ["s0", "s7"]) - encoder.predict(nothing)
    total = difference[:, [0, 2]].sum(1)
    np.testing.assert_allclose(found.sum((1, 2)), total, atol=2e-3 * np.abs(total).max())


def test_attention_and_attribution_agree_where_the_read_out_is_linear(rng: np.random.Generator) -> None:
    features = tokens_of(rng)
    encoder = TransformerEncoder("spatial", epochs=1, device="cpu").fit(features, driven_by(features.read(), PLANTED))
    with torch.no_grad():
        encoder.module_.routing.logits.copy_(torch.as_tensor(0.3 * rng.standard_normal((3, 16))))
    attention = encoder.attention(features).weights
    for neuroid in range(3):
        found = integrated_gradients(encoder, features, None, [neuroid])
        assert isinstance(found, np.ndarray)
        size = np.abs(by_place(found, GRID)).mean(0)
        assert agreement(attention[:1, [neuroid]], size[None, None])[0, 0] > 0.95


def test_an_ensemble_adds_up_its_members(planted: tuple[Features, RidgeEncoder], rng: np.random.Generator) -> None:
    features, first = planted
    responses = driven_by(features.read(), PLANTED)
    second = ridge(features, Recording(responses.values + rng.standard_normal((200, 3)), {"stimulus_id": ids(200)}))
    unseen = tokens_of(rng, 30)
    unseen = Features.from_arrays(unseen.read(), [f"t{i}" for i in range(30)], **features.attrs)
    fresh = Recording(driven_by(unseen.read(), PLANTED).values, {"stimulus_id": list(unseen.stimulus_ids)})
    members = {"first": first, "second": second}
    ensemble = Ensemble(members, temperature=1).fit(unseen, fresh)
    found = integrated_gradients(ensemble, features, ["s1"], [1], baseline="zero")
    expected = sum(
        weight[1] * m.coefficients()[:, 1] for weight, m in zip(ensemble.weights_, members.values(), strict=True)
    )
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found[0].ravel(), features.read([1]).ravel() * expected, atol=1e-4)
    with pytest.raises(InputError, match="its members"):
        deletion_curve(ensemble, features, np.zeros((1, *GRID)), ["s1"])


# Agreement and deletion ------------------------------------------------------------------------------------------


def test_agreement_is_rank_correlation_by_picture_and_query(rng: np.random.Generator) -> None:
    a = rng.random((5, 2, 8, 8))
    both = np.stack([np.exp(a[:, 0]), -a[:, 1]], 1)
    np.testing.assert_allclose(agreement(a, both), np.tile([1, -1], (5, 1)))
    unrelated = agreement(rng.random((50, 4, 8, 8)), rng.random((50, 4, 8, 8)))
    assert abs(unrelated.mean()) < 0.04
    assert np.isnan(agreement(a, np.ones_like(a))).all()
    with pytest.raises(ShapeError):
        agreement(a, a[:, :1])


def test_deleting_the_planted_token_first_takes_the_response_away(planted: tuple[Features, RidgeEncoder]) -> None:
    features, encoder = planted
    true, chosen = np.zeros((8, *GRID)), ids(8)
    true[:, PLANTED // 4, PLANTED % 4] = 1
    full = encoder.predict(features, chosen).sum(1)
    none = integrated_gradients(encoder, features, chosen)
    assert isinstance(none, np.ndarray)
    empty = full - none.sum((1, 2))
    first = deletion_curve(encoder, features, true, chosen, n_steps=16)
    last = deletion_curve(encoder, features, -true, chosen, n_steps=16)
    assert first.shape == (8, 17)
    np.testing.assert_allclose(first[:, 0], full, atol=1e-3)
    np.testing.assert_allclose(first[:, 1:], empty[:, None].repeat(16, 1), atol=0.05 * full.std())
    np.testing.assert_allclose(last[:, :-1], full[:, None].repeat(16, 1), atol=0.05 * full.std())
    inserted = deletion_curve(encoder, features, true, chosen, n_steps=16, insertion=True)
    np.testing.assert_allclose(inserted[:, 1], full, atol=0.05 * full.std())
    with pytest.raises(ShapeError, match="for 8 stimuli"):
        deletion_curve(encoder, features, true[:3], chosen)


# Grad-CAM --------------------------------------------------------------------------------------------------------


class Patches(nn.Module):
    """Each patch's mean colour, twice over, as a map (n, channel, rows, columns); then a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.copy = nn.AvgPool2d(8), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.copy(self.mean(torch.cat([images, images], 1))).mean((2, 3))


@pytest.fixture(scope="module")
def patches() -> FeatureExtractor:
    module = Patches()

    def preprocess(image: np.ndarray) -> dict[str, Tensor]:
        return {"images": torch.as_tensor(image).float().permute(2, 0, 1) / 255}

    backbone = Backbone(module, preprocess, lambda inputs: module(**inputs), "pixels", layout=TokenLayout())
    return FeatureExtractor(backbone, "test:patches", device="cpu")


def pictures(rng: np.random.Generator, n: int = N) -> np.ndarray:
    """Pictures of 4 x 4 even patches."""
    return rng.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


def features_of(extractor: FeatureExtractor, images: np.ndarray, layer: str, readout: str = "tokens") -> Features:
    values = extractor(images, [layer], readout)[layer]
    return Features.from_arrays(
        values, ids(len(images)), uri=extractor.uri, layer=layer, readout=readout, weights=extractor.weights
    )


def test_grad_cam_peaks_where_the_driving_token_is(patches: FeatureExtractor, rng: np.random.Generator) -> None:
    images = pictures(rng, 150)
    features = features_of(patches, images, "copy")
    encoder = ridge(features, driven_by(features.read(), PLANTED))
    dark = np.zeros((2, 32, 32, 3), np.uint8)
    dark[0, 16:24, 8:16] = 255
    dark[1] = rng.integers(100, 255, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    shallow = grad_cam(encoder, patches, features, dark, [0], layer="mean")
    exact = grad_cam(encoder, patches, features, dark, [0], layer="mean", method="hires_cam", batch_size=1)
    assert shallow.shape == (2, *GRID)
    # Grad-CAM goes by content: it is right where only the planted place has some.
    assert shallow[0].argmax() == PLANTED
    assert shallow[0].ravel()[PLANTED] > 10 * np.delete(shallow[0], PLANTED).max()
    assert [m.argmax() for m in exact] == [PLANTED, PLANTED]
    assert exact[1].ravel()[PLANTED] > 10 * np.delete(exact[1], PLANTED).max()


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_grad_cam_of_transformers_is_gradient_times_activation(
    library: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = save_timm(tmp_path / "m") if library == "timm" else save_dinov2(tmp_path / "m")
    extractor = FeatureExtractor.from_uri(f"{library}:{folder}", device="cpu")
    stem = "blocks" if library == "timm" else extractor.default_layer.rsplit(".", 1)[0]
    images = pictures(rng, 20)
    features = features_of(extractor, images, f"{stem}.1")
    encoder = ridge(features, driven_by(features.read(), PLANTED))
    found = grad_cam(encoder, extractor, features, images[:3], layer=f"{stem}.0")

    # The same by hand: the tokens of the earlier block are made leaves.
    module, kept = extractor.backbone.module, {}

    def leaf(block: nn.Module, inputs: object, output: object) -> object:
        first = output[0] if isinstance(output, tuple) else output
        kept["leaf"] = first.detach().requires_grad_()  # type: ignore[union-attr]
        return (kept["leaf"], *output[1:]) if isinstance(output, tuple) else kept["leaf"]

    def keep(block: nn.Module, inputs: object, output: object) -> None:
        kept["read"] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

    handles = [
        module.get_submodule(f"{stem}.0").register_forward_hook(leaf),
        module.get_submodule(f"{stem}.1").register_forward_hook(keep),
    ]
    batch = [extractor.prepare(image)[0] for image in images[:3]]
    extractor.backbone.forward({name: torch.stack([b[name] for b in batch]) for name in batch[0]})
    for handle in handles:
        handle.remove()
    skip = extractor.backbone.layout.n_prefix
    weights = torch.as_tensor(encoder.coefficients().sum(1)).float()
    (kept["read"][:, skip:].flatten(1) @ weights).sum().backward()
    gradient, activation = kept["leaf"].grad[:, skip:], kept["leaf"].detach()[:, skip:]
    expected = (gradient.mean(1, keepdim=True) * activation).sum(-1).clamp(min=0).reshape(3, *GRID)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * float(expected.max()))
    # Nothing is left behind in the model.
    again = extractor(images[:2], [f"{stem}.1"], "tokens")[f"{stem}.1"]
    np.testing.assert_allclose(again, features.read([0, 1]), rtol=1e-5, atol=1e-6)


def test_grad_cam_reads_embeddings_and_pooled_features_too(tmp_path: Path, rng: np.random.Generator) -> None:
    extractor = FeatureExtractor.from_uri(f"timm:{save_timm(tmp_path / 'm')}", device="cpu")
    images = pictures(rng, 20)
    for layer, readout in (("projected", "projected"), ("blocks.2", "pooled"), ("blocks.1", "cls")):
        features = features_of(extractor, images, layer, readout)
        encoder = ridge(features, driven_by(features.read()[:, None], 0))
        found = grad_cam(encoder, extractor, features, images[:2], layer="blocks.0")
        assert found.shape == (2, *GRID)
        assert found.max() > 0


# What is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_attributed_is_refused(
    planted: tuple[Features, RidgeEncoder], patches: FeatureExtractor, rng: np.random.Generator
) -> None:
    features, encoder = planted
    delayed = RidgeEncoder(alphas=(1.0,), cv=2, delays=[0, 1])
    recording = driven_by(features.read(), PLANTED)
    runs = np.repeat([0, 1], 100)
    delayed.fit(features, Recording(recording.values, recording.presentations.assign(run=runs), recording.neuroids))
    with pytest.raises(InputError, match="delays"):
        integrated_gradients(delayed, features)
    with pytest.raises(InputError, match="no neuroid"):
        integrated_gradients(encoder, features, ["s0"], [])
    with pytest.raises(InputError, match="among 3 neuroids"):
        integrated_gradients(encoder, features, ["s0"], [3])
    with pytest.raises(InputError, match="not fitted"):
        integrated_gradients(RidgeEncoder(), features)
    with pytest.raises(UnknownNameError, match="baseline"):
        integrated_gradients(encoder, features, ["s0"], baseline="blur")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="not those of the fit"):
        integrated_gradients(encoder, tokens_of(rng, uri="another"))
    with pytest.raises(ArtifactError, match="with these weights"):
        grad_cam(encoder, patches, features, pictures(rng, 1))


def test_grad_cam_refuses_layers_that_do_not_lead_to_the_features(
    patches: FeatureExtractor, rng: np.random.Generator
) -> None:
    images = pictures(rng, 30)
    features = features_of(patches, images, "mean")
    encoder = ridge(features, driven_by(features.read(), PLANTED))
    with pytest.raises(InputError, match="does not read from layer 'copy'"):
        grad_cam(encoder, patches, features, images[:1], layer="copy")
    with pytest.raises(InputError, match="no grid"):
        grad_cam(encoder, patches, features, images[:1], layer="output")
    with pytest.raises(UnknownNameError, match="layer"):
        grad_cam(encoder, patches, features, images[:1], layer="blocks.7")
    with pytest.raises(InputError, match="frame by frame"):
        grad_cam(encoder, patches, features, [images[:3]])
    features.attrs["reduction"] = "abc"
    reduced = ridge(features, driven_by(features.read(), PLANTED))
    with pytest.raises(InputError, match="reduced"):
        grad_cam(reduced, patches, features, images[:1])
