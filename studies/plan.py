"""How long a run will take and how much memory it will need, measured on a small part of it."""

from __future__ import annotations

import copy
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from decoders import LatentDecoder
from encoders import Encoder, FeatureExtractor, Features, TransformerEncoder, extract
from encoders.linear import LinearEncoder
from recordings import Recording, Stimuli

PROBE_SECONDS = 2.0
PROBE_SIDE = 400
PROBE_STIMULI = 50
PROBE_BATCHES = 2
# As much of the tokens and of the responses as training holds in memory.
TOKEN_BYTES, RESPONSE_BYTES = 2e9, 1e9
FLOAT32 = 4


@dataclass(frozen=True)
class Plan:
    """Estimated cost of a run.

    Attributes
    ----------
    seconds : wall time on this machine as it is now.
    memory : peak resident memory in bytes, the program itself included.
    disk : bytes written.
    """

    seconds: float
    memory: float
    disk: float

    def __add__(self, other: Plan) -> Plan:
        """One run after the other."""
        return Plan(self.seconds + other.seconds, max(self.memory, other.memory), self.disk + other.disk)

    def to_dict(self) -> dict[str, Any]:
        """Seconds and gigabytes (1e9 bytes), three digits of them."""
        values = {"seconds": self.seconds, "memory_gb": self.memory / 1e9, "disk_gb": self.disk / 1e9}
        return {"estimate": {name: float(f"{value:.3g}") for name, value in values.items()}}


def extrapolate(step: Callable[[int], object], total: int, first: int) -> tuple[float, float]:
    """Seconds that do not depend on the number of items, and seconds that all `total` items take together.

    Times ``step(n)`` for a growing number of items, at most about `PROBE_SECONDS`, and draws a line through the last
    two; what the very first call took longer, to load and compile, is paid once.
    """
    n = min(first, total)
    start_up = _seconds(step, n)
    timings = [(n, _seconds(step, n))]
    start_up = max(start_up - timings[0][1], 0.0)
    while n < total and (len(timings) == 1 or sum(t for _, t in timings) < PROBE_SECONDS / 3):
        n = min(2 * n, total)
        timings.append((n, _seconds(step, n)))
    n_2, t_2 = timings[-1]
    if n_2 == total:
        return start_up, t_2
    n_1, t_1 = timings[-2]
    slope = max((t_2 - t_1) / (n_2 - n_1), 0.1 * t_2 / n_2)
    return start_up + max(t_2 - slope * n_2, 0.0), slope * total


def _seconds(step: Callable[[int], object], n: int) -> float:
    start = time.perf_counter()
    step(n)
    return time.perf_counter() - start


