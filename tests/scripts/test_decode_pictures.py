"""``penfield decode fit --target``, ``image``, ``caption``, ``depth`` and ``evaluate --pictures``."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from decoders import Generator, Reconstructions
from decoders.evaluation import caption_cosine
from decoders.pictures import PRESETS, reconstructor
from recordings import Subject
from scripts.penfield import app

from ..encoders.tiny import save_bert
from ..studies.drawn_world import N_STIMULI, N_TEST, TARGETS, save_generator, save_subject

pytestmark = pytest.mark.filterwarnings("ignore:.*tokens and is cut")


def command(*arguments: object) -> dict[str, Any]:
    """A command that must succeed; what it prints as JSON."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``subject``, ``generator``, and ``decoder`` of all targets, each from the region of its name."""
    folder = tmp_path_factory.mktemp("drawn")
    subject = save_subject(folder, save_generator(folder))
    named = [part for target in TARGETS for part in ("--rois", f"{target}={target}")]
    given = ("--preset", "penfield", "--target", "tokens", *named, "--generator", folder / "generator")
    how = ("--no-rescale", "--components", 30, "--split", f"stimulus:{N_TEST}")
    found = command("decode", "fit", "-r", subject, *given, *how, "--out", folder / "decoder")
    assert found["stimuli"] == N_STIMULI - N_TEST and found["targets"]["tokens"]["features"] == 65 * 192
    assert all(row["rois"] == name for name, row in found["targets"].items())
    return folder


def image(drawn: Path, out: Path, *options: object) -> dict[str, Any]:
    return command("decode", "image", "-r", drawn / "subject", "-m", drawn / "decoder", "--out", out, *options)


@pytest.fixture(scope="module")
def pictures(drawn: Path) -> Path:
    found = image(drawn, drawn / "pictures", "--steps", 3, "--samples", 2)
    assert found["pictures"] == N_TEST and found["samples"] == 2
    assert found["strength"] == PRESETS["penfield"].strength
    return drawn / "pictures"


def test_the_folder_of_a_decoder_says_what_it_decodes(drawn: Path) -> None:
    sources = json.loads((drawn / "decoder" / "sources.json").read_text())
    assert sources["generator"] == str(drawn / "generator") and sources["depth"] == "truth"
    assert sources["fingerprint"] == Generator.from_pretrained(drawn / "generator", device="cpu").fingerprint


def test_held_out_stimuli_are_drawn(drawn: Path, pictures: Path) -> None:
    made = Reconstructions.load(pictures)
    assert made.images.shape == (N_TEST, 2, 64, 64, 3)
    assert not set(made.stimulus_ids) & set(made.settings["training_stimulus_ids"])
    names = {path.name for path in (pictures / "compared").iterdir()}
    assert names == {"shown", "z", "text", "start", "depth", "nearest"}
    page = (pictures / "report.html").read_text()
    assert page.count("<tr>") == N_TEST + 1 and "nearest training picture" in page and "decoded caption" in page


def test_planted_latents_are_found(drawn: Path, pictures: Path) -> None:
    decoded = Reconstructions.load(pictures / "compared" / "z")
    shown = Reconstructions.load(pictures / "compared" / "shown").images[:, 0]
    generator = Generator.from_pretrained(drawn / "generator", device="cpu")
    true = generator.decode_latents(generator.encode_images(shown))
    r = np.corrcoef(decoded.images.reshape(N_TEST, -1), true.reshape(N_TEST, -1))[:N_TEST, N_TEST:]
    assert (r < r.diagonal()).sum() / (N_TEST * (N_TEST - 1)) > 0.9


@pytest.mark.slow
def test_strength_is_chosen_on_training_stimuli(drawn: Path, tmp_path: Path) -> None:
    given = ("--strength", "auto", "--guidance", 1, "--steps", 2, "--tune-on", 6, "--stimulus", first(drawn))
    found = image(drawn, tmp_path / "out", *given)
    assert found["pictures"] == 1 and {row["guidance"] for row in found["tuning"]} == {1.0}
    best = max(found["tuning"], key=lambda row: row["criterion"])
    # Strength .3 of two steps would be none.
    assert [row["strength"] for row in found["tuning"]] == [0, 0.5, 0.8, 1]
    assert best["strength"] == found["strength"] and best["n"] == 6
    assert Reconstructions.load(tmp_path / "out").settings["preset"]["strength"] == found["strength"]


