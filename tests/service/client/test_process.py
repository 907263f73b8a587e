"""``penfield serve`` in a process of its own, called as a user calls it: the same bits as the local calls give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from decoders import Reconstructions
from encoders import Features, RidgeEncoder
from recordings import Event, Recording, Stimuli, Subject
from recordings.errors import FormatError
from scripts.penfield import app
from service import Client
from service.errors import ModelNotFoundError, WrongUnitsError
from studies.pictures.drawing import Drawing, reconstruct
from studies.pictures.scores import caption_recording, decode_depth

from ..conftest import DECODER, ENCODER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*tokens and is cut"),
    pytest.mark.filterwarnings("ignore:decoded z has an s.d."),
]

ROOT = Path(__file__).resolve().parents[3]
STEPS = 3


@pytest.fixture(scope="module")
def served(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What ``penfield serve --json`` says when it is ready; it must end with 0 and say no more."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "scripts.penfield", "serve", "--models", models_folder, "--data", folder / "data"]
    command += ["--port", "0", "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PENFIELD_SERVE_DRAIN_PAUSE": "0.1"}
    log = folder / "log.txt"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)
            server.send_signal(signal.SIGTERM)
            rest, _ = server.communicate(timeout=60)
            assert (server.returncode, rest) == (0, "")
            assert "Traceback" not in log.read_text()
        finally:
            server.kill()


@pytest.fixture
def client(served: dict[str, Any]) -> Iterator[Client]:
    with Client(f"localhost:{served['port']}", timeout=120) as found:
        yield found


@pytest.fixture
def remote(served: dict[str, Any]) -> Callable[..., Any]:
    """Run ``penfield remote ... --json``: what it prints."""

    def run(*arguments: object) -> Any:
        words = ["remote", *map(str, arguments), "--json"]
        environment = {"PENFIELD_SERVER": f"localhost:{served['port']}", "COLUMNS": "120"}
        result = CliRunner().invoke(app, words, env=environment)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="module")
def unseen(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stimuli of the fit under other names, which local calls, that refuse fitted ones, decode too."""
    whole = Subject.load(drawn / "subject").recording
    names = [f"new-{name}" for name in whole.stimulus_ids]
    renamed = Recording(whole.values, {"stimulus_id": names}, whole.neuroids)
    path = tmp_path_factory.mktemp("unseen") / "recording.zarr"
    renamed.take(np.isin(names, list(dict.fromkeys(names))[:3])).save(path)
    return path


def test_models_are_listed_described_loaded_and_unloaded(remote: Callable[..., Any], client: Client) -> None:
    found = remote("models", "list")["models"]
    assert {ENCODER, DECODER} <= {model["name"] for model in found}
    assert [m["name"] for m in remote("models", "list", "--verb", "encode")["models"]] == [ENCODER]
    described = remote("models", "describe", ENCODER)
    assert described["units"] == 40 and described["rois"] == {"A": 30, "B": 10}
    assert remote("models", "load", ENCODER)["state"] == "ready"
    assert remote("models", "unload", ENCODER)["state"] == "unloaded"
    with pytest.raises(ModelNotFoundError):
        client.describe("nobody")
    assert client.health()


def test_encoding_gives_the_bits_of_local_calls(
    remote: Callable[..., Any],
    client: Client,
    models_folder: Path,
    scenes: Stimuli,
    scene_features: Features,
    tmp_path: Path,
) -> None:
    local = RidgeEncoder.from_pretrained(models_folder / ENCODER).predict(scene_features)
    np.testing.assert_array_equal(client.encode(ENCODER, images=scenes), local)
    np.testing.assert_array_equal(client.encode(ENCODER, features=scene_features, rois=["B"]), local[:, 30:])
    scenes.save(tmp_path / "scenes")
    scene_features.save(tmp_path / "features.zarr")
    answer = remote("encode", "-m", ENCODER, "--stimuli", tmp_path / "scenes", "--out", tmp_path / "shown.zarr")
    assert (answer["stimuli"], answer["neuroids"]) == (60, 40)
    remote("encode", "-m", ENCODER, "-f", tmp_path / "features.zarr", "--out", tmp_path / "read.zarr")
    words = ["encode", "predict", "-m", models_folder / ENCODER, "-f", tmp_path / "features.zarr"]
    result = CliRunner().invoke(app, list(map(str, [*words, "--out", tmp_path / "local.zarr"])))
    assert result.exit_code == 0, result.output
    whole = Recording.load(tmp_path / "local.zarr")
    for name in ("shown.zarr", "read.zarr"):
        found = Recording.load(tmp_path / name)
        np.testing.assert_array_equal(found.values, whole.values)
        assert found.fingerprint() == whole.fingerprint() and found.attrs == whole.attrs
        assert list(found.stimulus_ids) == list(whole.stimulus_ids)