def resident_memory() -> float:
    """Peak resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def plan_extraction(extractor: FeatureExtractor, stimuli: Stimuli, **how: Any) -> Plan:
    """Cost of `encoders.extract`, from extracting features of the first stimuli into a temporary store.

    Parameters
    ----------
    how : layers, readout, batch_size and other arguments of `encoders.extract`.
    """
    written = {0: 0}

    def step(n: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "probe.zarr"
            extract(extractor, stimuli.take(slice(0, n)), store, **how)
            written[n] = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())

    fixed, each = extrapolate(step, len(stimuli), first=min(how.get("batch_size", 32), 32))
    n = max(written)
    return Plan(fixed + each, resident_memory(), written[n] * len(stimuli) / n)


def plan_encoder(encoder: Encoder, features: Mapping[str, Features], train: Recording) -> Plan:
    """Cost of fitting an encoder, from fits to a part of the data or to random numbers."""
    if isinstance(encoder, TransformerEncoder):
        return _plan_transformer(encoder, features, train)
    assert isinstance(encoder, LinearEncoder)
    return _plan_ridge(encoder, features, train)


def _plan_transformer(encoder: TransformerEncoder, features: Mapping[str, Features], train: Recording) -> Plan:
    """From a few epochs on a few batches; time is taken to grow in proportion to epochs and stimuli."""
    ids = list(dict.fromkeys(train.stimulus_ids))
    given = features if len(features) > 1 else next(iter(features.values()))
    n = min(PROBE_BATCHES * encoder.batch_size, len(ids) - 2)
    n_held = max(2, min(round(encoder.validation * n), len(ids) - n))
    parts = [train.where(stimulus_id=part) for part in (ids[:n], ids[-n_held:])]
    # Repetitions are averaged before the fit, unless rows are moments of a time series.
    shown, held = parts if encoder.delays else [part.average_repetitions() for part in parts]
    size: dict[str, int] = {}

    def step(epochs: int) -> None:
        probe = copy.deepcopy(encoder)
        probe.epochs, probe.refit = epochs, False
        probe.fit(given, shown, validation=held)
        size["weights"] = FLOAT32 * sum(p.numel() for p in probe.module_.parameters())

    fixed, training = extrapolate(step, encoder.epochs, first=1)
    tokens = sum(len(ids) * int(np.prod(space.shape[1:])) * space.dtype.itemsize for space in features.values())
    held_in_memory = min(tokens, TOKEN_BYTES) + min(FLOAT32 * len(ids) * train.n_neuroids, RESPONSE_BYTES)
    # The probe has held the weights, their gradients and the optimiser's moments already.
    return Plan(fixed + training * len(ids) / n, resident_memory() + held_in_memory, size["weights"])


def _plan_ridge(encoder: LinearEncoder, features: Mapping[str, Features], train: Recording) -> Plan:
    """From fits to random numbers with fewer rows, features and neuroids.

    Decomposition grows with the cube of the smaller side of the design, and what each neuroid adds with its square; the
    probe shrinks both sides alike, and is scaled back by these powers.
    """
    n = len(train) if encoder.delays else len(set(train.stimulus_ids))
    copies = max(len(encoder.delays or ()), 1)
    shapes = {name: space.shape[2:] if encoder.pool else space.shape[1:] for name, space in features.items()}
    widths = {name: int(np.prod(shape)) * copies for name, shape in shapes.items()}
    shrink = min(1.0, PROBE_SIDE / min(n, sum(widths.values())))
    rows = max(int(n * shrink), 4 * int(encoder.cv) if isinstance(encoder.cv, int) else 20)
    rng, ids = np.random.default_rng(0), [f"s{i}" for i in range(rows)]
    spaces = {
        name: Features.from_arrays(rng.standard_normal((rows, max(int(w * shrink) // copies, 1)), np.float32), ids)
        for name, w in widths.items()
    }
    given = spaces if len(spaces) > 1 else next(iter(spaces.values()))

    def step(targets: int) -> None:
        responses = Recording(rng.standard_normal((rows, targets), np.float32), {"stimulus_id": ids})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            probe = copy.deepcopy(encoder)
            probe.pool = False
            probe.fit(given, responses)

    fixed, each = extrapolate(step, train.n_neuroids, first=min(64, train.n_neuroids))
    columns = sum(widths.values())
    kernel = encoder.solver == "kernel" or (encoder.solver == "auto" and columns > n)
    weights = (n if kernel else columns) * train.n_neuroids
    folds = encoder.cv if isinstance(encoder.cv, int) else 1
    working = 3 * n * columns + (folds + 2) * n * min(n, columns) + weights
    return Plan(fixed / shrink**3 + each / shrink**2, resident_memory() + FLOAT32 * working, FLOAT32 * weights)


def plan_decoder(decoder: LatentDecoder, features: Features, train: Recording) -> Plan:
    """Cost of fitting a decoder, from fits to the first stimuli only; time is taken to grow in proportion to these."""
    ids = list(dict.fromkeys(train.stimulus_ids))
    columns = int(np.prod(features.shape[1:]))

    def step(n: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy.deepcopy(decoder).fit(train.where(stimulus_id=ids[:n]), features)

    fixed, each = extrapolate(step, len(ids), first=PROBE_STIMULI)
    weights = train.n_neuroids * columns
    working = len(train) * train.n_neuroids + 3 * len(ids) * columns + 2 * weights
    return Plan(fixed + each, resident_memory() + FLOAT32 * working, FLOAT32 * weights)
