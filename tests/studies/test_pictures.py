"""Pictures as a study's question, what a decoder's folder brings with it, and drawings that are broken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from decoders import Generator, Reconstructions
from decoders.pictures import PRESETS
from recordings import Recording, Subject
from recordings.errors import Cancelled, FormatError, InputError, RepetitionError, UnknownNameError
from recordings.events import Event
from studies.decoding import held_out_average
from studies.pictures.drawing import Drawing, reconstruct
from studies.pictures.fitting import PictureDecoder, fit_brain_decoder
from studies.pictures.scores import decode_depth, evaluate_reconstructions
from studies.pictures.targets import Sources, check_targets, find_rois, targets_of
from studies.run import run
from studies.study import Study, training_part
from studies.work import Work

from ..decoders.transformers_models import save_blip, save_dpt
from .drawn_world import N_STIMULI, N_TEST, save_generator, save_subject

pytestmark = pytest.mark.filterwarnings("ignore:.*tokens and is cut")

STUDY = """
name = "drawn"
out = "results"
[recording]
path = "subject"
[split]
test = 12
[[reconstruct]]
name = "words"
preset = "takagi-cvpr"
generator = "generator"
rescale = false
steps = 2
samples = 1
guidance = 1
by = "category"
shuffles = 20
text_networks = ["open_clip:absent"]
[reconstruct.rois]
z = ["z"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``subject`` and ``generator``."""
    folder = tmp_path_factory.mktemp("drawn")
    save_subject(folder, save_generator(folder))
    return folder


@pytest.fixture(scope="module")
def fitted(place: Path) -> Path:
    """A decoder of latents and text."""
    subject = Subject.load(place / "subject")
    rois = {"z": ["z"], "c": ["c"]}
    train = training_part(subject.recording, f"stimulus:{N_TEST}", 0)
    fit_brain_decoder(train, subject.stimuli, rois, Sources(str(place / "generator")), place / "fitted", rescale=False)
    return place / "fitted"


@pytest.fixture(scope="module")
def study(place: Path) -> Study:
    (place / "study.toml").write_text(STUDY)
    study = Study.load(place / "study.toml")
    run(study)
    return study


def test_a_study_holds_pictures_scores_and_page(study: Study) -> None:
    found = json.loads((study.out / "results.json").read_text())["reconstruct.words"]
    assert found["pictures"] == N_TEST and found["decoder"]["targets"]["z"]["rois"] == "z"
    # The study names no region of c, and the recording does not know that of the preset.
    assert found["decoder"]["targets"]["c"]["rois"] == "all" and found["notes"] == [
        "c: all neuroids, since the recording has no region ventral"
    ]
    # Words were not decoded, and the study says so rather than leave out what was asked.
    assert "--target tokens" in found["not_computed"]["caption.cosine.open_clip:absent"]
    table = pd.read_csv(study.out / "results.csv").set_index("metric")
    assert table.loc["pixcorr", "r"] == pytest.approx(found["metrics"]["pixcorr"]["value"], rel=1e-5)
    assert set(table["model"]) == {"reconstruct"} and set(table["n"]) == {N_TEST}
    page = (study.out / "report.html").read_text()
    assert 'id="reconstruct-words"' in page and "text only" in page and "told apart, words" in page
    assert len(Reconstructions.load(study.out / "reconstruct" / "words" / "pictures")) == N_TEST


def test_a_study_file_comes_back_as_it_was(study: Study) -> None:
    assert Study.load(study.out / "study.toml") == study
    assert study.reconstruct[0].rois == {"z": ("z",)} and study.reconstruct[0].text_networks == ("open_clip:absent",)
    assert Path(study.reconstruct[0].generator).is_absolute()


def test_a_second_run_makes_nothing_again(study: Study) -> None:
    files = [*study.out.rglob("*.png"), *study.out.rglob("*.safetensors")]
    before = {file: file.stat().st_mtime_ns for file in files}
    run(study)
    assert before and {file: file.stat().st_mtime_ns for file in files} == before


@pytest.mark.slow
def test_an_interrupted_study_goes_on_from_the_fitted_decoder(study: Study, tmp_path: Path) -> None:
    again = study.model_copy(update={"out": tmp_path / "again"})
    seen: list[Event] = []
    with pytest.raises(Cancelled):
        run(again, on_event=seen.append, stop=lambda: bool(seen) and seen[-1].stage == "reconstruct")
    place = again.out / "reconstruct" / "words"
    weights = place / "fitted" / "model" / "targets" / "z" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert not (place / "pictures").exists() and not (again.out / "results.json").exists()
    answer = run(again)["reconstruct.words"]
    assert weights.stat().st_mtime_ns == before
    assert answer == json.loads((study.out / "results.json").read_text())["reconstruct.words"]


def test_pictures_that_changed_are_drawn_anew(place: Path, study: Study) -> None:
    before = Work(study, None, None, None).fingerprint
    assert Work(study, None, None, None).fingerprint == before
    subject = Subject.load(place / "subject")
    shown = [subject.stimuli.load(row) for row in range(len(subject.stimuli))]
    other = Work(study, None, None, None)
    other.stimuli = type(subject.stimuli).from_arrays(255 - np.stack(shown), subject.stimuli.ids)
    assert other.fingerprint != before


@pytest.mark.parametrize(
    "stage",
    ["z: decode", "reconstruct", pytest.param("choose strength", marks=pytest.mark.slow)],
)
def test_a_drawing_that_is_stopped_leaves_nothing(place: Path, fitted: Path, tmp_path: Path, stage: str) -> None:
    subject, seen = Subject.load(place / "subject"), list[Event]()
    strength: Any = "auto" if stage == "choose strength" else 0.5
    drawing = Drawing("takagi-cvpr", strength, guidance=1, steps=2, samples=1, tuned=4, preview_every=1)
    with pytest.raises(Cancelled):
        reconstruct(
            fitted,
            subject.recording,
            subject.stimuli,
            tmp_path / "out",
            drawing,
            on_event=seen.append,
            stop=lambda: bool(seen) and seen[-1].stage == stage,
        )
    assert seen[-1].stage == stage
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_auto_is_refused_where_nothing_is_left_to_learn_from(place: Path, fitted: Path, tmp_path: Path) -> None:
    subject = Subject.load(place / "subject")
    unseen = held_out_average(PictureDecoder.load(fitted).decoder, subject.recording)
    drawing = Drawing("takagi-cvpr", strength="auto")
    with pytest.raises(RepetitionError, match="none of them"):
        reconstruct(fitted, unseen, subject.stimuli, tmp_path / "out", drawing)
    with pytest.raises(InputError, match="what was shown"):
        reconstruct(fitted, unseen, None, tmp_path / "out", drawing)


def test_pictures_without_stimuli_have_no_comparison_with_them(place: Path, fitted: Path, tmp_path: Path) -> None:
    recording, drawing = Subject.load(place / "subject").recording, Drawing("takagi-cvpr", steps=2, samples=1)
    reconstruct(fitted, recording, None, tmp_path / "out", drawing)
    assert {path.name for path in (tmp_path / "out" / "compared").iterdir()} == {"z", "text"}
    assert "shown</th>" not in (tmp_path / "out" / "report.html").read_text()


def test_responses_to_other_pictures_tell_nothing(place: Path, tmp_path: Path) -> None:
    subject = Subject.load(place / "subject")
    shuffled = np.random.default_rng(0).permutation(subject.recording.stimulus_ids[:N_STIMULI])
    wrong = Recording(subject.recording.read(), {"stimulus_id": np.tile(shuffled, 2)}, subject.recording.neuroids)
    train, sources = training_part(wrong, f"stimulus:{N_TEST}", 0), Sources(str(place / "generator"))
    fit_brain_decoder(train, subject.stimuli, {"z": None}, sources, tmp_path / "fitted", rescale=False)
    test = held_out_average(PictureDecoder.load(tmp_path / "fitted").decoder, wrong)
    decoded = PictureDecoder.load(tmp_path / "fitted").decoder.predict(test)["z"]
    generator = Generator.from_pretrained(place / "generator", device="cpu")
    shown = np.stack(list(subject.stimuli.select(list(test.stimulus_ids))))
    true = generator.encode_images(shown).reshape(N_TEST, -1)
    r = np.corrcoef(decoded - decoded.mean(0), true - true.mean(0))[:N_TEST, N_TEST:]
    assert abs((r < r.diagonal()).sum() / (N_TEST * (N_TEST - 1)) - 0.5) < 0.25


@pytest.mark.slow
def test_a_folder_without_training_pictures_has_no_baseline(place: Path, fitted: Path, tmp_path: Path) -> None:
    subject, drawing = Subject.load(place / "subject"), Drawing("takagi-cvpr", strength=0, steps=1, samples=1)
    reconstruct(fitted, subject.recording, subject.stimuli, tmp_path / "out", drawing)
    made = Reconstructions.load(tmp_path / "out")
    found = evaluate_reconstructions(tmp_path / "out", subject.stimuli.select(made.stimulus_ids), n_permutations=5)
    assert "nearest_training" not in found and "training" in found["not_computed"]["nearest_training"]


class TestTargets:
    def test_presets_need_them(self) -> None:
        assert targets_of(PRESETS["penfield"]) == ["z", "c", "depth", "embedding"]
        assert targets_of(PRESETS["takagi-depth"]) == ["features", "tokens", "depth"]

    def test_names(self) -> None:
        assert check_targets(["z", "c", "z"]) == ["z", "c"]
        with pytest.raises(UnknownNameError, match="'y'"):
            check_targets(["y"])

    def test_regions(self) -> None:
        recording = Recording(
            np.zeros((2, 3)),
            {"stimulus_id": ["a", "b"]},
            pd.DataFrame({"neuroid_id": list("xyz"), "roi": ["early", "ventral", "V1"]}),
        )
        preset = PRESETS["takagi-cvpr"]
        assert find_rois(recording, ["z", "c"], {"c": ["V1"]}, preset) == ({"z": ["early"], "c": ["V1"]}, [])
        rois, notes = find_rois(recording, ["tokens"], {}, PRESETS["takagi-text"])
        assert rois == {"tokens": None} and "midventral" in notes[0] and "early" not in notes[0]

    def test_a_study_refuses_numbers_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "study.toml").write_text(STUDY.replace("guidance = 1", 'guidance = "much"'))
        with pytest.raises(FormatError, match="guidance"):
            Study.load(tmp_path / "study.toml")


@pytest.mark.slow
def test_the_inputs_of_takagi_depth_go_through_their_own_networks(place: Path, tmp_path: Path) -> None:
    subject = Subject.load(place / "subject")
    sources = Sources(
        str(save_generator(tmp_path, sees_depth=True)),
        captioner=str(save_blip(tmp_path / "blip")),
        depth=str(_lifted(save_dpt(tmp_path / "dpt"))),
        layers=("blocks.1",),
    )
    train = training_part(subject.recording, f"stimulus:{N_TEST}", 0)
    rois = dict.fromkeys(["features", "tokens", "depth"])
    found = fit_brain_decoder(train, subject.stimuli, rois, sources, tmp_path / "d", components=20, rescale=False)
    layers = [f"depth.encoder.layer.{k}" for k in range(4)]
    assert list(found["targets"]) == [*layers, "tokens", "features.blocks.1"]
    one = held_out_average(PictureDecoder.load(tmp_path / "d").decoder, subject.recording).stimulus_ids[:2]
    drawing = Drawing("takagi-depth", steps=2, samples=1)
    reconstruct(
        tmp_path / "d", subject.recording, subject.stimuli, tmp_path / "out", drawing, stimulus_ids=list(map(str, one))
    )
    made = Reconstructions.load(tmp_path / "out")
    assert made.settings["preset"]["depth"] == "depth2img" and len(made.settings["captions"]) == 2
    assert {path.name for path in (tmp_path / "out" / "compared").iterdir()} == {"shown", "image", "nearest"}
    depth = decode_depth(tmp_path / "d", subject.recording, tmp_path / "depth", subject.stimuli)
    assert depth["height"] == depth["width"] and len(list((tmp_path / "depth").glob("*.png"))) == N_TEST


def _lifted(dpt: Path) -> Path:
    """Untrained, most of what its head puts out is cut off at 0: lift it above that."""
    weights = load_file(dpt / "model.safetensors")
    weights["head.head.4.bias"] += 1000
    save_file(weights, dpt / "model.safetensors")
    return dpt
