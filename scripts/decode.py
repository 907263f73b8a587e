"""``penfield decode``: from brain responses back to what was seen."""

from __future__ import annotations

import typer

from . import console, decode_fit, decode_pictures, decode_stimuli
from .decode_options import decode

__all__ = ["app", "decode_fit", "decode_pictures", "decode_stimuli"]

app = typer.Typer()
app.add_typer(decode, name="decode", rich_help_panel=console.METHODS)

if __name__ == "__main__":
    from .penfield import main

    main("decode")
