"""Progress on standard error: a bar on a terminal, lines in a log, both with what the work measures of itself."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from recordings.events import Event
from scripts import progress

EVENT = Event("train", 12, 40, {"loss": 0.8125, "epoch": 2, "validation_r": 0.2139, "preview": [1, 2], "final": True})
SHOWN = "loss 0.812, epoch 2, validation r 0.214"


def test_a_bar_shows_the_live_validation_score(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    with progress.progress() as draw:
        draw(EVENT)
        draw(Event("train", 13, 40, {"loss": 0.5, "epoch": 2, "validation_r": 0.3}))
        draw(Event("evaluate", 0, 1))
    assert "train, loss 0.5, epoch 2, validation r 0.3" in screen.getvalue()
    assert "evaluate" in screen.getvalue() and "preview" not in screen.getvalue()


def test_a_log_gets_lines_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress() as draw:
        draw(EVENT)
        draw(Event("read", 1, 2))
    assert capsys.readouterr().err == f"penfield: train 12/40, {SHOWN}\npenfield: read 1/2\n"
