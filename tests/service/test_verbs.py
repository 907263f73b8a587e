from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from recordings.errors import ArtifactError, FormatError, InputError, UnknownNameError
from service.errors import ConflictError
from service.jobs.worker import carry_out
from service.verbs import VERBS, Reference, Task, parse
from service.verbs.publish import publish_model, published_from

DATA = "data:0123456789abcdef"
# Of the command line alone: where results go, which the server decides, and how they are shown.
OWN = {"out", "overwrite", "dry_run", "json", "device", "help", "install_completion", "show_completion"}
# Options that are said otherwise, or that belong to the server.
OTHERWISE = {
    "encode fit": {"checkpoints"},
    "import": None,
    "run": {"on", "workers", "job"},
}


def task(tmp_path, **places):
    named = {reference: Path(path) for reference, path in places.items()}
    return Task("0123456789abcdef", tmp_path / "part", named, tmp_path / "models", {}, "cpu")


def options_of(verb):
    from scripts.penfield import app

    command = typer.main.get_command(app)
    for part in verb.split():
        command = command.get_command(typer.Context(command), part)
    named = set()
    for parameter in command.params:
        longest = max((o.lstrip("-") for o in parameter.opts), key=len)
        named.add(longest.replace("-", "_"))
    return named - OWN


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("import", "publish")])
def test_arguments_are_the_options_of_the_command(verb):
    assert set(VERBS[verb].model_fields) == options_of(verb) - (OTHERWISE.get(verb) or set())


def test_every_argument_is_explained():
    for verb in VERBS.values():
        assert verb.__doc__ and verb.run.__doc__
        for name, field in verb.model_fields.items():
            assert field.description, f"{verb.name}: {name}"


@pytest.mark.parametrize(
    "text", [DATA, f"{DATA}/a/b.zarr", "job:0123456789abcdef/subject-01", "model:lab/a@2", "model:a"]
)
def test_references(text):
    assert Reference(text) == text and Reference(text).root + f"/{Reference(text).inside}".rstrip("/") == text


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "data:x",
        f"{DATA}/../x",
        f"{DATA}/",
        f"{DATA}//etc",
        f"{DATA}/.hidden",
        "model:../x",
        "model:/x",
        "job:0123456789ABCDEF",
        "subject-01",
        f"{DATA}\n",
        "",
    ],
)
def test_what_is_no_reference(text):
    with pytest.raises(ValueError, match="no reference"):
        Reference(text)


@pytest.mark.parametrize(
    "model",
    ["python:os:system", "untrained:python:os:system", "timm:/etc/x", "../x", "~/x", DATA, "timm:a/../../b", "."],
)
def test_models_that_are_code_or_files_are_refused(model):
    with pytest.raises(InputError):
        parse("features", {"stimuli": DATA, "model": model})


@pytest.mark.parametrize(
    "model",
    ["timm:vit_base_patch14_dinov2.lvd142m", "open_clip:ViT-B-32/laion2b_s34b_b79k#text", "untrained:timm:a@main"],
)
def test_names_of_models_pass(model):
    assert parse("features", {"stimuli": DATA, "model": model}).model == model


def test_errors_name_the_argument():
    with pytest.raises(UnknownNameError, match="encode predict: modle"):
        parse("encode predict", {"modle": "model:a", "model": "model:a", "features": [DATA]})
    with pytest.raises(InputError, match="simulate: scenes"):
        parse("simulate", {"scenes": 0})
    with pytest.raises(UnknownNameError, match="no verb"):
        parse("serve", {})


def test_options_of_formats_are_checked():
    asked = {"format": "nifti", "source": DATA}
    verb = parse("import", {**asked, "options": {"mask": f"{DATA}/mask.nii.gz", "rois": {"V1": f"{DATA}/v1.nii"}}})
    assert sorted(verb.references()) == [DATA, f"{DATA}/mask.nii.gz", f"{DATA}/v1.nii"]
    for options in ({"mask": "/etc/passwd"}, {"rois": {"V1": "a.nii"}}, {"no": 1}, {"mask": f"{DATA}/../x"}):
        with pytest.raises(InputError):
            parse("import", {**asked, "options": options})
    with pytest.raises(InputError, match="outside"):
        parse("import", {"format": "bids", "source": DATA, "options": {"subject": "../../x", "task": "t"}})


STUDY = {
    "name": "s",
    "recording": {"path": DATA},
    "features": [{"name": "a", "model": "miniature:backbone"}],
    "encode": [{"name": "e", "features": ["a"]}],
}


def test_studies_are_checked_when_they_are_asked_for():
    assert list(parse("run", {"study": STUDY}).references()) == [DATA]
    assert list(parse("run", {"study": f"{DATA}/study.toml"}).references()) == [f"{DATA}/study.toml"]
    wrong = [
        {"recording": {"path": "/data"}},
        {"recording": {"path": DATA, "stimuli": "../x"}},
        {"features": [{"name": "a", "model": "python:os:system"}]},
        {"features": [{"name": "a", "path": "/data"}]},
        {"reconstruct": [{"name": "r", "generator": "/models/own"}]},
        {"no": 1},
    ]
    for change in wrong:
        with pytest.raises(InputError):
            parse("run", {"study": {**STUDY, **change}})


