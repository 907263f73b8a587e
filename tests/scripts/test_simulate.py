"""``penfield simulate`` and ``describe``: a planted world on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import Subject


def test_subjects_with_their_truth(penfield: Callable[..., Any], tmp_path: Path) -> None:
    command = ("simulate", "--out", tmp_path, "--scenes", 12, "--subjects", 2, "--snr", 1, "--repetitions", 2)
    result = penfield(*command, "--json")
    assert result.exit_code == 0, result.stderr
    # ncsnr 1 and two repetitions: 1 / (1 + 1/2).
    assert result.json["noise_ceiling"] == pytest.approx(2 / 3)
    first, second = (Subject.load(tmp_path / name) for name in ("subject-01", "subject-02"))
    assert len(first.recording) == 24 and len(first.stimuli) == 12
    assert not np.allclose(first.recording.values, second.recording.values)
    with np.load(tmp_path / "subject-01" / "truth.npz") as truth:
        assert len(truth["planted_x"]) == first.recording.n_neuroids
        np.testing.assert_array_equal(truth["planted_noise_ceiling"], first.recording.neuroid("planted_noise_ceiling"))


def test_the_seed_repeats_the_world(penfield: Callable[..., Any], tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert penfield("simulate", "--out", tmp_path / name, "--scenes", 4, "--seed", seed).exit_code == 0
    a, b, c = (Subject.load(tmp_path / name / "subject-01").recording.values for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_what_exists_is_refused_before_any_work(
    penfield: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    assert penfield("simulate", "--out", tmp_path, "--scenes", 4).exit_code == 0
    assert "subject-01" in refused("simulate", "--out", tmp_path, "--scenes", 4)
    assert penfield("simulate", "--out", tmp_path, "--scenes", 5, "--overwrite").exit_code == 0
    assert len(Subject.load(tmp_path / "subject-01").stimuli) == 5


@pytest.mark.slow
def test_a_dry_run_comes_near_the_run(penfield: Callable[..., Any], tmp_path: Path) -> None:
    import time

    command = ("simulate", "--out", tmp_path / "world", "--scenes", 300)
    estimate = penfield(*command, "--dry-run", "--json").json["estimate"]
    assert not (tmp_path / "world").exists()
    start = time.perf_counter()
    assert penfield(*command).exit_code == 0
    seconds = time.perf_counter() - start
    assert seconds / 4 < estimate["seconds"] < 4 * seconds
    written = sum(f.stat().st_size for f in (tmp_path / "world").rglob("*") if f.is_file()) / 1e9
    assert estimate["disk_gb"] == pytest.approx(written, rel=0.5)


def test_describe_knows_what_others_wrote(
    penfield: Callable[..., Any], refused: Callable[..., str], world: Path
) -> None:
    assert penfield("describe", world / "subject", "--json").json["kind"] == "subject"
    layers = penfield("describe", world / "features.zarr", "--json").json["layers"]
    assert [(row["layer"], row["shape"]) for row in layers] == [("bad", [120, 10]), ("good", [120, 10])]
    assert "s000" not in penfield("describe", world / "subject").stdout
    (world / "study.toml").write_text('name = "x"\n')
    assert "study.toml" in refused("describe", world / "study.toml")
    assert "neither" in refused("describe", world)
    assert "absent" in refused("describe", world / "absent")
