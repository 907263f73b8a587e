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
    quick: Annotated[bool, typer.Option("--quick", help="A smaller world, in a fraction of the time.")] = False,
) -> dict[str, Any]:
    """Simulate a brain, encode, decode and score it, and write a report. Start here."""
    from studies.demo import run as run_demo

    how: dict[str, Any] = {"quick": quick, "seed": run.seed, "device": run.device}
    summary = run_demo(out, on_event=run.on_event, stop=run.stop, **how)
    return {"report": str(out / "report.html"), **summary}


if __name__ == "__main__":
    from .penfield import main

    main("demo")
