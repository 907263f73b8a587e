"""``penfield demo``: the whole chain on the miniature world, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


@console.verb(app, "demo", "penfield demo --out demo", panel=console.WHOLE)
def demo(
    run: console.Run,
    out: Annotated[Path, typer.Option(help="Folder to write; open report.html in it afterwards.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A smaller world, in less than a minute and a half.")] = False,
) -> dict[str, Any]:
    """Simulate a brain, encode, decode and score it, and write a report. Start here."""
    from studies.demo import run as run_demo

    return dict(run_demo(out, quick=quick, seed=run.seed, on_event=run.on_event, stop=run.stop))


if __name__ == "__main__":
    from .penfield import main

    main("demo")
