"""Running the real command line, in this process and in others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

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
    """A folder with a subject whose responses are linear in features, and these features."""
    return make_world(tmp_path)


def make_world(folder: Path, n: int = 120, noise: float = 0.5) -> Path:
    """Write ``subject/`` (n stimuli, three repetitions, ROIs A and B) and ``features.zarr`` (layers good and bad)."""
    rng = np.random.default_rng(0)
    ids = [f"s{i:03d}" for i in range(n)]
    good, bad = (rng.standard_normal((n, 10)).astype(np.float32) for _ in range(2))
    signal = good @ rng.standard_normal((10, 20))
    signal /= signal.std(0)
    values = np.concatenate([signal + noise * rng.standard_normal(signal.shape) for _ in range(3)])
    presentations = {"stimulus_id": ids * 3, "run": np.repeat([0, 1, 2], n), "session": np.arange(3 * n) % 2}
    neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(20)], "roi": ["A"] * 12 + ["B"] * 8})
    images = rng.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8)
    subject = Subject("one", Recording(values, presentations, neuroids), Stimuli.from_arrays(images, ids))
    subject.save(folder / "subject")

    return folder
