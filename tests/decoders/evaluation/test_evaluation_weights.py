"""Weights of published networks: fetched to where they are loaded from, compared with their hash, named by command."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from decoders.evaluation import PublishedNetwork, fetch_network, load_network
from decoders.evaluation import networks as module
from decoders.evaluation.weights import network_status, verify_network
from encoders.features.weights import fetch
from recordings.errors import ArtifactError, Cancelled, MissingWeightsError, UnknownNameError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, and a network "small" whose weights lie at an address that holds their hash."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    small = PublishedNetwork("squeezenet1_1", "features.1", 40, "two_way")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save(small.build().state_dict(), tmp_path / "small.pth")
    digest = hashlib.sha256((tmp_path / "small.pth").read_bytes()).hexdigest()[:8]
    origin = (tmp_path / "small.pth").rename(tmp_path / f"small-{digest}.pth")
    network = PublishedNetwork("squeezenet1_1", "features.1", 40, "two_way", url=origin.as_uri())
    monkeypatch.setitem(module.PUBLISHED_NETWORKS, "small", network)
    return tmp_path


def test_fetch_brings_what_is_loaded_and_verifies_it(home: Path) -> None:
    with pytest.raises(MissingWeightsError, match='`penfield models fetch "small"`'):
        load_network("small", "cpu")
    with pytest.raises(MissingWeightsError, match='`penfield models fetch "small"`'):
        verify_network("small")
    assert not network_status("small").present
    with pytest.raises(Cancelled):
        fetch_network("small", stop=lambda: True)
    events: list[Any] = []
    status = fetch_network("small", on_event=events.append)
    ((name, facts),) = status.files.items()
    path = home / "hub" / "checkpoints" / name
    assert status.present and status.folder == str(path.parent) and status.origin.endswith(name)
    assert facts["matches_origin"] is True and facts["bytes"] == path.stat().st_size
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (events[0].done, events[-1].done) == (0, 1)
    assert network_status("small").present and load_network("small", "cpu")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        verify_network("small")


def test_what_is_fetched_is_what_its_name_promises(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = next(home.glob("small-*.pth"))
    origin.write_bytes(origin.read_bytes()[:-1] + b"x")
    with pytest.raises(MissingWeightsError, match="could not be fetched"):
        fetch_network("small")
    origin.unlink()
    with pytest.raises(MissingWeightsError, match=rf"{origin.name} could not be fetched.*network"):
        fetch_network("small")
    assert not list((home / "hub").rglob("*.pth"))


def test_an_extractor_at_an_address_is_fetched_alike(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    missing = (home / "nowhere.pth").as_uri()
    config = timm.get_pretrained_cfg("resnet18.a1_in1k")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: type(config)(url=missing, hf_hub_id=None))
    with pytest.raises(MissingWeightsError, match=r"nowhere\.pth could not be fetched"):
        fetch("timm:resnet18.a1_in1k")


def test_clip_is_fetched_from_where_its_library_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    status = network_status("CLIP")
    assert status.uri == "CLIP" and not status.present and status.origin
    # The library's own path, which knows of no network here.
    for act in (fetch_network, verify_network):
        with pytest.raises(MissingWeightsError, match="open_clip:ViT-L-14-quickgelu/openai"):
            act("CLIP")


def test_unknown_networks_are_named() -> None:
    for act in (fetch_network, verify_network, network_status):
        with pytest.raises(UnknownNameError, match="AlexNet"):
            act("alexnet")


def test_commands_take_networks(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from scripts.penfield import main

    def run(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["penfield"])
        with pytest.raises(SystemExit) as ended:
            main("models", *words, "--json")
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    assert run("fetch", "small")["present"]
    (facts,) = run("verify", "small")["files"].values()
    assert facts["matches_origin"]
    listed = {row["uri"]: row["present"] for row in run("list")["models"]}
    assert listed["small"] and not listed["AlexNet(2)"] and "CLIP" in listed
