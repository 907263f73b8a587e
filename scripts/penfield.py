"""The program `penfield`: all commands together."""

from __future__ import annotations

import sys

from . import (
    console,
    decode,
    demo,
    describe,
    encode,
    features,
    import_recording,
    models,
    remote,
    run,
    score,
    serve,
    simulate,
)

app = console.group(
    "Brain encoding and decoding with foundation models.\n\n"
    "From pictures to predicted responses (encode), from responses back to what was seen (decode), and how well a "
    "model agrees with a brain (score)."
)
for module in (demo, run, simulate, import_recording, describe, features, encode, decode, score, models, serve, remote):
    app.add_typer(module.app)


def main(*verb: str) -> None:
    """Run the command line; with `verb`, as if it stood first."""
    app([*verb, *sys.argv[1:]])


if __name__ == "__main__":
    main()