@pytest.mark.slow
def test_allow_long_reaches_the_trials_of_auto(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstructor, "LONG_SIZE", 64)
    monkeypatch.setattr(reconstructor, "LONG_BRAINS", 5)
    given = ("--strength", "auto", "--guidance", 1, "--steps", 2, "--tune-on", 3, "--stimulus", first(drawn))
    where = ("-r", drawn / "subject", "-m", drawn / "decoder", "--out", tmp_path / "out")
    result = CliRunner().invoke(app, [*map(str, ("decode", "image", *where, *given))])
    assert result.exit_code == 2 and "3 brains at 4 settings" in result.stderr
    assert not (tmp_path / "out").exists()
    assert len(image(drawn, tmp_path / "out", *given, "--allow-long")["tuning"]) == 4


def first(drawn: Path) -> str:
    """A stimulus that was held out."""
    decoder = json.loads((drawn / "decoder" / "targets" / "z" / "config.json").read_text())
    return next(i for i in Subject.load(drawn / "subject").stimuli.ids if i not in decoder["stimulus_ids"])


def test_previews_become_the_pictures(drawn: Path, tmp_path: Path) -> None:
    image(drawn, tmp_path / "out", "--steps", 3, "--preview-every", 1, "--stimulus", first(drawn))
    with Image.open(tmp_path / "out-previews" / "000000-00.png") as preview:
        # The last preview is of the last step.
        assert np.array_equal(np.asarray(preview), Reconstructions.load(tmp_path / "out").images[0, 0])


@pytest.mark.slow
def test_ctrl_c_leaves_previews_and_no_pictures(
    process: Callable[..., subprocess.Popen], drawn: Path, tmp_path: Path
) -> None:
    given = ("-r", drawn / "subject", "-m", drawn / "decoder", "--out", tmp_path / "out")
    running = process("decode", "image", *given, "--steps", 1000, "--preview-every", 1)
    previews = tmp_path / "out-previews"
    while running.poll() is None and not previews.is_dir():
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and "stopped during reconstruct" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out-previews"]
    # What there is is whole.
    for path in previews.iterdir():
        with Image.open(path) as file:
            file.load()


@pytest.mark.slow
def test_a_dry_run_of_a_picture_draws_none(drawn: Path, tmp_path: Path) -> None:
    found = image(drawn, tmp_path / "out", "--steps", 2, "--dry-run")
    assert 0 < found["estimate"]["seconds"] < 60 and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dry_run_of_a_fit_writes_nothing(drawn: Path, tmp_path: Path) -> None:
    given = ("--target", "z", "--generator", drawn / "generator", "--no-rescale", "--split", f"stimulus:{N_TEST}")
    found = command("decode", "fit", "-r", drawn / "subject", *given, "--out", tmp_path / "d", "--dry-run")
    assert 0 < found["estimate"]["seconds"] < 60 and found["estimate"]["disk_gb"] > 1e-5
    assert not any(tmp_path.iterdir())


def test_planted_tokens_become_words(drawn: Path) -> None:
    found = command("decode", "caption", "-r", drawn / "subject", "-m", drawn / "decoder")
    assert len(found["captions"]) == N_TEST
    scores = found["metrics"]["rouge1"]
    assert scores["value"] > 0.6
    said, shown = ([row[name] for row in found["captions"]] for name in ("caption", "shown"))
    others = [len({*a.split()} & {*b.split()}) for a, b in zip(said, [*shown[1:], shown[0]], strict=True)]
    own = [len({*a.split()} & {*b.split()}) for a, b in zip(said, shown, strict=True)]
    assert sum(own) > sum(others)


