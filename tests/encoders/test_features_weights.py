"""Weights: absent ones name the way to get them, and that way works against a hub on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from encoders.features import FeatureExtractor, fetch, verify, weights_status
from recordings.errors import ArtifactError, MissingWeightsError, UnknownNameError

from .hub import COMMIT, serve
from .tiny import OPEN_CLIP_CONFIG, save_dinov2, save_open_clip, save_timm

FETCH = """
import sys
from encoders.features import FeatureExtractor, fetch
fetch(sys.argv[1])
print(FeatureExtractor.from_uri(sys.argv[1], device="cpu").weights)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "uri",
    [
        "timm:vit_base_patch14_dinov2.lvd142m",
        "open_clip:ViT-B-32/laion2b_s34b_b79k",
        "transformers:facebook/dinov2-base",
    ],
)
def test_absent_weights_name_model_folder_and_command(cache: Path, uri: str) -> None:
    with pytest.raises(MissingWeightsError) as error:
        FeatureExtractor.from_uri(uri)
    assert error.value.exit_code == 2
    assert str(cache) in str(error.value)
    assert f"`penfield models fetch {uri}`" in str(error.value)
    status = weights_status(uri)
    assert not status.present
    with pytest.raises(MissingWeightsError):
        verify(uri)


def test_text_tower_is_fetched_with_its_model(cache: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"fetch open_clip:ViT-B-32/laion2b_s34b_b79k`"):
        FeatureExtractor.from_uri("open_clip:ViT-B-32/laion2b_s34b_b79k#text")


def test_fetch_offline_says_why(cache: Path) -> None:
    with pytest.raises(MissingWeightsError, match="HF_HUB_OFFLINE"):
        fetch("transformers:facebook/dinov2-base")


@pytest.mark.parametrize(
    ("uri", "near"),
    [
        ("timm:vit_base_patch14_dinov3.lvd142m", "vit_base"),
        ("timm:resnet18.no_such_tag", "resnet18.a1_in1k"),
        ("open_clip:ViT-B-33/openai", "ViT-B-32"),
        ("open_clip:ViT-B-32/laion3b", "laion2b"),
        ("miniature:backbon", "Near|miniature"),
        ("baseline:pixel", "pixels"),
        ("resnet18", "LIBRARY:NAME"),
    ],
)
def test_unknown_models_offer_near_names(uri: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=near):
        FeatureExtractor.from_uri(uri)


def test_status_verify_and_damage_of_local_weights(tmp_path: Path) -> None:
    folder = save_timm(tmp_path / "vit")
    status = weights_status(f"timm:{folder}")
    assert status.present and status.licence == "apache-2.0"
    assert "sha256" not in status.files["model.safetensors"]
    checked = verify(f"timm:{folder}").files["model.safetensors"]
    assert len(checked["sha256"]) == 64 and checked["matches_origin"] is None


def test_damaged_download_is_told(cache: Path) -> None:
    repository = cache / "models--org--tiny"
    blob = repository / "blobs" / ("a" * 64)
    snapshot = repository / "snapshots" / COMMIT
    for folder in (blob.parent, snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    blob.write_bytes(b"not what the hub sent")
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert weights_status("timm:org/tiny").present
    with pytest.raises(ArtifactError, match="damaged"):
        verify("timm:org/tiny")


def test_sharded_weights_are_missing_until_all_shards_are_here(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    assert not weights_status(f"transformers:{tmp_path}").present
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"")
    assert list(weights_status(f"transformers:{tmp_path}").files) == sorted(index["weight_map"].values())


@pytest.fixture
def hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Repositories of tiny models, served on loopback to an empty cache."""
    import timm
    from huggingface_hub import constants
    from timm.models import save_for_hf

    built_in = tmp_path / "built-in"
    save_for_hf(timm.create_model("test_vit", pretrained=False), built_in, safe_serialization=True)
    repositories = {
        "timm/test_vit.r160_in1k": built_in,
        "org/tiny-vit": save_timm(tmp_path / "vit"),
        "org/tiny-clip": save_open_clip(tmp_path / "clip"),
        "org/tiny-dinov2": save_dinov2(tmp_path / "dinov2"),
    }
    with serve(repositories) as (address, _):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield repositories


@pytest.mark.parametrize(
    "uri",
    [
        "timm:test_vit.r160_in1k",
        "timm:org/tiny-vit",
        f"transformers:org/tiny-dinov2@{COMMIT}",
        "open_clip:hf-hub:org/tiny-clip",
    ],
)
def test_missing_then_fetched_then_loaded(hub: dict[str, Path], uri: str) -> None:
    with pytest.raises(MissingWeightsError, match=f"`penfield models fetch {re.escape(uri)}`"):
        FeatureExtractor.from_uri(uri)
    status = fetch(uri)
    assert status.present and status.revision == COMMIT
    assert all(file["matches_origin"] for file in status.files.values())
    assert weights_status(uri).present
    extractor = FeatureExtractor.from_uri(uri, device="cpu")
    library, name = uri.split(":", 1)
    repository = name.removeprefix("hf-hub:").split("@")[0]
    folder = hub.get(repository) or hub[f"timm/{repository}"]
    assert extractor.weights == FeatureExtractor.from_uri(f"{library}:{folder}", device="cpu").weights


def test_open_clip_tag_brings_its_own_preprocessing(
    hub: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    config = tmp_path / "tiny-clip.json"
    config.write_text(json.dumps(OPEN_CLIP_CONFIG))
    open_clip.add_model_config(config)
    tags = {"mine": {"hf_hub": "org/tiny-clip/", "mean": (0.1, 0.2, 0.3)}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-clip", tags)
    fetch("open_clip:tiny-clip/mine")
    extractor = FeatureExtractor.from_uri("open_clip:tiny-clip/mine", device="cpu")
    assert "mean=(0.1, 0.2, 0.3)" in extractor.backbone.preprocessing
    untrained = FeatureExtractor.from_uri("untrained:open_clip:tiny-clip/mine", device="cpu")
    assert untrained.weights != extractor.weights


def test_fetch_of_what_the_hub_does_not_have(hub: dict[str, Path]) -> None:
    with pytest.raises(MissingWeightsError, match="org/nothing"):
        fetch("timm:org/nothing")
    (hub["org/tiny-vit"] / "model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match=r"holds none of model\.safetensors"):
        fetch("timm:org/tiny-vit")


@pytest.mark.slow
def test_fetch_from_the_hub_that_hf_endpoint_names(tmp_path: Path) -> None:
    folder = save_timm(tmp_path / "vit")
    with serve({"org/tiny-vit": folder}) as (address, asked):
        # huggingface_hub reads its settings when it is imported.
        home = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", FETCH, "timm:org/tiny-vit"],
            env=os.environ | home, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert any(request.endswith("model.safetensors") for request in asked)
    assert done.stdout.split()[-1] == FeatureExtractor.from_uri(f"timm:{folder}", device="cpu").weights
