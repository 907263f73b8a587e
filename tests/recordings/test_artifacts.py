"""Model artifacts: written whole, checked on loading, no pickle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from recordings import Artifact, Recording, Space
from recordings.artifacts import CARD, CONFIG, WEIGHTS, check_neuroids, recording_fields, recording_of, restored_fields
from recordings.errors import ArtifactError, InputError


class Gain(Artifact):
    def __init__(self, gain: np.ndarray, name: str):
        self.gain, self.name = gain, name

    def _config(self) -> dict[str, Any]:
        return {"name": self.name, "n": np.int64(len(self.gain))}

    def _tensors(self) -> dict[str, np.ndarray]:
        return {"gain": self.gain}

    @classmethod
    def _restore(cls, config, tensors):
        return cls(tensors["gain"], config["name"])

    def _card(self) -> str:
        return "Multiplies."


@pytest.fixture
def saved(tmp_path, rng):
    model = Gain(rng.normal(size=(4, 3)).astype(np.float32).T, "one")
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_round_trip_with_a_card(saved):
    model, folder = saved
    again = Gain.from_pretrained(folder)
    np.testing.assert_array_equal(again.gain, model.gain)
    assert again.name == "one" and sorted(p.name for p in folder.iterdir()) == sorted([CONFIG, WEIGHTS, CARD])
    card = (folder / CARD).read_text()
    assert "Multiplies." in card and "numpy" in card
    assert json.loads((folder / CONFIG).read_text())["n"] == 3


def test_an_existing_model_is_kept_unless_told(saved):
    model, folder = saved
    with pytest.raises(InputError, match="exists already"):
        model.save_pretrained(folder)
    model.save_pretrained(folder, overwrite=True)


def test_broken_and_foreign_artifacts(saved, tmp_path):
    _, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "kind": "RidgeEncoder"}))
    with pytest.raises(ArtifactError, match="holds a RidgeEncoder, not a Gain"):
        Gain.from_pretrained(folder)
    (folder / CONFIG).write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(ArtifactError, match="artifact format 99, expected 1"):
        Gain.from_pretrained(folder)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"model.safetensors: weights cannot be read"):
        Gain.from_pretrained(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(ArtifactError, match=r"no readable config.json"):
        Gain.from_pretrained(folder)


def test_neuroids_are_checked_by_id_order_and_space(rng):
    def record(ids: str, space: Space | None = None) -> Recording:
        return Recording(
            rng.normal(size=(2, len(ids))), {"stimulus_id": ["a", "b"]}, {"neuroid_id": list(ids)}, space=space
        )

    config = json.loads(json.dumps(recording_fields(record("xyz", Space.surface("fsaverage5", (5, 5))))))
    check_neuroids(config, record("xyz", Space.surface("fsaverage5", (5, 5))))
    for other in (record("xzy", Space.surface("fsaverage5", (5, 5))), record("xyz"), record("xy")):
        with pytest.raises(ArtifactError, match="are not the 3 the model was fitted on"):
            check_neuroids(config, other)


def test_rows_of_responses_become_a_recording_of_the_same_neuroids(rng):
    neuroids = {"neuroid_id": ["x", "y", "z"], "roi": ["V1", "V1|V2", ""]}
    fitted = Recording(
        rng.normal(size=(2, 3)), {"stimulus_id": ["a", "b"]}, neuroids, space=Space.surface("fsaverage5", (5, 5))
    )
    fields = restored_fields(json.loads(json.dumps(recording_fields(fitted))))
    values = rng.normal(size=(4, 3)).astype(np.float32)
    again = recording_of(fields, values, ["c", "d", "e", "f"])
    check_neuroids(fields, again)
    assert np.array_equal(again.values, values) and list(again.stimulus_ids) == ["c", "d", "e", "f"]
    assert again.roi("V2").n_neuroids == 1 and again.roi("V1").n_neuroids == 2