def test_planted_depth_is_written(drawn: Path, tmp_path: Path) -> None:
    given = ("decode", "depth", "-r", drawn / "subject", "-m", drawn / "decoder")
    found = command(*given, "--out", tmp_path / "png")
    assert found["correlation"]["value"] > 0.6 and found["stimuli"] == N_TEST
    command(*given, "--out", tmp_path / "npy", "--format", "npy")
    about = json.loads((tmp_path / "png" / "depth.json").read_text())
    with Image.open(tmp_path / "png" / "000003.png") as file:
        deep = np.asarray(file).astype(np.float64)
    values = about["low"] + deep / 65535 * (about["high"] - about["low"])
    step = (about["high"] - about["low"]) / 65535
    assert np.abs(values - np.load(tmp_path / "npy" / "000003.npy")).max() <= step


def test_pictures_are_scored(penfield: Callable[..., Any], drawn: Path, pictures: Path, tmp_path: Path) -> None:
    uri = f"transformers:{save_bert(tmp_path / 'bert')}"
    given = ("decode", "evaluate", "--pictures", pictures, "--stimuli", drawn / "subject", "--shuffles", 20)
    result = penfield(*given, "--by", "category", "--published", "--text-network", uri, "--json")
    found = result.json
    assert found["networks"] == ["miniature:backbone"] and found["n_samples"] == 2
    two_way = found["metrics"]["two_way.miniature:backbone.reconstruction_fixed"]
    assert two_way["chance"] == 0.5 and abs(two_way["shuffled"] - 0.5) < 0.1
    assert "two_way.miniature:backbone.reconstruction_fixed.across_category" in found["metrics"]
    assert {"pixcorr", "ssim"} <= set(found["nearest_training"]) & set(found["over_nearest_training"])
    # Chance is 1 of 12; the planted embedding is found by its features.
    assert found["metrics"]["retrieval.image"]["value"] > 0.5 and "caption.rouge1" in found["metrics"]
    made, shown = Reconstructions.load(pictures), Subject.load(drawn / "subject").stimuli
    decoded = [made.settings["captions"][i] for i in made.stimulus_ids]
    cosine = found["metrics"][f"caption.cosine.{uri}"]
    expected = caption_cosine(decoded, shown.select(made.stimulus_ids).captions, uri)
    assert cosine["value"] == pytest.approx(expected.value) and cosine["value"] > cosine["shuffled"]
    # Bars of the library that loads a network are not the command's own words.
    assert "Loading weights" not in result.stderr
    assert "not measured here" in found["published_note"]
    assert found["published"]["MindEye1, in Scotti et al. 2023, arXiv 2305.18274"]["PixCorr"] == 0.309


@pytest.mark.slow
def test_a_text_network_without_captions_says_so(drawn: Path, pictures: Path, tmp_path: Path) -> None:
    mute = shutil.copytree(pictures, tmp_path / "mute") / "reconstructions.json"
    about = json.loads(mute.read_text())
    about["settings"]["captions"] = {}
    mute.write_text(json.dumps(about))
    given = (
        "--pictures",
        mute.parent,
        "--stimuli",
        drawn / "subject",
        "--shuffles",
        5,
        "--text-network",
        "open_clip:x",
    )
    found = command("decode", "evaluate", *given)
    assert "--target tokens" in found["not_computed"]["caption.cosine.open_clip:x"]


@pytest.mark.slow
def test_categories_are_left_out_of_the_fit_and_drawn_alone(drawn: Path, tmp_path: Path) -> None:
    given = ("--target", "z", "--generator", drawn / "generator", "--no-rescale")
    command("decode", "fit", "-r", drawn / "subject", *given, "--split", "group:vehicles", "--out", tmp_path / "d")
    how = ("--preset", "takagi-cvpr", "--strength", 0, "--steps", 1, "--samples", 1)
    command("decode", "fit", "-r", drawn / "subject", *given, "--target", "c", "--split", "category:2",
            "--out", tmp_path / "two")  # fmt: skip
    command("decode", "image", "-r", drawn / "subject", "-m", tmp_path / "two", *how, "--out", tmp_path / "p")
    shown = Subject.load(drawn / "subject").stimuli
    made = Reconstructions.load(tmp_path / "p")
    tested, trained = (
        set(shown.select(ids).table["category"]) for ids in (made.stimulus_ids, made.settings["training_stimulus_ids"])
    )
    assert len(tested) == 2 and not tested & trained
    fitted = json.loads((tmp_path / "d" / "targets" / "z" / "config.json").read_text())["stimulus_ids"]
    assert set(shown.select(fitted).table["group"]) == set(shown.table["group"]) - {"vehicles"}


