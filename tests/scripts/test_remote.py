from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from decoders import Reconstructions
from recordings import Recording

from ..service.client.conftest import Services, running


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(Services(tmp_path_factory.mktemp("server"))) as found:
        yield found


@pytest.fixture
def remote(penfield, server, monkeypatch):
    monkeypatch.setenv("PENFIELD_SERVER", server.target)
    return lambda *words: penfield("remote", *words)


@pytest.fixture
def recording(tmp_path):
    values = np.arange(1, 13, dtype=np.float32).reshape(6, 2)
    return Recording(values, {"stimulus_id": ["a", "b", "c"] * 2}).save(tmp_path / "recording.zarr")


def test_models(remote):
    (model,) = remote("models", "list", "--json").json["models"]
    assert (model["name"], model["version"], model["verbs"]) == ("mean", "1", ["encode"])


def test_pictures_have_the_files_of_the_local_verb(remote, recording, tmp_path):
    out = tmp_path / "pictures"
    words = ["decode", "image", "-r", tmp_path / "recording.zarr", "-m", "d", "--out", out, "--preview-every", 1]
    answer = remote(*words, "--seed", 3, "--json").json
    assert (answer["pictures"], answer["preset"]) == (3, "penfield") and "failed" not in answer
    made = Reconstructions.load(out)
    assert made.stimulus_ids == ["a", "b", "c"]
    assert made.images[:, 0, 0, 0, 0].tolist() == [4, 6, 8]
    assert np.asarray(Image.open(tmp_path / "pictures-previews" / "000000-01.png")).max() == 9
    assert remote(*words).exit_code == 2
    one = [*words, "--overwrite", "--stimulus", "b", "--json"]
    assert remote(*one).json["pictures"] == 1


def test_captions_and_depth(remote, recording, tmp_path):
    given = ["-r", tmp_path / "recording.zarr", "-m", "d"]
    answer = remote("decode", "caption", *given, "--json").json
    assert answer["captions"][0] == {"stimulus": "a", "caption": "9"} and answer["stimuli"] == 3
    remote("decode", "depth", *given, "--out", tmp_path / "depth", "--format", "npy", "--json")
    assert json.loads((tmp_path / "depth" / "depth.json").read_text())["stimulus_ids"] == ["a", "b", "c"]
    assert np.load(tmp_path / "depth" / "000002.npy").tolist() == [[8, 8, 8], [8, 8, 8]]


def test_rows_that_fail_are_named_and_spare_the_others(remote, tmp_path):
    Recording([[1.0, 2.0], [0.0, 0.0]], {"stimulus_id": ["good", "bad"]}).save(tmp_path / "r.zarr")
    answer = remote("decode", "caption", "-r", tmp_path / "r.zarr", "-m", "d", "--json").json
    assert [row["stimulus"] for row in answer["captions"]] == ["good"] and "nothing there" in answer["failed"]["bad"]
    found = remote("decode", "caption", "-r", tmp_path / "r.zarr", "-m", "d", "--stimulus", "bad")
    assert found.exit_code == 2 and "nothing there" in found.stderr


def test_jobs_take_their_arguments_as_the_verb_does(remote, server, tmp_path):
    words = ["features=data:1", "layer=a", "layer=b", "folds=3", "fold-keys=true", "split=stimulus:0.2"]
    answer = remote("jobs", "submit", "encode fit", *words, "--once", "mine", "--seed", 5, "--json").json
    assert answer["state"] == "running"
    key, verb, arguments = server.services.jobs.submitted[-1]
    assert (key, verb) == ("mine", "encode fit")
    assert arguments == {
        "features": ["data:1"], "layer": ["a", "b"], "folds": 3, "fold_keys": True, "split": "stimulus:0.2", "seed": 5
    }  # fmt: skip
    assert remote("jobs", "submit", "encode fit", "--wait", "--json").json == {"score": 0.5}
    assert remote("jobs", "watch", "0" * 16, "--json").json["state"] == "succeeded"
    assert remote("jobs", "fetch", "0" * 16, "--out", tmp_path / "out", "--json").json == {"score": 0.5}
    assert (tmp_path / "out" / "model" / "weights.bin").is_file()
    assert "NAME=VALUE" in remote("jobs", "submit", "encode fit", "features").stderr


def test_uploads(remote, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    words = ["upload", tmp_path / "notes.txt", "--kind", "file", "--license", "CC0-1.0", "--retention", 0.5]
    stored = remote(*words, "--json").json
    assert (stored["license"], stored["retention"]) == ("CC0-1.0", 43200)
    assert remote("data", "list", "--json").json["data"][0]["id"] == stored["id"]
    assert remote("data", "delete", stored["id"], "--json").json == {"deleted": stored["id"], "jobs": []}
    refused = remote("upload", tmp_path / "notes.txt", "--kind", "recording")
    assert refused.exit_code == 2 and "consent" in refused.stderr


def test_failures_are_one_line(remote, refused, recording, tmp_path):
    given = ["-r", tmp_path / "recording.zarr", "-m", "d"]
    assert "features" in refused("remote", "encode", "-m", "mean", "--out", tmp_path / "x.zarr")
    found = remote("models", "list", "--server", "localhost:1", "--retries", 0, "--timeout", 2)
    assert found.exit_code == 1 and found.stderr.startswith("penfield: ") and found.stderr.count("\n") == 1
    assert "plain" in refused("remote", "models", "list", "--server", "http://192.0.2.1:1", "--token", "t")
    assert "'x'" in refused("remote", "decode", "caption", *given, "--stimulus", "x", "--server", "localhost:1")
