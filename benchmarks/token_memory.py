"""Peak memory of an epoch of cached tokens when pictures grow from 1,000 to 10,000, 961 tokens of 768 channels each.

Each size is a process of its own, which reads a float16 feature store written beforehand (1.5 MB a picture: 15 GB).

    python benchmarks/token_memory.py            1,000, 3,000 and 10,000 pictures
    python benchmarks/token_memory.py --quick    200 and 600 pictures, with a tenth of the buffer
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import RESULTS, provenance
from ridge import peak_mb

TOKENS, CHANNELS, CHUNK = 961, 768, 32
BUFFER, BATCH = 10**9, 16


def write(path: Path, n: int) -> None:
    """A store of n pictures; chunks repeat, which their readers do not know."""
    from encoders.features.store import LayerStore, open_store

    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((CHUNK, TOKENS, CHANNELS), dtype=np.float32).astype(np.float16)
    open_store(path, {"uri": "random"})
    store = LayerStore(path, "tokens")
    store.create(chunk, n, CHUNK, "float16", {"readout": "tokens", "grid": [31, 31]})
    for number, start in enumerate(range(0, n, CHUNK)):
        rows = chunk[: min(CHUNK, n - start)]
        store.write(number, rows, [f"{start + k}" for k in range(len(rows))])
    store.finish([str(i) for i in range(n)])


def read(path: Path, buffer: int) -> dict[str, float]:
    """One epoch in this process: seconds, and peak memory above what the libraries take."""
    from encoders import Features
    from encoders.attention.stream import TokenStream

    features = Features.load(path)
    stream = TokenStream([features], [np.arange(len(features))], batch_size=BATCH, in_memory=0, buffer=buffer)
    libraries, started = peak_mb(reset=True), time.perf_counter()
    seen = sum(len(batch.rows) for batch in stream.epoch(0))
    seconds = time.perf_counter() - started
    return {"pictures": seen, "seconds": seconds, "extra_mb": peak_mb() - libraries}


def run(n: int, buffer: int, scratch: Path | None) -> dict[str, float]:
    """Write and read, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        command = [
            sys.executable,
            __file__,
            "--store",
            f"{folder}/tokens.zarr",
            "--size",
            str(n),
            "--buffer",
            str(buffer),
        ]
        subprocess.run([*command, "--step", "write"], check=True)
        output = subprocess.run([*command, "--step", "read"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 and 600 pictures")
    parser.add_argument("--pictures", type=int, nargs="+")
    parser.add_argument("--scratch", type=Path, help="folder for the store; by default the temporary folder")
    parser.add_argument("--out", type=Path, help="JSON file; by default token_memory.json, or none with --quick")
    for hidden, kind in (("--step", str), ("--store", Path), ("--size", int), ("--buffer", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "write":
        write(given.store, given.size)
    elif given.step == "read":
        print(json.dumps(read(given.store, given.buffer)))
    else:
        sizes = given.pictures or ([200, 600] if given.quick else [1000, 3000, 10_000])
        buffer = BUFFER // 10 if given.quick else BUFFER
        origin = provenance()
        results = [run(n, buffer, given.scratch) for n in sizes]
        print(f"{'pictures':>9}{'store GB':>10}{'seconds':>9}{'extra MB':>10}   (buffer {buffer / 1e6:.0f} MB)")
        for row in results:
            stored = 2 * row["pictures"] * TOKENS * CHANNELS / 1e9
            print(f"{row['pictures']:9d}{stored:10.1f}{row['seconds']:9.1f}{row['extra_mb']:10.0f}")
        report = {**origin, "runs": results}
        if out := given.out or (None if given.quick else RESULTS / "token_memory.json"):
            out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report))


if __name__ == "__main__":
    main()