def test_decoding_gives_the_bits_of_local_calls(
    remote: Callable[..., Any], client: Client, models_folder: Path, unseen: Path, tmp_path: Path
) -> None:
    given, model = Recording.load(unseen), models_folder / DECODER
    drawing = Drawing(steps=STEPS, samples=2)
    reconstruct(model, given, None, tmp_path / "local", drawing, device="cpu", seed=7)
    local = Reconstructions.load(tmp_path / "local")
    same = ["--samples", 2, "--steps", STEPS, "--seed", 7, "--preview-every", 1]
    answer = remote("decode", "image", "-r", unseen, "-m", DECODER, "--out", tmp_path / "pictures", *same)
    made = Reconstructions.load(tmp_path / "pictures")
    assert (answer["pictures"], answer["preset"], answer["steps"]) == (3, "penfield", STEPS)
    assert made.stimulus_ids == local.stimulus_ids and made.failed == {}
    np.testing.assert_array_equal(made.images, local.images)
    assert made.settings["generator"] == local.settings["generator"] and made.settings["seed"] == 7
    previews = sorted(path.name for path in (tmp_path / "pictures-previews").iterdir())
    assert previews == sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))
    words = caption_recording(model, given, device="cpu")
    assert remote("decode", "caption", "-r", unseen, "-m", DECODER)["captions"] == words["captions"]
    decode_depth(model, given, tmp_path / "depth", device="cpu")
    remote("decode", "depth", "-r", unseen, "-m", DECODER, "--out", tmp_path / "remote-depth")
    for path in (tmp_path / "depth").iterdir():
        assert (tmp_path / "remote-depth" / path.name).read_bytes() == path.read_bytes()
    events: list[Event] = []
    (row,) = client.decode(
        DECODER,
        given,
        ("image", "caption", "targets"),
        stimulus_ids=["new-" + _name(given, 1)],
        steps=STEPS,
        samples=2,
        seed=7,
        preview_every=1,
        on_event=events.append,
    )
    # Alone, row 1 is drawn in a batch of its own size, where rounding may move single levels.
    assert np.abs(row.images.astype(int) - local.images[1]).max() <= 1  # type: ignore[union-attr]
    assert row.caption == words["captions"][1]["caption"] and row.targets is not None
    shown = [event.payload["preview"] for event in events if "preview" in event.payload]
    assert len(shown) >= STEPS and shown[0].shape == (1, *local.images.shape[2:])


def _name(recording: Recording, row: int) -> str:
    return str(list(dict.fromkeys(recording.stimulus_ids))[row]).removeprefix("new-")


def test_wrong_units_and_models_are_told_in_one_line(
    client: Client, served: dict[str, Any], unseen: Path, tmp_path: Path
) -> None:
    given = Recording.load(unseen)
    other = Recording(given.values, {"stimulus_id": list(given.stimulus_ids)})
    with pytest.raises(WrongUnitsError):
        client.caption(DECODER, other)
    words = ["remote", "decode", "caption", "-r", str(unseen), "-m", "nobody"]
    result = CliRunner().invoke(app, [*words, "--server", f"localhost:{served['port']}"])
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("penfield: ") and result.stderr.count("\n") == 1


def test_upload_score_and_jobs(
    remote: Callable[..., Any], client: Client, drawn: Path, scene_features: Features, tmp_path: Path
) -> None:
    scene_features.save(tmp_path / "features.zarr")
    terms = ["--consent", "simulated", "--license", "CC0-1.0"]
    whole = drawn / "subject"
    recording = remote("upload", whole, "--kind", "recording", *terms)["id"]
    features = remote("upload", tmp_path / "features.zarr", "--kind", "features")["id"]
    assert {data["id"] for data in remote("data", "list")["data"]} == {recording, features}
    score = ["--metric", "rsa", "--recording"]
    local = CliRunner().invoke(
        app, ["score", "--features", str(tmp_path / "features.zarr"), *score, str(whole), "--json"]
    )
    assert local.exit_code == 0, local.output
    # What lies here is not sent again.
    found = remote("score", "--features", tmp_path / "features.zarr", *score, recording)
    assert found == json.loads(local.stdout)
    assert len(client.data()) == 2
    asked = [f"features={features}", f"recording={recording}", "split=stimulus:0.2"]
    job = remote("jobs", "submit", "encode fit", *asked, "--once", "mine")["id"]
    assert remote("jobs", "submit", "encode fit", *asked, "--once", "mine")["id"] == job
    answer = remote("jobs", "fetch", job, "--out", tmp_path / "fitted")
    assert answer["model"] == "ridge"
    assert RidgeEncoder.from_pretrained(tmp_path / "fitted" / "model").predict(scene_features).shape[0] == 60
    status = remote("jobs", "watch", job)
    assert (status["state"], status["license"]) == ("succeeded", "CC0-1.0")
    assert [one["id"] for one in remote("jobs", "list")["jobs"]] == [job]
    wrong = client.submit("encode evaluate", model=f"job:{job}/model", features=[features], recording=features)
    with pytest.raises(FormatError, match="not a Penfield recording"):
        wrong.result()
    assert set(remote("data", "delete", recording)["jobs"]) == {job, wrong.id}
    remote("data", "delete", features)
    assert remote("jobs", "list")["jobs"] == []


def test_pictures_of_files_are_the_servers_to_read(client: Client, pictures: list[np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        client.encode(ENCODER, images=tmp_path / "a.png"), client.encode(ENCODER, images=pictures[0])
    )
