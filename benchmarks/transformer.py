"""The transformer encoder beside a plain re-implementation of the original's training step (`original_step.py`).

CPU time of one thread (of all threads of the process, so that reading counts), variants in turns, smallest and median
of the repetitions after one that is not counted; a full step includes the optimiser. An image has 961 tokens of 768
channels, a hemisphere 25 queries; 19,004 + 20,544 vertices; batches of 8. Weights, tokens and responses are random, on
which time does not depend. Vertex queries are trained in a process of their own, whose peak memory is that of the step.

    python benchmarks/transformer.py                    all parts; writes benchmarks/results/transformer.json
    python benchmarks/transformer.py --quick            an eighth of the vertices, batches of 4, fewer repetitions
    python benchmarks/transformer.py --only regions     some parts: cache regions readout vertices options growth gpu
    python benchmarks/transformer.py --accuracy         what pooling of tokens costs in the miniature world
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from original_step import (
    CLIP,
    GRID,
    HIDDEN,
    LEARNING_RATE,
    PATCH,
    FrozenBackbone,
    OriginalEncoder,
    hemisphere_loss,
    make_optimiser,
    train_step,
)
from provenance import RESULTS, provenance
from ridge import peak_mb
from torch import Tensor, nn
from transformer_gpu import gpu
from transformer_setting import (
    N_TOKENS,
    NEUROIDS,
    VERTEX_BATCH,
    VERTEX_QUERIES,
    Setting,
    neuroids,
    one_brain,
    penfield,
    penfield_optimiser,
    penfield_step,
    write_store,
)
from turns import growth_exponent, over, print_part, take_turns

from encoders import Features
from encoders.attention.predictor import Predictor
from encoders.attention.readouts import DiagonalReadout
from encoders.attention.stream import TokenStream
from encoders.attention.training import train

OUT = RESULTS / "transformer.json"
Part = dict[str, Any]


def cache(setting: Setting) -> Part:
    """A full step on tokens read from a feature store (Zarr, float16), and one with the backbone in the loop."""
    sides, measured = setting.regions(), setting.responses()
    original, backbone = OriginalEncoder(sides), FrozenBackbone()
    optimiser = make_optimiser(original)
    images = torch.randn(setting.batch, 3, PATCH * GRID[0], PATCH * GRID[1])
    own, steps = penfield(one_brain(sides)), setting.stored // setting.batch
    targets = torch.cat(setting.responses(setting.stored), 1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        features = write_store(Path(folder, "tokens.zarr"), setting.stored)

        def original_pass() -> None:
            for start in range(0, setting.stored, setting.batch):
                tokens = torch.from_numpy(features.read(slice(start, start + setting.batch)))
                train_step(original, optimiser, tokens, measured)

        def own_epoch() -> float:
            """The second of two epochs, from its reading to its last step; the first one also sets up the optimiser."""
            ends: list[float] = []
            streams = [_stream(features, n, setting) for n in (setting.stored, 1)]
            validation = streams[1], targets[:1]
            train(
                own, streams[0], targets, validation, epochs=2, learning_rate=LEARNING_RATE, clip=CLIP,
                device=torch.device("cpu"), on_event=lambda event: ends.append(time.process_time()),
            )  # fmt: skip
            return ends[-1] - ends[steps - 1]

        times = take_turns(
            {
                "original, backbone in the loop": lambda: train_step(original, optimiser, images, measured, backbone),
                "original, cached tokens": original_pass,
                "Penfield, cached tokens": own_epoch,
            },
            setting.slow_repeats,
            per={"original, cached tokens": steps, "Penfield, cached tokens": steps},
        )
    return {"times": times, "ratios": over(times, "original, backbone in the loop")}


def _stream(features: Features, n: int, setting: Setting) -> TokenStream:
    return TokenStream([features], [np.arange(n)], batch_size=setting.batch, in_memory=0)


def regions(setting: Setting) -> Part:
    """Region queries: each vertex from its own query, and every query times every vertex and a mask."""
    sides, tokens, measured = setting.regions(), setting.tokens(), setting.responses()
    original, own = OriginalEncoder(sides), penfield(one_brain(sides))
    optimiser, own_optimiser = make_optimiser(original), penfield_optimiser(own)
    targets = torch.cat(measured, 1)

    def original_pass() -> None:
        original.zero_grad()
        hemisphere_loss(original(tokens), measured).backward()

    def own_pass() -> None:
        own.zero_grad()
        F.mse_loss(own([tokens]), targets).backward()

    passes = take_turns({"original": original_pass, "Penfield": own_pass}, setting.repeats)
    steps = take_turns(
        {
            "original": lambda: train_step(original, optimiser, tokens, measured),
            "Penfield": lambda: penfield_step(own, own_optimiser, tokens, targets),
        },
        setting.repeats,
    )
    return {
        "forward and backward": {"times": passes, "ratios": over(passes, "original")},
        "full step": {"times": steps, "ratios": over(steps, "original")},
        "relative difference, same weights": {
            str(dtype).removeprefix("torch."): agreement(setting, dtype) for dtype in (torch.float32, torch.float64)
        },
    }


def agreement(setting: Setting, dtype: torch.dtype) -> dict[str, float]:
    """Relative difference of the loss and, at most, of a weight's gradient, with the same weights and no dropout."""
    sides = setting.regions()
    original, own = OriginalEncoder(sides, dropout=0).to(dtype), penfield(one_brain(sides), dropout=0.0).to(dtype)
    with torch.no_grad():
        original.position.copy_(own.routing.position)
        for mine, theirs in correspondence(own, original, lambda parameter: parameter.data):
            mine.copy_(theirs)
    tokens, measured = setting.tokens().to(dtype), [y.to(dtype) for y in setting.responses()]
    losses = [
        hemisphere_loss(own([tokens]).split([len(side) for side in sides], 1), measured),
        hemisphere_loss(original(tokens), measured),
    ]
    for loss in losses:
        loss.backward()
    gradients = correspondence(own, original, lambda parameter: parameter.grad)
    mine, theirs = (loss.item() for loss in losses)
    return {
        "loss": abs(mine - theirs) / theirs,
        "gradient": max(float((a - b).norm() / b.norm()) for a, b in gradients),
    }


