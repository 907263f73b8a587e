"""The program as a whole, in processes of its own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.penfield import app

VERBS = ("demo", "run", "simulate", "import", "describe", "features", "encode", "decode", "score", "models", "serve")
VERBS += ("token", "remote")


def commands() -> list[tuple[str, ...]]:
    from typer.main import get_command

    def inside(command: Any, *names: str) -> list[tuple[str, ...]]:
        inner = getattr(command, "commands", None)
        return [names] if inner is None else [one for sub in inner for one in inside(inner[sub], *names, sub)]

    return [names for names in inside(get_command(app)) if names[0] != "import"]


def test_the_verbs_are_there(penfield: Callable[..., Any]) -> None:
    text = penfield("--help").stdout
    assert all(re.search(rf"^│ {verb} ", text, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_an_example_and_the_common_options(
    penfield: Callable[..., Any], command: tuple[str, ...]
) -> None:
    text = penfield(*command, "--help").stdout
    assert f"Example: penfield {' '.join(command)}" in " ".join(text.split())
    for option in ("--json", "--seed", "--device"):
        assert option in text


def test_help_is_shown_as_written(penfield: Callable[..., Any]) -> None:
    def text(*command: str) -> str:
        return " ".join(penfield(*command, "--help").stdout.replace("│", " ").split())

    assert "[default: 5]" in text("encode", "fit")
    assert "[default: 0]" in text("demo")
    assert "[default: volume]" in text("import", "nifti")
    assert all(f"[[{table}]]" in text("run") for table in ("encode", "ensemble", "decode", "reconstruct", "align"))


def test_help_is_quick_and_loads_no_room(process: Callable[..., Any]) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        stdout, _ = process("--help").communicate(timeout=30)
        seconds.append(time.perf_counter() - start)
        assert "encode" in stdout
    assert min(seconds) < 1


@pytest.mark.slow
def test_json_alone_on_standard_output_and_exit_codes(process: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("stimulus_id,v0,v1\na,1,2\nb,3,5\n")
    good = process("import", "csv", tmp_path / "r.csv", "--out", tmp_path / "r.zarr", "--json")
    stdout, stderr = good.communicate(timeout=120)
    assert good.returncode == 0, stderr
    assert json.loads(stdout)["stimuli"] == 2
    bad = process("describe", tmp_path / "absent", "--json")
    stdout, stderr = bad.communicate(timeout=60)
    assert bad.returncode == 2 and stdout == "" and stderr.startswith("penfield: ")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(process: Callable[..., Any], small_disk: Path) -> None:
    run = process("simulate", "--out", small_disk / "world", "--scenes", 100)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 2 and "no space left" in stderr
    assert not list((small_disk / "world").glob("subject*"))


def test_models_that_come_along_are_listed(penfield: Callable[..., Any]) -> None:
    models = {row["uri"]: row["present"] for row in penfield("models", "list", "--json").json["models"]}
    assert models["baseline:gabor"] and "timm:resnet50.a1_in1k" in models


def test_models_that_are_absent_cannot_be_verified(refused: Callable[..., str]) -> None:
    assert "penfield models fetch timm:resnet18.a1_in1k" in refused("models", "verify", "timm:resnet18.a1_in1k")
