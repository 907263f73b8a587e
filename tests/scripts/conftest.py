"""Running the real command line, in this process and in others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from encoders.features.store import LayerStore, open_store
from recordings import Recording, Stimuli, Subject
from scripts.penfield import app

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def penfield() -> Callable[..., Any]:
    """Run a command in this process: ``penfield("describe", path)`` gives exit_code, stdout, stderr, and json."""

    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if "--json" in arguments and result.exit_code == 0:
            result.json = json.loads(result.stdout)
        return result

    return run


@pytest.fixture
def refused(penfield: Callable[..., Any]) -> Callable[..., str]:
    """Run a command that must fail as bad input; the one line that it says."""

    def run(*arguments: object) -> str:
        result = penfield(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("penfield: ") and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.Popen]:
    """Start a command in a process of its own."""

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "scripts.penfield", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """``subject/``: 120 images seen three times, ROIs A and B, half of whose variance their features explain;
    ``features.zarr``: layers "good" (these features) and "bad" (others)."""
    rng = np.random.default_rng(0)
    ids = [f"s{i:03d}" for i in range(120)]
    layers = {name: rng.standard_normal((120, 10)).astype(np.float32) for name in ("good", "bad")}
    signal = layers["good"] @ rng.standard_normal((10, 20))
    signal /= signal.std(0)
    values = np.concatenate([signal + rng.standard_normal(signal.shape) for _ in range(3)])
    presentations = {"stimulus_id": ids * 3, "run": np.repeat([0, 1, 2], 120), "motion": rng.standard_normal(360)}
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(20)], "roi": ["A"] * 12 + ["B"] * 8})
    images = rng.integers(0, 255, (120, 16, 16, 3), dtype=np.uint8)
    subject = Subject(
        "one",
        Recording(values, presentations, neuroids),
        Stimuli.from_arrays(images, ids, category=["a", "b", "b"] * 40),
    )
    subject.save(tmp_path / "subject")
    write_store(tmp_path / "features.zarr", ids, layers)
    return tmp_path


def write_store(path: Path, ids: list[str], layers: dict[str, np.ndarray]) -> None:
    """A feature store with several layers."""
    open_store(path, {"uri": "baseline:pixels"})
    for name, values in layers.items():
        store = LayerStore(path, name)
        store.create(values[:1], len(ids), len(ids), "float32", {"readout": "pooled"})
        store.write(0, values, ids)
        store.finish(ids)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)