def correspondence(
    own: Predictor, original: OriginalEncoder, value: Callable[[nn.Parameter], Any]
) -> list[tuple[Tensor, Tensor]]:
    """The same weights, or gradients, of both networks."""
    layer, attention, readout = own.routing.layers[0], original.attention, own.readout
    query, key, found = value(attention.in_proj_weight).chunk(3)
    query_bias, _, found_bias = value(attention.in_proj_bias).chunk(3)
    rows = [torch.cat([value(getattr(side, name)) for side in original.readouts]) for name in ("weight", "bias")]
    pairs = [
        (own.routing.query, value(original.query.weight)),
        (layer.query.weight, query), (layer.query.bias, query_bias),
        (layer.key.weight, key),
        (layer.value.weight, found), (layer.value.bias, found_bias),
        (readout.weight, rows[0][readout.order]), (readout.bias, rows[1][readout.order]),
    ]  # fmt: skip
    modules = [
        (layer.out, attention.out_proj), (layer.norm2, original.norm2), (layer.expand, original.expand),
        (layer.contract, original.contract), (own.routing.norm, original.norm),
    ]  # fmt: skip
    pairs += [(a, value(b)) for m, n in modules for a, b in ((m.weight, n.weight), (m.bias, n.bias))]
    return [(value(a), b) for a, b in pairs]


def readout(setting: Setting) -> Part:
    """The vertex read-out alone, forward and backward: einsum, and the diagonal of a V x V product."""
    sizes = [round(n * min(1, 4 * setting.share)) for n in (1000, 2000, 4000)]
    return {f"{n} vertices": _readout(n, setting.repeats) for n in sizes}


def _readout(n: int, repeats: int, batch: int = 4) -> Part:
    gathered, upstream = torch.randn(batch, n, HIDDEN, requires_grad=True), torch.randn(batch, n)
    own, product = DiagonalReadout(n, HIDDEN), nn.Linear(HIDDEN, n)
    product.load_state_dict(own.state_dict())
    weights = [gathered, *own.parameters(), *product.parameters()]

    def differentiate(respond: Callable[[Tensor], Tensor]) -> None:
        for weight in weights:
            weight.grad = None
        respond(gathered).backward(upstream)

    def diagonal(gathered: Tensor) -> Tensor:
        return product(gathered).diagonal(dim1=1, dim2=2)

    times = take_turns({"original": partial(differentiate, diagonal), "Penfield": partial(differentiate, own)}, repeats)
    gradients = []
    for module, respond in ((own, own), (product, diagonal)):
        differentiate(respond)
        gradients.append([gathered.grad, module.weight.grad, module.bias.grad])
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(*gradients, strict=True))
    return {"times": times, "ratios": over(times, "original"), "gradient difference": difference}


def options(setting: Setting) -> Part:
    """What folding keys into the queries, pooling tokens and bfloat16 on the CPU save of a full step."""
    brain, tokens, targets = one_brain(setting.regions()), setting.tokens(), torch.cat(setting.responses(), 1)
    half = (GRID[0] + 1) // 2, (GRID[1] + 1) // 2
    choices: dict[str, dict[str, Any]] = {
        "as it is": {},
        "keys folded into the queries": {"fold_keys": True},
        "tokens pooled to 16 x 16": {"grid": half},
        "folded and pooled": {"fold_keys": True, "grid": half},
        "4 heads, folded": {"n_heads": 4, "fold_keys": True},
        "bfloat16": {},
        "bfloat16, folded": {"fold_keys": True},
    }
    variants = {}
    for name, chosen in choices.items():
        module = penfield(brain, **chosen)
        optimiser, bf16 = penfield_optimiser(module), name.startswith("bfloat16")
        variants[name] = partial(penfield_step, module, optimiser, tokens, targets, bf16=bf16)
    times = take_turns(variants, setting.repeats)
    return {"times": times, "ratios": over(times, "as it is")}


