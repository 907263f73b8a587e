"""Ridge with one alpha a target: Penfield, himalaya and scikit-learn side by side.

Every measurement is a process of its own with one thread, so that CPU time and peak memory are clean; the solvers take
turns, and the smallest CPU time of each is kept. Features have a power-law spectrum; each target is a random readout of
them plus noise of .3 to 5 standard deviations. Alphas and folds are the same for all but scikit-learn, which has only
leave-one-out for one alpha a target.

    python benchmarks/ridge.py            2,000 samples; 768 and 5,000 features; 20,000 targets
    python benchmarks/ridge.py --quick    4,000 targets
    python benchmarks/ridge.py --banded   banded ridge: two bands, three draws of their weights
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

N_TRAIN, N_TEST, N_FOLDS = 2000, 200, 5
ALPHAS = np.logspace(0, 7, 15)
TARGETS_BATCH = 4000
GAMMAS = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])
Predictor = Callable[[np.ndarray], np.ndarray]


def simulate(n_features: int, n_targets: int, folder: Path, seed: int = 0) -> None:
    """Write X (train + test, features) and Y (train + test, targets), float32, to `folder`."""
    rng = np.random.default_rng(seed)
    n = N_TRAIN + N_TEST
    scale = np.sqrt(n_features) * np.arange(1, n_features + 1) ** -0.5
    X = (rng.standard_normal((n, n_features), dtype=np.float32) * scale).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((n_features, n_features), dtype=np.float32))[0]
    X = X @ rotation + 1
    Y = np.empty((n, n_targets), np.float32)
    for start in range(0, n_targets, TARGETS_BATCH):
        width = min(TARGETS_BATCH, n_targets - start)
        signal = X @ rng.standard_normal((n_features, width), dtype=np.float32)
        noise = rng.uniform(0.3, 5, width).astype(np.float32) * rng.standard_normal((n, width), dtype=np.float32)
        Y[:, start : start + width] = signal / signal.std(0) + noise + 3
    np.save(folder / "X.npy", X)
    np.save(folder / "Y.npy", Y)


def penfield(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from encoders.solvers import ridge_cv

    fit = ridge_cv(X, Y, ALPHAS, N_FOLDS)
    return lambda new: new @ fit.coefficients(X) + fit.intercept


def himalaya_ridge(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from himalaya.ridge import RidgeCV

    return _himalaya(RidgeCV(ALPHAS, cv=N_FOLDS, fit_intercept=True), X, Y)


def himalaya_ridge_batched(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from himalaya.ridge import RidgeCV

    batches = {"n_targets_batch": TARGETS_BATCH, "n_alphas_batch": 1, "warn": False}
    return _himalaya(RidgeCV(ALPHAS, cv=N_FOLDS, fit_intercept=True, solver_params=batches), X, Y)


def himalaya_kernel(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from himalaya.kernel_ridge import KernelRidgeCV

    batches = {"n_targets_batch": TARGETS_BATCH}
    return _himalaya(KernelRidgeCV(ALPHAS, cv=N_FOLDS, fit_intercept=True, solver_params=batches), X, Y)


def _himalaya(model: Any, X: np.ndarray, Y: np.ndarray) -> Predictor:
    from himalaya.backend import set_backend

    set_backend("torch")
    model.fit(X, Y)
    return lambda new: np.asarray(model.predict(new))


def sklearn_loo(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(ALPHAS, alpha_per_target=True).fit(X, Y).predict


def penfield_banded(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from encoders.solvers import banded_ridge_cv

    bands = np.array_split(X, 2, axis=1)
    fit = banded_ridge_cv(bands, Y, ALPHAS, N_FOLDS, gammas=GAMMAS)
    return lambda new: new @ fit.coefficients(bands) + fit.intercept


def himalaya_banded(X: np.ndarray, Y: np.ndarray) -> Predictor:
    from himalaya.kernel_ridge import ColumnKernelizer, Kernelizer, MultipleKernelRidgeCV
    from himalaya.ridge import GroupRidgeCV
    from sklearn.pipeline import make_pipeline

    options = {"n_iter": GAMMAS.astype(np.float32), "alphas": ALPHAS, "n_targets_batch": TARGETS_BATCH}
    halves = np.array_split(np.arange(X.shape[1]), 2)
    if X.shape[1] <= len(X):
        groups = np.repeat([0, 1], [len(half) for half in halves])
        options |= {"n_alphas_batch": 1, "progress_bar": False}
        return _himalaya(GroupRidgeCV(groups, solver_params=options, fit_intercept=True, cv=N_FOLDS), X, Y)
    kernels = ColumnKernelizer([(str(i), Kernelizer("linear"), half) for i, half in enumerate(halves)])
    model = MultipleKernelRidgeCV(
        "precomputed", solver_params=options | {"progress_bar": False}, fit_intercept=True, cv=N_FOLDS
    )
    return _himalaya(make_pipeline(kernels, model), X, Y)


ONE_PENALTY = (penfield, himalaya_ridge, himalaya_ridge_batched, himalaya_kernel, sklearn_loo)
BANDED = (penfield_banded, himalaya_banded)
SOLVERS = {solver.__name__: solver for solver in ONE_PENALTY + BANDED}


def measure(solver: str, folder: Path) -> dict[str, float]:
    """Fit once in this process: CPU seconds, peak memory above the loaded data, mean test r."""
    import himalaya.kernel_ridge  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch

    import encoders.solvers  # noqa: F401

    torch.set_num_threads(1)
    X, Y = np.load(folder / "X.npy"), np.load(folder / "Y.npy")
    before, started = peak_mb(reset=True), time.process_time()
    predict = SOLVERS[solver](X[:N_TRAIN], Y[:N_TRAIN])
    seconds, extra = time.process_time() - started, peak_mb() - before
    predicted, shown = predict(X[N_TRAIN:]), Y[N_TRAIN:]
    predicted, shown = predicted - predicted.mean(0), shown - shown.mean(0)
    r = (predicted * shown).sum(0) / np.sqrt((predicted**2).sum(0) * (shown**2).sum(0))
    return {"cpu_seconds": seconds, "extra_mb": extra, "test_r": float(r.mean())}


def peak_mb(reset: bool = False) -> float:
    """Peak resident memory of this process; `reset` first forgets earlier peaks where the kernel allows it."""
    if reset and Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(solver: str, folder: Path) -> dict[str, float]:
    """`measure` in a process of its own, with one thread."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--measure", solver, "--folder", str(folder)]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output)