@pytest.mark.parametrize("place", ["/etc", "../other"])
def test_study_files_stay_inside_their_upload(tmp_path, place):
    (tmp_path / "up").mkdir()
    text = f'name = "s"\nout = "o"\nrecording = {{ path = "{place}" }}\n'
    text += '[[features]]\nname = "a"\nmodel = "miniature:backbone"\n[[encode]]\nname = "e"\nfeatures = ["a"]\n'
    (tmp_path / "up" / "study.toml").write_text(text)
    verb = parse("run", {"study": f"{DATA}/study.toml"})
    with pytest.raises(InputError, match="out of reach"):
        verb.run(task(tmp_path, **{f"{DATA}/study.toml": tmp_path / "up"}))


def test_paths_stay_inside_their_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to("/etc")
    given = task(tmp_path, **{f"{DATA}/link": tmp_path / "root", f"{DATA}/none": tmp_path / "root"})
    for text in (f"{DATA}/link", f"{DATA}/none"):
        with pytest.raises(FormatError):
            given.path(Reference(text))


def model_in(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"kind": "RidgeEncoder"}')
    return folder


def test_publishing_gives_versions(tmp_path):
    source, models = model_in(tmp_path / "fit"), tmp_path / "models"
    terms = {"job": "one", "sources": [DATA]}
    assert [publish_model(source, models, "lab/a", {"job": job}) for job in ("zero", "two")] == [1, 2]
    assert publish_model(source, models, "lab/a", terms) == publish_model(source, models, "lab/a", terms) == 3
    assert sorted(p.name for p in (models / "lab" / "a").iterdir()) == ["1", "2", "3"]
    assert json.loads((models / "lab" / "a" / "3" / "terms.json").read_text()) == terms
    assert list(published_from(models, DATA)) == [models / "lab" / "a" / "3"]
    model_in(models / "plain")
    for name in ("plain", "plain/inner", "lab"):
        with pytest.raises(ConflictError):
            publish_model(source, models, name, terms)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError):
        publish_model(tmp_path / "empty", models, "b", terms)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b/c/d", "a/2", "", "a b", "."])
def test_names_to_publish_under(name):
    with pytest.raises(InputError):
        parse("publish", {"model": "job:0123456789abcdef", "to": name})


def spec(tmp_path, verb, arguments, **places):
    folder = tmp_path / "jobs" / "0123456789abcdef"
    folder.mkdir(parents=True, exist_ok=True)
    named = {reference: str(path) for reference, path in places.items()}
    about = {"id": folder.name, "folder": str(folder), "models": str(tmp_path / "models"), "device": "cpu"}
    return {**about, "verb": verb, "arguments": arguments, "places": named, "terms": {"sources": []}}


def test_worker_publishes_and_finishes_once(tmp_path):
    source = model_in(tmp_path / "fit")
    asked = spec(tmp_path, "publish", {"model": "job:00000000000000ff", "to": "a"}, **{"job:00000000000000ff": source})
    events = []
    for _ in range(2):
        assert carry_out(asked, events.append, lambda: False) == {"end": "done"}
    folder = Path(asked["folder"])
    assert json.loads((folder / "answer.json").read_text()) == {"model": "model:a@1", "name": "a", "version": "1"}
    assert (folder / "result" / "terms.json").exists() and not (folder / "part").exists()
    assert [p.name for p in (tmp_path / "models" / "a").iterdir()] == ["1"]


def test_worker_tells_failures_without_paths(tmp_path):
    (tmp_path / "up").mkdir()
    asked = spec(tmp_path, "publish", {"model": DATA, "to": "a"}, **{DATA: tmp_path / "up"})
    end = carry_out(asked, print, lambda: False)
    _, message, reason = end["failure"]
    assert (end["end"], reason) == ("failed", "ArtifactError") and DATA in message and str(tmp_path) not in message
    assert not (Path(asked["folder"]) / "result").exists()


@pytest.mark.parametrize(
    ("error", "end"),
    [(OSError(28, "No space left on device"), "full"), (MemoryError(), "failed"), (KeyError("secret"), "failed")],
)
def test_worker_tells_how_it_ended(tmp_path, monkeypatch, error, end):
    def fail(self, task):
        raise error

    monkeypatch.setattr(VERBS["simulate"], "run", fail)
    told = carry_out(spec(tmp_path, "simulate", {}), print, lambda: False)
    assert told["end"] == end and "secret" not in json.dumps(told)


def test_worker_stops_and_goes_on(tmp_path):
    asked = spec(tmp_path, "simulate", {"scenes": 4, "repetitions": 2})
    assert carry_out(asked, lambda event: None, lambda: True) == {"end": "cancelled"}
    assert not (Path(asked["folder"]) / "result").exists()


@pytest.mark.slow
def test_simulated_world_is_that_of_the_library(tmp_path):
    from recordings import Subject
    from studies.simulation import simulate_world

    asked = spec(tmp_path, "simulate", {"scenes": 4, "repetitions": 2, "seed": 3})
    stages = []
    assert carry_out(asked, lambda event: stages.append(event["stage"]), lambda: False) == {"end": "done"}
    (same,) = simulate_world(tmp_path / "own", 4, 1, repetitions=2, seed=3)
    made = Subject.load(Path(asked["folder"]) / "result" / "subject-01")
    assert (made.recording.data.values == same.recording.data.values).all()
    assert stages
    answer = json.loads((Path(asked["folder"]) / "answer.json").read_text())
    assert answer["out"] == "job:0123456789abcdef" and answer["shape"]["presentation"] == 8


def test_python_models_are_refused_wherever_they_are_named(tmp_path, monkeypatch):
    from encoders import FeatureExtractor
    from service.jobs.worker import _refuse_python_models

    name = "encoders.features.python_backbone"
    monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
    _refuse_python_models()
    with pytest.raises(InputError, match="not allowed"):
        FeatureExtractor.from_uri("python:os:getcwd", device="cpu")
