"""Peak memory of ridge when targets grow from 20,000 to 300,000, responses read from and coefficients written to Zarr.

Each size is a process of its own. Responses are written chunk by chunk beforehand, also in a process of its own.

    python benchmarks/ridge_memory.py            20,000, 100,000 and 300,000 targets
    python benchmarks/ridge_memory.py --quick    4,000 and 40,000 targets
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ridge import peak_mb

CHUNK = 2048


def simulate(folder: Path, n_samples: int, n_features: int, n_targets: int) -> None:
    """Write features and responses as Zarr arrays, float32."""
    import zarr

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_samples, n_features), dtype=np.float32)
    zarr.create_array(folder / "X", data=X, chunks=(512, n_features))
    Y = zarr.create_array(folder / "Y", shape=(n_samples, n_targets), chunks=(n_samples, CHUNK), dtype="float32")
    for start in range(0, n_targets, CHUNK):
        width = min(CHUNK, n_targets - start)
        signal = X[:, :50] @ rng.standard_normal((50, width), dtype=np.float32)
        Y[:, start : start + width] = signal + 5 * rng.standard_normal((n_samples, width), dtype=np.float32)


def fit(folder: Path, n_alphas: int) -> dict[str, float]:
    """Fit in this process; seconds, and peak memory in all and above what the libraries take."""
    import torch
    import zarr

    from encoders.solvers import ridge_cv

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    X, Y = zarr.open_array(folder / "X", mode="r"), zarr.open_array(folder / "Y", mode="r")
    height = X.shape[1] if X.shape[1] <= X.shape[0] else X.shape[0]
    out = zarr.create_array(
        folder / "coefficients",
        shape=(height, Y.shape[1]),
        chunks=(height, 512),
        dtype="float32",
        overwrite=True,
    )
    libraries, started = peak_mb(reset=True), time.perf_counter()
    result = ridge_cv(X, Y, np.logspace(0, 5, n_alphas), 5, out=out)
    return {
        "n_targets": Y.shape[1],
        "seconds": time.perf_counter() - started,
        "peak_mb": peak_mb(),
        "extra_mb": peak_mb() - libraries,
        "cv_r2": float(np.nanmean(result.cv_scores)),
    }


def run(n_targets: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Simulate and fit, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        sizes = [str(v) for v in (arguments.samples, arguments.features, n_targets, arguments.alphas)]
        command = [sys.executable, __file__, "--folder", folder, "--sizes", *sizes]
        subprocess.run([*command, "--step", "simulate"], check=True)
        output = subprocess.run([*command, "--step", "fit"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 and 40,000 targets")
    parser.add_argument("--targets", type=int, nargs="+")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--alphas", type=int, default=15)
    parser.add_argument("--scratch", type=Path, help="folder for the Zarr arrays; by default the temporary folder")
    parser.add_argument("--step", choices=["simulate", "fit"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "simulate":
        simulate(arguments.folder, *arguments.sizes[:3])
    elif arguments.step == "fit":
        print(json.dumps(fit(arguments.folder, arguments.sizes[3])))
    else:
        targets = arguments.targets or ([4000, 40000] if arguments.quick else [20000, 100000, 300000])
        results = [run(n_targets, arguments) for n_targets in targets]
        print(f"{arguments.samples} samples, {arguments.features} features, {arguments.alphas} alphas")
        print(f"{'targets':>9}{'seconds':>9}{'peak MB':>9}{'extra MB':>10}{'CV R2':>8}")
        for row in results:
            print("{n_targets:9d}{seconds:9.1f}{peak_mb:9.0f}{extra_mb:10.0f}{cv_r2:8.3f}".format(**row))
        growth = results[-1]["peak_mb"] / results[0]["peak_mb"] - 1
        print(f"peak memory grows by {growth:.1%}")
        print(json.dumps({"runs": results, "growth": growth}))


if __name__ == "__main__":
    main()