def compare(n_features: int, n_targets: int, repeats: int, names: list[str]) -> dict[str, dict[str, float]]:
    """Solvers in turns on one data set; the fastest run of each."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        simulate(n_features, n_targets, Path(folder))
        for _ in range(repeats):
            for name in names:
                runs[name].append(run(name, Path(folder)))
                print(f"{n_features} features, {name}: {runs[name][-1]}", file=sys.stderr)
    return {name: min(results, key=lambda result: result["cpu_seconds"]) for name, results in runs.items()}


def print_table(n_features: int, n_targets: int, results: dict[str, dict[str, float]]) -> None:
    own = next(row["cpu_seconds"] for name, row in results.items() if name.startswith("penfield"))
    print(f"\n{N_TRAIN} samples, {n_features} features, {n_targets} targets, one thread")
    print(f"{'solver':<24}{'CPU s':>8}{'over own':>10}{'extra MB':>10}{'test r':>10}")
    for name, row in results.items():
        seconds = row["cpu_seconds"]
        print(f"{name:<24}{seconds:8.2f}{seconds / own:10.2f}{row['extra_mb']:10.0f}{row['test_r']:10.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 targets instead of 20,000")
    parser.add_argument("--features", type=int, nargs="+", default=[768, 5000])
    parser.add_argument("--targets", type=int)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--banded", action="store_true", help="two bands and three draws of their weights")
    parser.add_argument("--skip", nargs="*", default=[], choices=list(SOLVERS))
    parser.add_argument("--measure", choices=list(SOLVERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder)))
        return
    n_targets = arguments.targets or (4000 if arguments.quick else 20000)
    summary = {}
    for n_features in arguments.features:
        # Unbatched, himalaya's primal form needs some 6 GB at 5,000 features.
        skipped = {*arguments.skip, *(["himalaya_ridge"] if n_features > N_TRAIN else [])}
        solvers = BANDED if arguments.banded else ONE_PENALTY
        names = [solver.__name__ for solver in solvers if solver.__name__ not in skipped]
        results = compare(n_features, n_targets, arguments.repeats, names)
        print_table(n_features, n_targets, results)
        summary[str(n_features)] = results
    print(json.dumps({"n_samples": N_TRAIN, "n_targets": n_targets, "features": summary}))


if __name__ == "__main__":
    main()
