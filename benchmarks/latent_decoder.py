"""Peak memory and time of a latent decoder when its targets grow from 20,000 to 200,000 dimensions.

Targets are read from a feature store. Each size is a process of its own, with and without principal components; the
store is written beforehand, also in a process of its own.

    python benchmarks/latent_decoder.py --out benchmarks/results/latent_decoder.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from ridge import peak_mb

RANK = 100


def simulate(folder: Path, n_stimuli: int, n_dims: int, n_neuroids: int) -> None:
    """Write responses, and targets of RANK sources and noise that these carry, as a store."""
    from encoders.features.store import LayerStore, open_store

    rng = np.random.default_rng(0)
    sources = rng.standard_normal((n_stimuli, RANK), dtype=np.float32)
    loadings = rng.standard_normal((RANK, n_dims), dtype=np.float32) / np.sqrt(RANK)
    responses = sources @ rng.standard_normal((RANK, n_neuroids), dtype=np.float32) / np.sqrt(RANK)
    np.save(folder / "responses.npy", responses + rng.standard_normal(responses.shape, dtype=np.float32))
    open_store(folder / "targets", {"uri": "simulated"})
    store = LayerStore(folder / "targets", "targets")
    for chunk, start in enumerate(range(0, n_stimuli, 50)):
        values = sources[start : start + 50] @ loadings
        values += 0.1 * rng.standard_normal(values.shape, dtype=np.float32)
        if chunk == 0:
            store.create(values[:1], n_stimuli, 50, "float32", {})
        store.write(chunk, values, ["-"] * len(values))
    store.finish([f"s{i}" for i in range(n_stimuli)])


def fit(folder: Path, components: int, n_dims: int, calibration_folds: int) -> dict[str, Any]:
    """Fit in this process; seconds, peak memory in all and above what the libraries take, and what is saved."""
    import torch

    from decoders.latent import LatentDecoder
    from encoders import Features
    from recordings import Recording
    from recordings.statistics import correlate

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    warnings.simplefilter("ignore")
    responses = np.load(folder / "responses.npy")
    ids = [f"s{i}" for i in range(len(responses))]
    recording = Recording(responses, {"stimulus_id": ids})
    features, held_out = Features.load(folder / "targets"), 50
    decoder = LatentDecoder(
        np.logspace(0, 4, 5), 3, None, calibration_folds=calibration_folds, components=components or None
    )
    libraries, started = peak_mb(reset=True), time.perf_counter()
    decoder.fit(recording.take(slice(held_out, None)), features)
    seconds, peak = time.perf_counter() - started, peak_mb()
    truth = features.read(slice(0, held_out))[:, :: max(n_dims // 2000, 1)]
    decoded = decoder.predict(recording.take(slice(0, held_out)))[:, :: max(n_dims // 2000, 1)]
    return {
        "n_dims": n_dims,
        "components": components or None,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "extra_mb": round(peak - libraries),
        "targets_mb": round(4 * (len(ids) - held_out) * n_dims / 2**20),
        "saved_mb": round(sum(value.nbytes for value in decoder._tensors().values()) / 2**20),
        "explained_variance": decoder.explained_variance_,
        "held_out_r": float(np.mean(correlate(decoded, truth))),
    }


def run(n_dims: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate once and fit with and without components, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        command = [sys.executable, __file__, "--folder", folder, "--sizes"]
        sizes = [str(v) for v in (arguments.stimuli, n_dims, arguments.neuroids)]
        subprocess.run([*command, *sizes, "--step", "simulate"], check=True)
        for components in (0, arguments.components):
            sizes = [str(v) for v in (components, n_dims, arguments.calibration_folds)]
            fitted = subprocess.run([*command, *sizes, "--step", "fit"], check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(fitted.stdout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--stimuli", type=int, default=1550, help="50 of them are held out")
    parser.add_argument("--neuroids", type=int, default=300)
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--calibration-folds", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="folder for stores; by default the temporary folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=["simulate", "fit"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "simulate":
        simulate(arguments.folder, *arguments.sizes)
        return
    if arguments.step == "fit":
        print(json.dumps(fit(arguments.folder, *arguments.sizes)))
        return
    made = provenance()
    runs = [row for n_dims in arguments.dims for row in run(n_dims, arguments)]
    print(
        f"{'dims':>8}{'components':>12}{'seconds':>9}{'peak MB':>9}{'extra MB':>10}{'targets MB':>12}{'saved MB':>10}"
    )
    for row in runs:
        print(
            "{n_dims:8d}{parts:>12}{seconds:9.1f}{peak_mb:9d}{extra_mb:10d}{targets_mb:12d}{saved_mb:10d}".format(
                **row, parts=str(row["components"] or "-")
            )
        )
    if arguments.out is not None:
        settings = {k: getattr(arguments, k) for k in ("stimuli", "neuroids", "calibration_folds")}
        arguments.out.write_text(json.dumps({**made, **settings, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
