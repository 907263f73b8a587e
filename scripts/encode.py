"""``penfield encode``: from features to predicted brain responses."""

from __future__ import annotations

import typer

from . import console, encode_fit, encode_predict, encode_readouts
from .encode_options import encode

__all__ = ["app", "encode_fit", "encode_predict", "encode_readouts"]

app = typer.Typer()
app.add_typer(encode, name="encode", rich_help_panel=console.METHODS)

if __name__ == "__main__":
    from .penfield import main

    main("encode")