def growth(setting: Setting) -> Part:
    """How a step's cost grows with images a batch and with vertices, by routing; `exponent` is 1 where it is linear."""
    part: Part = {}
    for n_images in (setting.batch, 2 * setting.batch, 4 * setting.batch):
        part.setdefault("images, region queries", {})[n_images] = one_brain(setting.regions()), "roi", n_images
    for share in (0.25, 0.5, 1):
        smaller = Setting(setting.share * share)
        part.setdefault("vertices, region queries", {})[sum(smaller.vertices)] = (
            one_brain(smaller.regions()), "roi", setting.batch
        )  # fmt: skip
    largest = round(4000 * setting.share)
    for n in (largest // 4, largest // 2, largest):
        part.setdefault("vertices, vertex queries", {})[n] = neuroids(n), "vertex", setting.batch
    for n_images in (setting.batch // 2, setting.batch, 2 * setting.batch):
        part.setdefault("images, vertex queries", {})[n_images] = neuroids(largest // 4), "vertex", n_images
    return {name: _growth(sizes, setting.slow_repeats) for name, sizes in part.items()}


def _growth(sizes: dict[int, tuple[Any, str, int]], repeats: int) -> Part:
    variants = {}
    for size, (brain, routing, n_images) in sizes.items():
        module, targets = penfield(brain, routing), torch.randn(n_images, len(brain.index))
        optimiser, tokens = penfield_optimiser(module), torch.randn(n_images, N_TOKENS, HIDDEN)
        together = NEUROIDS if routing == "vertex" else None
        variants[str(size)] = partial(penfield_step, module, optimiser, tokens, targets, together)
    times = take_turns(variants, repeats)
    exponent = growth_exponent(list(sizes), [times[str(size)]["seconds"] for size in sizes])
    return {"times": times, "exponent": exponent}


def vertices(setting: Setting) -> Part:
    """One step of vertex queries in a process of its own: CPU seconds and peak resident memory."""
    n = round(VERTEX_QUERIES * setting.share)
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--vertex-step", str(n)]
    measured = json.loads(
        subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    # A V x V product an image, float32, which the original's read-out keeps the diagonal of.
    return measured | {"original_readout_gb": 4e-9 * VERTEX_BATCH * n**2}


def vertex_step(n: int) -> dict[str, float]:
    """Train vertex queries for one step in this process, `NEUROIDS` at a time."""
    module = penfield(neuroids(n), "vertex")
    optimiser = penfield_optimiser(module)
    tokens, targets = torch.randn(VERTEX_BATCH, N_TOKENS, HIDDEN), torch.randn(VERTEX_BATCH, n)
    started = time.process_time()
    penfield_step(module, optimiser, tokens, targets, NEUROIDS)
    seconds = time.process_time() - started
    return {"vertices": n, "images": VERTEX_BATCH, "cpu_seconds": seconds, "peak_gb": peak_mb() / 1024}


PARTS = {part.__name__: part for part in (cache, regions, readout, vertices, options, growth, gpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the vertices, batches of 4")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--accuracy", action="store_true", help="noise-normalised r with and without token pooling")
    parser.add_argument("--out", type=Path, help=f"JSON file; by default {OUT.name}, or none with --quick")
    parser.add_argument("--vertex-step", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.vertex_step:
        print(json.dumps(vertex_step(arguments.vertex_step)))
        return
    setting = Setting(1 / 8, 4, 16, 3, 2) if arguments.quick else Setting()
    parts: dict[str, Callable[[], Part]] = {name: partial(PARTS[name], setting) for name in arguments.only}
    if arguments.accuracy:
        from transformer_accuracy import accuracy

        parts = {"accuracy": partial(accuracy, *((300, 1) if arguments.quick else ()))}
    results, origin = {}, provenance()
    print(f"{'seconds a step':<44}{'smallest':>10}{'median':>10}{'times faster':>20}")
    for name, part in parts.items():
        found = part()
        print_part(name, found)
        results[name] = origin | found
    if out := arguments.out or (None if arguments.quick else OUT):
        out.parent.mkdir(parents=True, exist_ok=True)
        earlier = json.loads(out.read_text()) if out.exists() else {}
        out.write_text(json.dumps(earlier | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
