"""The program `penfield`: all commands together."""

from __future__ import annotations

import sys

from . import console, describe, import_recording

app = console.group(
    "Brain encoding and decoding with foundation models.\n\n"
    "From pictures to predicted responses (encode), from responses back to what was seen (decode), and how well a "
    "model agrees with a brain (score)."
)
for module in (import_recording, describe):
    app.add_typer(module.app)


def main(*verb: str) -> None:
    """Run the command line; with `verb`, as if it stood first."""
    app([*verb, *sys.argv[1:]])


if __name__ == "__main__":
    main()
