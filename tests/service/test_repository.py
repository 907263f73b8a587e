"""Models by name and version, and nothing from outside the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recordings.errors import InputError
from recordings.storage import atomic_path
from service.errors import ModelNotFoundError
from service.repository import ModelKey, ModelRepository


def write(folder: Path, kind: str = "RidgeEncoder", weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"kind": kind}))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def names(repository: ModelRepository) -> list[str]:
    return [str(entry.key) for entry in repository.list()]


def test_names_have_up_to_three_parts_and_versions_are_whole_numbers(tmp_path: Path) -> None:
    write(tmp_path / "plain")
    write(tmp_path / "subject-01" / "decoder" / "9", "BrainDecoder")
    write(tmp_path / "subject-01" / "decoder" / "10", "BrainDecoder")
    write(tmp_path / "a" / "b" / "c")
    write(tmp_path / "a" / "b" / "d" / "2")
    write(tmp_path / "a" / "b" / "x" / "too-deep")
    write(tmp_path / ".hidden")
    # What a model consists of is no model of its own.
    write(tmp_path / "plain" / "members" / "one")
    repository = ModelRepository(tmp_path)
    assert names(repository) == ["a/b/c@1", "a/b/d@2", "plain@1", "subject-01/decoder@9", "subject-01/decoder@10"]
    newest = repository.find("subject-01/decoder")
    assert newest.key == ModelKey("subject-01/decoder", "10") and newest.verbs == ("decode",)
    assert repository.find("subject-01/decoder", "9").folder.name == "9"
    with pytest.raises(ModelNotFoundError, match="9, 10"):
        repository.find("subject-01/decoder", "11")


@pytest.mark.parametrize("name", ["../outside", "/etc", "plain/../plain", "", ".", "link-out", "plain/members"])
def test_nothing_outside_the_folder_is_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "outside")
    root = tmp_path / "models"
    write(root / "plain")
    (root / "link-out").symlink_to(tmp_path / "outside")
    (root / "alias").symlink_to(root / "plain")
    repository = ModelRepository(root)
    assert names(repository) == ["alias@1", "plain@1"]
    with pytest.raises(ModelNotFoundError):
        repository.find(name)


def test_a_link_out_of_the_folder_within_a_model_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    model = write(tmp_path / "models" / "m")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(secret)
    [entry] = ModelRepository(tmp_path / "models").list()
    assert "link" in entry.reason and entry.verbs == () and not entry.fingerprint


def test_fingerprints_follow_contents_and_only_changed_models_are_read_again(tmp_path: Path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    repository = ModelRepository(tmp_path)
    one, two = repository.list()
    assert one.fingerprint == two.fingerprint and one.bytes_on_disk > 7
    with atomic_path(tmp_path / "one", overwrite=True) as part:
        write(part, weights=b"others")
    before = (tmp_path / "two" / "model.safetensors").stat().st_atime_ns
    repository.scan()
    assert repository.find("one").fingerprint != one.fingerprint
    assert repository.find("two") is two
    assert (tmp_path / "two" / "model.safetensors").stat().st_atime_ns == before
    shutil.rmtree(tmp_path / "one")
    assert [entry.key.name for entry in repository.scan()] == ["two"]


def test_a_corrupt_folder_is_listed_with_its_reason_and_spares_others(tmp_path: Path) -> None:
    write(tmp_path / "good")
    write(tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_text("{")
    write(tmp_path / "other", kind="Reduction")
    bad, good, other = ModelRepository(tmp_path).list()
    assert "config.json" in bad.reason and not good.reason and "no verb" in other.reason
    with pytest.raises(InputError, match="no such folder"):
        ModelRepository(tmp_path / "none")
