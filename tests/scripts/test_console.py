"""The frame of every command: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from recordings.errors import Cancelled, InputError
from recordings.events import report
from scripts import console


class HouseWarning(UserWarning):
    """A warning of our own."""


HouseWarning.__module__ = "encoders.solvers"


@pytest.fixture
def app() -> typer.Typer:
    app = console.group("A program.")

    @console.verb(app, "work", "penfield work out")
    def work(run: console.Run, out: Annotated[Path, typer.Argument()], how: str = "well") -> dict[str, Any]:
        """Work."""
        for i in range(3):
            report(run.on_event, run.stop, "work", i, 3)
            if how == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
        if how == "badly":
            raise InputError("has [NaN]\nin it", where=out, remedy="Mend it")
        if how == "full":
            raise OSError(28, "No space left on device", str(out))
        if how == "unreadable":
            raise PermissionError(13, "Permission denied", str(out))
        if how == "wrongly":
            raise KeyError("a mistake of ours")
        if how == "warned":
            warnings.warn("alphas at the edge", HouseWarning, stacklevel=1)
            warnings.warn("something deprecated", FutureWarning, stacklevel=1)
        return {
            "out": out,
            "seed": run.seed,
            "device": run.device,
            "roi": {"V1": np.float32(0.5), "V2": np.nan},
            "roi_n": {"V1": 20, "V2": 31},
            "layers": {"a": {"score": 0.1}, "b": {"score": 0.2}},
        }

    @app.command("other")
    def other() -> None:
        """A second command, so that the program is a group."""

    return app


@pytest.fixture
def invoke(app: typer.Typer) -> Any:
    return lambda *arguments: CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120"})


def test_json_is_all_that_is_on_standard_output(invoke: Any) -> None:
    result = invoke("work", "x", "--json", "--seed", "7", "--device", "cpu")
    values = json.loads(result.stdout)
    assert values["seed"] == 7 and values["device"] == "cpu" and values["out"] == "x"
    assert values["roi"] == {"V1": 0.5, "V2": None}


def test_people_get_tables(invoke: Any) -> None:
    result = invoke("work", "x")
    assert result.exit_code == 0
    for text in ("out", "V1", "0.5", "layers", "0.2"):
        assert text in result.stdout


def test_facts_of_the_same_regions_stand_beside_each_other(invoke: Any) -> None:
    rows = [line.split("│") for line in invoke("work", "x").stdout.splitlines() if "V1" in line]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [["V1", "0.5", "20"]]


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("badly", 2, "penfield: x: has [NaN] in it. Mend it\n"),
        ("full", 2, "no space left on the disk"),
        ("unreadable", 2, "penfield: x: Permission denied\n"),
    ],
)
def test_failures_are_one_line_with_an_exit_code(invoke: Any, how: str, code: int, line: str) -> None:
    result = invoke("work", "x", "--how", how, "--json")
    assert result.exit_code == code
    assert result.stdout == ""
    assert line in result.stderr and result.stderr.count("\n") == 1


def test_a_mistake_of_ours_exits_with_1_and_shows_where(invoke: Any) -> None:
    result = invoke("work", "x", "--how", "wrongly")
    assert result.exit_code == 1 and isinstance(result.exception, KeyError)


def test_ctrl_c_stops_at_the_next_step(invoke: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    result = invoke("work", "x", "--how", "interrupted")
    assert result.exit_code == 130
    assert "stopped during work after 1 of 3. Run the same command again" in result.stderr
    assert signal.getsignal(signal.SIGINT) is handler


def test_warnings_of_our_own_are_shown_and_those_of_libraries_are_not(invoke: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = invoke("work", "x", "--how", "warned", "--json")
    assert "penfield: warning: alphas at the edge" in result.stderr
    assert "deprecated" not in result.stderr
    json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("work",), "Missing argument"),
        (("work", "x", "--seed", "many"), "--seed"),
        (("work", "x", "--device", "abacus"), "abacus"),
        (("work", "x", "--no-such"), "--no-such"),
        (("wrok",), "Did you mean 'work'?"),
    ],
)
def test_bad_usage_is_one_line(invoke: Any, arguments: tuple[str, ...], says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert says in result.stderr and "--help" in result.stderr and result.stderr.count("\n") == 1


def test_help_has_the_example_and_the_common_options(invoke: Any) -> None:
    result = invoke("work", "--help")
    for text in ("Example: penfield work out", "--json", "--seed", "--device"):
        assert text in result.stdout


def test_cancelled_without_a_signal_still_ends_as_stopped(app: typer.Typer) -> None:
    @console.verb(app, "quit", "penfield quit")
    def quit_(run: console.Run) -> dict[str, Any]:
        raise Cancelled("stopped by the caller")

    assert CliRunner().invoke(app, ["quit"]).exit_code == 130
