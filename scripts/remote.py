"""``penfield remote``: the same verbs on a server of models."""

from __future__ import annotations

import typer

from . import console, remote_decode, remote_jobs, remote_models
from .remote_options import remote

__all__ = ["app", "remote_decode", "remote_jobs", "remote_models"]

app = typer.Typer()
app.add_typer(remote, name="remote", rich_help_panel=console.SERVICE)

if __name__ == "__main__":
    from .penfield import main

    main("remote")