class TestBadInput:
    """Each is refused in one line, and nothing is written."""

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (("--preset", "best"), "no preset 'best'"),
            (("--target", "z", "--rois", "z"), "TARGET=ROI"),
            (("--target", "z", "--split", "category:spoon"), "no category 'spoon' was shown"),
            (("--target", "z", "--split", "weight:3"), "'weight'"),
            (("--target", "z", "--rois", "z=V9"), "no ROI 'V9'"),
            (("--target", "z", "--rois", "c=c"), "no target"),
            (("--target", "z", "--rois", "z=z", "--rois", "z=c"), "twice"),
            (("--no-rescale",), "--target"),
            (("--target", "z", "--features", "f.zarr"), "--features"),
            (("--target", "z", "--generator", "nobody/nothing"), "penfield models fetch"),
        ],
    )
    def test_fits(
        self, refused: Callable[..., str], drawn: Path, tmp_path: Path, given: tuple[str, ...], says: str
    ) -> None:
        assert says in refused("decode", "fit", "-r", drawn / "subject", *given, "--out", tmp_path / "d")
        assert not any(tmp_path.iterdir())

    def test_a_recording_without_stimuli(self, refused: Callable[..., str], drawn: Path, tmp_path: Path) -> None:
        given = ("-r", drawn / "subject" / "recording.zarr", "--target", "z", "--out", tmp_path / "d")
        assert "--stimuli" in refused("decode", "fit", *given)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (("--preset", "takagi-gan"), "not features. Fit it with --target features"),
            (("--preset", "takagi-nobody"), "takagi-cvpr"),
            (("--strength", "much"), "neither a number nor auto"),
            (("--strength", "2"), "strength 2"),
            (("--stimulus", "nothing"), "'nothing'"),
            (("--strength", "auto", "--dry-run"), "auto"),
        ],
    )
    def test_pictures(
        self, refused: Callable[..., str], drawn: Path, tmp_path: Path, given: tuple[str, ...], says: str
    ) -> None:
        line = refused(
            "decode", "image", "-r", drawn / "subject", "-m", drawn / "decoder", *given, "--out", tmp_path / "p"
        )
        assert says in line and not any(tmp_path.iterdir())

    def test_a_generator_of_another_autoencoder(self, refused: Callable[..., str], drawn: Path, tmp_path: Path) -> None:
        other = save_generator(tmp_path, seed=1)
        given = ("-r", drawn / "subject", "-m", drawn / "decoder", "--generator", other, "--out", tmp_path / "p")
        assert "its vae is not the one" in refused("decode", "image", *given)

    def test_a_decoder_without_sources(self, refused: Callable[..., str], drawn: Path, tmp_path: Path) -> None:
        shutil.copytree(drawn / "decoder", tmp_path / "decoder")
        (tmp_path / "decoder" / "sources.json").unlink()
        given = ("-r", drawn / "subject", "-m", tmp_path / "decoder")
        assert "sources.json" in refused("decode", "caption", *given)

    def test_pictures_without_stimuli(self, refused: Callable[..., str], pictures: Path) -> None:
        assert "--stimuli" in refused("decode", "evaluate", "--pictures", pictures)

    def test_nothing_to_evaluate(self, refused: Callable[..., str]) -> None:
        assert "--recording" in refused("decode", "evaluate")

    def test_a_text_network_without_pictures(self, refused: Callable[..., str], drawn: Path) -> None:
        given = ("-r", drawn / "subject", "--text-network", "open_clip:x")
        assert "--pictures" in refused("decode", "evaluate", *given)

    def test_a_column_that_is_none(self, refused: Callable[..., str], drawn: Path, pictures: Path) -> None:
        given = ("--pictures", pictures, "--stimuli", drawn / "subject", "--by", "weight")
        assert "'weight'" in refused("decode", "evaluate", *given)
