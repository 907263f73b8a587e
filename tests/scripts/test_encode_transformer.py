"""``penfield encode`` on tokens: fit a transformer, weigh ensembles, and read out where queries look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

from encoders import FeatureExtractor, Features, TransformerEncoder, load_encoder
from encoders.attribution import integrated_gradients
from encoders.grad_cam import grad_cam
from recordings import Recording, Space, Stimuli, Subject

from ..encoders.tiny import save_open_clip, save_timm

IDS = [f"s{i:02d}" for i in range(60)]
TINY = ("--model", "transformer", "--epochs", 2, "--heads", 2, "--hidden", 8, "--feedforward", 8, "--device", "cpu")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """``subject/``: 60 pictures, and responses of two regions on a surface to the mean token of layer "one" of
    ``tokens.zarr`` (4 x 4 tokens); ``more.zarr``: layer "two"."""
    rng = np.random.default_rng(0)
    for store, layer in (("tokens", "one"), ("more", "two")):
        values = rng.standard_normal((60, 16, 8))
        Features.from_arrays(values, IDS, layer=layer, grid=[4, 4], readout="tokens").save(tmp_path / f"{store}.zarr")
    signal = 4 * Features.load(tmp_path / "tokens.zarr").read().mean(1) @ rng.standard_normal((8, 6))
    neuroids = pd.DataFrame(
        {"neuroid_id": [f"v{i}" for i in range(6)], "roi": ["A"] * 2 + ["B"] * 4, "hemisphere": [*"LRLLRR"]}
    )
    neuroids["vertex"] = np.arange(6)
    recording = Recording(
        signal + 0.5 * rng.standard_normal((60, 6)),
        {"stimulus_id": IDS},
        neuroids,
        space=Space.surface("fsaverage5", (10242, 10242)),
    )
    images = rng.integers(0, 255, (60, 16, 16, 3), dtype=np.uint8)
    stimuli = Stimuli.from_arrays(images, IDS, category=["cat", "dog", "car"] * 20)
    Subject("one", recording, stimuli).save(tmp_path / "subject")
    return tmp_path


def fit(penfield: Callable[..., Any], folder: Path, name: str, *options: object) -> dict[str, Any]:
    given = ("-f", folder / "tokens.zarr", "-r", folder / "subject", "--split", "stimulus:0.4")
    result = penfield("encode", "fit", *given, *options, "--out", folder / name, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(result.json)


@pytest.fixture
def fitted(penfield: Callable[..., Any], tokens: Path) -> Path:
    fit(penfield, tokens, "model", *TINY)
    return tokens / "model"


def test_options_reach_the_transformer(penfield: Callable[..., Any], tokens: Path) -> None:
    options = ("--routing", "vertex", "--layers", 2, "--self-attention", 1, "--learning-rate", "3e-3", "--clip", 0.5)
    options += ("--weight-decay", 0.1, "--dropout", 0.2, "--schedule", "step", "--batch-size", 8, "--patience", 2)
    options += ("--precision", "fp32", "--grid", "2x2", "--validation", 0.3, "--no-refit")
    answer = fit(penfield, tokens, "model", *TINY, *options, "-f", tokens / "more.zarr")
    encoder = load_encoder(tokens / "model")
    assert isinstance(encoder, TransformerEncoder)
    expected = {
        **{"routing": "vertex", "n_layers": 2, "n_self_attention": 1, "learning_rate": 3e-3, "clip": 0.5},
        **{"weight_decay": 0.1, "dropout": 0.2, "schedule": "step", "batch_size": 8, "patience": 2, "hidden": 8},
        **{"precision": "fp32", "validation": 0.3, "refit": False, "epochs": 2, "n_heads": 2, "feedforward": 8},
    }
    assert expected.items() <= vars(encoder).items() and tuple(encoder.grid or ()) == (2, 2)
    assert [source.name for source in encoder.sources_] == ["tokens/one", "more/two"]
    assert answer["stimuli"] == 36 and answer["routing"] == "vertex" and answer["neuroids"] == 6
    stores = ("-f", tokens / "more.zarr", "-f", tokens / "tokens.zarr")
    result = penfield("encode", "evaluate", "-m", tokens / "model", *stores, "-r", tokens / "subject", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["n_test"] == 24 and set(result.json["roi_interval"]) == {"A", "B"}


def test_keys_are_folded_and_delays_asked_for(penfield: Callable[..., Any], tokens: Path) -> None:
    whole = Subject.load(tokens / "subject").recording
    runs = np.repeat(np.arange(6), 10)
    Recording(whole.values, {"stimulus_id": IDS, "run": runs}, whole.neuroids).save(tokens / "movie.zarr")
    command = ("encode", "fit", "-f", tokens / "tokens.zarr", "-r", tokens / "movie.zarr", "--split", "run:5", *TINY)
    options = ("--fold-keys", "--delays", "0,1", "--haemodynamics", "query", "--out", tokens / "model")
    result = penfield(*command, *options)
    assert result.exit_code == 0, result.stderr
    encoder: Any = load_encoder(tokens / "model")
    assert encoder.fold_keys and tuple(encoder.delays) == (0, 1) and encoder.haemodynamics == "query"


def test_stopped_with_checkpoints_it_goes_on(penfield: Callable[..., Any], tokens: Path) -> None:
    from scripts.progress import Interruption

    fit(penfield, tokens, "whole", *TINY)
    looks = 0

    def twice(self: Interruption) -> bool:
        nonlocal looks
        looks += 1
        return looks == 4

    given = ("-f", tokens / "tokens.zarr", "-r", tokens / "subject", "--split", "stimulus:0.4", *TINY)
    command = ("encode", "fit", *given, "--checkpoints", tokens / "training", "--out", tokens / "again")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interruption, "__call__", twice)
        result = penfield(*command)
    assert result.exit_code != 0 and "to go on" in result.stderr
    assert any((tokens / "training").iterdir()) and not (tokens / "again").exists()
    assert penfield(*command).exit_code == 0
    features = Features.load(tokens / "tokens.zarr")
    whole, again = (load_encoder(tokens / name).predict(features) for name in ("whole", "again"))
    np.testing.assert_array_equal(whole, again)


def test_a_dry_run_writes_nothing(penfield: Callable[..., Any], tokens: Path) -> None:
    given = ("-f", tokens / "tokens.zarr", "-r", tokens / "subject", *TINY, "--checkpoints", tokens / "training")
    result = penfield("encode", "fit", *given, "--out", tokens / "model", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    estimate = result.json["estimate"]
    assert 0 < estimate["seconds"] < 20 and 0.05 < estimate["memory_gb"] < 10 and estimate["disk_gb"] < 0.01
    assert not (tokens / "model").exists() and not (tokens / "training").exists()


def test_ensembles_leave_a_third_set_for_the_score(penfield: Callable[..., Any], tokens: Path, fitted: Path) -> None:
    fit(penfield, tokens, "pooled", "--routing", "pooled")
    stores = ("-f", tokens / "tokens.zarr", "-r", tokens / "subject")
    members = ("-m", fitted, "-m", tokens / "pooled")
    result = penfield("encode", "ensemble", *members, *stores, "--out", tokens / "both", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["stimuli"] == 48 and result.json["stimuli_for_weights"] == 12
    assert result.json["weights"]["pooled"] > result.json["weights"]["model"]
    scores = {}
    for name in ("both", "pooled"):
        result = penfield("encode", "evaluate", "-m", tokens / name, *stores, "--json", "--shuffles", 0)
        scores[name] = result.json
    assert scores["both"]["n_test"] == 12 and scores["pooled"]["n_test"] == 24
    assert scores["both"]["center"] > 0.8


def test_where_queries_look(penfield: Callable[..., Any], tokens: Path, fitted: Path) -> None:
    given = ("-m", fitted, "-f", tokens / "tokens.zarr", "--json")
    places = ("--overlays", tokens / "overlays", "--stimuli", tokens / "subject", "--maps", tokens / "maps")
    options = ("--stimulus", "s03", "--stimulus", "s07", "-r", tokens / "subject")
    result = penfield("encode", "attend", *given, *options, *places, "--out", tokens / "a.npz")
    assert result.exit_code == 0, result.stderr
    queries = ["L A", "L B", "R A", "R B"]
    assert list(result.json["attention"]) == queries and result.json["overlays"] == 8
    assert set(result.json["attention"]["L A"]) == {"x", "y", "sigma", "floor", "r2", "entropy", "content"}
    stored = np.load(tokens / "a.npz")
    assert stored["weights"].shape == (2, 4, 4, 4) and list(stored["query"]) == queries
    np.testing.assert_allclose(stored["weights"].sum((2, 3)), 1, atol=1e-5)
    encoder: Any = load_encoder(fitted)
    expected = encoder.attention(Features.load(tokens / "tokens.zarr"), ["s03", "s07"]).weights
    np.testing.assert_allclose(stored["weights"], expected, atol=1e-6)
    assert Image.open(tokens / "overlays" / "s03" / "R_B.png").size == (16, 16)
    image: Any = nib.load(tokens / "maps" / "eccentricity.L.func.gii")
    assert np.isfinite(image.darrays[0].data).sum() <= 3 and image.darrays[0].data.shape == (10242,)

    result = penfield("encode", "attend", *given, "--query", "R A", "--per-head", "--out", tokens / "a.zarr")
    assert result.exit_code == 0, result.stderr
    stored = xr.open_zarr(tokens / "a.zarr")["weights"]
    assert stored.dims == ("stimulus_id", "query", "head", "row", "column") and stored.shape == (60, 1, 2, 4, 4)


def test_where_predictions_come_from(penfield: Callable[..., Any], tokens: Path, fitted: Path) -> None:
    given = ("-m", fitted, "-f", tokens / "tokens.zarr", "-r", tokens / "subject", "--roi", "A", "--stimulus", "s03")
    result = penfield("encode", "attribute", *given, "--out", tokens / "g.npz", "--json")
    assert result.exit_code == 0, result.stderr
    stored, features = np.load(tokens / "g.npz")["weights"], Features.load(tokens / "tokens.zarr")
    expected: Any = integrated_gradients(load_encoder(fitted), features, ["s03"], [0, 1])
    np.testing.assert_allclose(stored, expected.sum(-1).reshape(1, 4, 4), atol=1e-5)
    assert result.json["sum"] == pytest.approx(stored.sum(), abs=1e-4)

    fit(penfield, tokens, "pooled", "--routing", "pooled")
    both = ("-m", fitted, "-m", tokens / "pooled", "-f", tokens / "tokens.zarr", "-r", tokens / "subject")
    assert penfield("encode", "ensemble", *both, "--out", tokens / "both").exit_code == 0
    given = ("-m", tokens / "both", *given[2:])
    assert penfield("encode", "attribute", *given, "--out", tokens / "b.npz").exit_code == 0
    whole, ensemble = np.load(tokens / "b.npz")["weights"], load_encoder(tokens / "both")
    expected = integrated_gradients(ensemble, features, ["s03"], [0, 1])
    np.testing.assert_allclose(whole, expected.sum(-1).reshape(1, 4, 4), atol=1e-5)


def test_regions_are_contrasted_by_label(penfield: Callable[..., Any], tokens: Path, fitted: Path) -> None:
    given = ("-m", fitted, "-f", tokens / "tokens.zarr", "-r", tokens / "subject", "--json")
    kinds = ("--by", "category", "--of", "cat+dog,car", "--permutations", 99)
    result = penfield("encode", "contrast", *given, *kinds, "--maps", tokens / "maps")
    assert result.exit_code == 0, result.stderr
    assert result.json["stimuli"] == {"cat+dog": 40, "car": 20} and set(result.json["roi"]) == {"A", "B"}
    assert result.json["roi"]["B"]["n_neuroids"] == 4 and (tokens / "maps" / "d_prime.R.func.gii").is_file()


@pytest.mark.slow
def test_prompts_and_the_way_through_the_image_model(penfield: Callable[..., Any], tokens: Path) -> None:
    model, subject = save_timm(tokens / "vit"), tokens / "subject"
    store = ("--layer", "blocks.1", "--readout", "tokens", "--out", tokens / "vit.zarr")
    assert penfield("features", subject, "--model", f"timm:{model}", *store).exit_code == 0
    given = ("-f", tokens / "vit.zarr", "-r", subject)
    assert penfield("encode", "fit", *given, *TINY, "--out", tokens / "seen").exit_code == 0
    given = ("-m", tokens / "seen", *given)
    method = ("--method", "hires_cam", "--stimuli", subject, "--stimulus", "s05", "--stimulus", "s01", "--roi", "B")
    result = penfield("encode", "attribute", *given, *method, "--out", tokens / "cam.npz")
    assert result.exit_code == 0, result.stderr
    stored = np.load(tokens / "cam.npz")
    extractor, images = FeatureExtractor.from_uri(f"timm:{model}", device="cpu"), Subject.load(subject).stimuli
    features = Features.load(tokens / "vit.zarr")
    shown = images.select(["s05", "s01"])
    expected = grad_cam(load_encoder(tokens / "seen"), extractor, features, shown, [2, 3, 4, 5], method="hires_cam")
    np.testing.assert_allclose(stored["weights"], expected, rtol=1e-3, atol=1e-5)
    assert list(stored["stimulus_id"]) == ["s05", "s01"] and expected.shape == (2, 4, 4)

    clip = f"open_clip:{save_open_clip(tokens / 'clip')}"
    prompts = ("--prompts", "a photo of a face", "a photo of a house", "--prompt-model", clip, "-k", 5)
    result = penfield("encode", "contrast", *given, *prompts, "--permutations", 99, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["contrast"] == "a photo of a face > a photo of a house"
    assert set(result.json["stimuli"].values()) == {5} and set(result.json["roi"]) == {"A", "B"}


class TestBadInput:
    """Each is refused in one line that names the place, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (("--epochs", 2), "no option 'epochs'"),
            (("--heads", 2), "no option 'n_heads'"),
            (("--checkpoints", "training"), "no checkpoints"),
            (("--routing", "roi"), "--model transformer"),
            (("--routing", "cls"), "--readout cls"),
            (("--routing", "rio"), "rio"),
            ((*TINY, "--alphas", "1,2"), "no option 'alphas'"),
            ((*TINY, "--folds", "4"), "no option 'folds'"),
            ((*TINY, "--nuisance", "run"), "nuisance"),
            ((*TINY, "--grid", "16"), "16x16"),
            ((*TINY, "--grid", "0x4"), "16x16"),
            ((*TINY, "--schedule", "linear"), "linear"),
            ((*TINY, "--dropout", "1"), "--dropout"),
            ((*TINY, "--layer", "nine"), "There are: one"),
        ],
    )
    def test_options_that_do_not_fit(
        self, refused: Callable[..., str], tokens: Path, options: tuple[object, ...], says: str
    ) -> None:
        given = ("-f", tokens / "tokens.zarr", "-r", tokens / "subject")
        assert says in refused("encode", "fit", *given, *options, "--out", tokens / "model")
        assert not (tokens / "model").exists()

    def test_features_without_tokens(self, refused: Callable[..., str], world: Path) -> None:
        given = ("-f", world / "features.zarr", "--layer", "good", "-r", world / "subject")
        assert "--readout tokens" in refused("encode", "fit", *given, *TINY, "--out", world / "model")

    def test_members_that_have_seen_everything(
        self, penfield: Callable[..., Any], refused: Callable[..., str], tokens: Path
    ) -> None:
        fit(penfield, tokens, "model", "--routing", "pooled", "--split", "none")
        given = ("-f", tokens / "tokens.zarr", "-r", tokens / "subject")
        assert "--split" in refused("encode", "ensemble", "-m", tokens / "model", *given, "--out", tokens / "e")

    def test_readouts_that_do_not_fit(
        self, penfield: Callable[..., Any], refused: Callable[..., str], tokens: Path, fitted: Path
    ) -> None:
        fit(penfield, tokens, "pooled", "--routing", "pooled")
        given, out = ("-f", tokens / "tokens.zarr"), ("--out", tokens / "a.npz")
        subject = ("-r", tokens / "subject")
        assert "no attention" in refused("encode", "attend", "-m", tokens / "pooled", *given, *out)
        assert "There are: L A" in refused("encode", "attend", "-m", fitted, *given, *out, "--query", "V9")
        assert "'s99'" in refused("encode", "attend", "-m", fitted, *given, *out, "--stimulus", "s99")
        assert ".npz" in refused("encode", "attend", "-m", fitted, *given, "--out", tokens / "a.txt")
        assert "--stimuli" in refused("encode", "attend", "-m", fitted, *given, *out, "--overlays", tokens / "o")
        assert "--recording" in refused("encode", "attend", "-m", fitted, *given, *out, "--maps", tokens / "m")
        assert "--recording" in refused("encode", "attribute", "-m", fitted, *given, *out, "--roi", "A")
        grad_cam = ("--method", "grad_cam")
        assert "--stimuli" in refused("encode", "attribute", "-m", fitted, *given, *out, *grad_cam)
        contrast = ("encode", "contrast", "-m", fitted, *given, *subject)
        assert "--prompts" in refused(*contrast)
        assert "LABEL,LABEL" in refused(*contrast, "--by", "category", "--of", "cat")
        assert "cow" in refused(*contrast, "--by", "category", "--of", "cat,cow")
        assert not (tokens / "a.npz").exists()
