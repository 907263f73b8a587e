from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_data_config

from encoders.miniature import BACKBONE
from encoders.miniature.evaluate import CHANNELS, evaluate, normalise
from encoders.miniature.targets import PATCH, chromaticity, gabor_energy, patch_targets
from encoders.miniature.train import build, save, train
from recordings.errors import Cancelled
from recordings.miniature import CATEGORIES, Scenes, render


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    return timm.create_model(f"local-dir:{BACKBONE}", pretrained=True).eval()


def grating(frequency: float, angle: float, size: int = 64) -> np.ndarray:
    place = np.arange(size)
    phase = 2 * np.pi * frequency * (np.cos(angle) * place + np.sin(angle) * place[:, None])
    grey = np.rint(127 + 100 * np.cos(phase)).astype(np.uint8)
    return np.repeat(grey[None, :, :, None], 3, axis=-1)


def test_gabor_energy_prefers_its_own_grating() -> None:
    for k in range(4):
        image = grating(0.125, np.pi * k / 4)
        energy = {f: gabor_energy(image, f)[0, :, 20:44, 20:44].mean((1, 2)) for f in (0.08, 0.125, 0.25)}
        assert int(energy[0.125].argmax()) == k
        assert energy[0.125][k] > 10 * energy[0.125][(k + 2) % 4]
        assert energy[0.125][k] > 2 * max(energy[0.08][k], energy[0.25][k])
        steady = gabor_energy(image, 0.125)[0, k, 20:44, 20:44]
        assert steady.std() < 0.05 * steady.mean(), "energy does not depend on phase"


def test_a_flat_image_has_neither_energy_nor_colour() -> None:
    flat = np.full((1, 64, 64, 3), 90, np.uint8)
    assert gabor_energy(flat, 0.125).abs().max() < 1e-8
    assert chromaticity(flat).abs().max() < 1e-6


def test_patch_targets_follow_the_order_of_tokens() -> None:
    scenes = Scenes.sample(5, seed=1)
    pictures = render(scenes)
    targets = patch_targets(scenes, pictures)
    assert {name: tuple(values.shape) for name, values in targets.items()} == {
        "edges": (5, 64, 48),
        "colour": (5, 64, 12),
        "form": (5, 64, 20),
        "identity": (5, 64, 12),
    }
    for i in range(5):
        for row in range(8):
            for column in range(8):
                patch = np.s_[i, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                cover = targets["identity"][i, 8 * row + column]
                assert cover[scenes.category[i]] == pytest.approx(pictures.silhouette[patch].mean())
                assert cover.sum() == cover[scenes.category[i]]


def test_shipped_files_are_timms_own_and_small() -> None:
    files = {file.name: file for file in BACKBONE.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert sum(file.stat().st_size for file in files.values()) < 8e6
    assert {tensor.dtype for tensor in load_file(files["model.safetensors"]).values()} == {torch.float16}
    config = json.loads(files["config.json"].read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["label_names"] == list(CATEGORIES)
    card = files["README.md"].read_text()
    assert all(f"| {channel} |" in card for channel in CHANNELS)


def test_backbone_asks_for_its_own_preprocessing(backbone: torch.nn.Module) -> None:
    config = resolve_data_config({}, model=backbone)
    assert config["input_size"] == (3, 64, 64)
    assert tuple(config["mean"]) == tuple(config["std"]) == (0.5, 0.5, 0.5)
    assert config["crop_pct"] == 1.0


def test_backbone_names_objects_it_has_not_seen(backbone: torch.nn.Module) -> None:
    scenes = Scenes.sample(150, seed=0)
    with torch.inference_mode():
        named = backbone(normalise(render(scenes).image)).argmax(1).numpy()
    assert (named == scenes.category).mean() > 0.9


@pytest.mark.slow
def test_backbone_predicts_what_regions_encode_better_than_untrained(backbone: torch.nn.Module) -> None:
    trained, untrained = evaluate(backbone, 600, 200), evaluate(build(0).eval(), 600, 200)
    early, late = trained.scores["blocks.1"], trained.scores["blocks.5"]
    before = untrained.scores["blocks.1"]
    assert early["Gabor energy"] > before["Gabor energy"] + 0.05
    assert early["silhouette"] > before["silhouette"] + 0.1
    assert late["category"] > before["category"] + 0.5
    assert late["x"] > 0.95
    assert untrained.accuracy < 0.3


@pytest.mark.slow
def test_evaluation_finds_nothing_in_shuffled_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def shuffled(scenes: Scenes) -> object:
        return render(scenes[np.random.default_rng(0).permutation(len(scenes))])

    monkeypatch.setattr("encoders.miniature.evaluate.render", shuffled)
    scores = evaluate(build(0).eval(), 120, 80).scores["blocks.0"]
    assert max(abs(scores[name]) for name in ("hue_cos", "x", "y", "category")) < 0.35


@pytest.mark.slow
def test_training_repeats_itself() -> None:
    state = torch.random.get_rng_state()
    first, second = (train(3, 8, seed=5).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    start = build(5).state_dict()
    assert not torch.equal(first["blocks.5.mlp.fc1.weight"], start["blocks.5.mlp.fc1.weight"])
    with pytest.raises(Cancelled):
        train(3, 8, seed=5, stop=lambda: True)


@pytest.mark.slow
def test_training_learns_on_scenes_it_has_not_seen() -> None:
    losses: list[dict[str, float]] = []
    train(60, 16, seed=5, on_event=lambda event: losses.append(event.payload))
    # Every step brings new scenes: its loss is that of scenes never trained on.
    for name in ("colour", "form"):
        assert losses[-1][name] < 0.5 * losses[0][name]


def test_saved_model_loads_through_timm(tmp_path: Path) -> None:
    model = build(3).eval()
    save(model, tmp_path / "model", "# card\n")
    assert next(model.parameters()).dtype == torch.float32, "the model in hand keeps its precision"
    loaded = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    image = normalise(render(Scenes.sample(4)).image)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), model(image), atol=5e-3, rtol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
