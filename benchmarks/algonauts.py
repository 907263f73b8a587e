"""A subject of the size of Algonauts 2023 from its files to a score: seconds, and peak memory of every step.

Each step is the command that a person would type, a process of its own; memory is that of the process and all its
children together, sampled, or the largest that the kernel has seen of one of them, whichever is more. Files are made by
``scripts.examples.algonauts_layout``: 19,004 + 20,544 vertices, 425 x 425 pixels. The backbone is a ViT-B/14 as DINOv2
is, with random weights, on 434 x 434 pixels: 31 x 31 tokens of 768 channels. More blocks only take more time.

    python benchmarks/algonauts.py            300 pictures, 2 blocks, 2 epochs; writes benchmarks/results/algonauts.json
    python benchmarks/algonauts.py --quick    40 pictures, 1 block, 1 epoch
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from provenance import RESULTS, provenance

ROOT = Path(__file__).resolve().parents[1]
OUT = RESULTS / "algonauts.json"
LIMIT_MB = 8 * 1024
# The groups that the paper takes; streams would put every vertex in a large region as well.
GROUPS = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words")


def save_backbone(folder: Path, depth: int) -> None:
    """Write a ViT-B/14 with random weights as timm does."""
    import timm
    import torch
    from timm.models import save_for_hf

    torch.manual_seed(0)
    arguments = {"img_size": 434, "depth": depth}
    model = timm.create_model("vit_base_patch14_dinov2", pretrained=False, **arguments)
    config = {"input_size": (3, 434, 434), "crop_pct": 1.0, "interpolation": "bicubic"}
    config |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    save_for_hf(
        model,
        folder,
        model_args=arguments,
        model_config={"num_classes": 0},
        safe_serialization=True,
        data_config=config,
    )


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    """What is run, step by step, in a folder of its own."""
    layer = f"blocks.{given.depth - 1}"
    groups = [word for group in GROUPS for word in ("--groups", group)]
    shown = ["-f", "tokens.zarr", "-r", "subj01.zarr"]
    how = ["--model", "transformer", "--routing", given.routing, "--epochs", str(given.epochs)]
    penfield = ["-m", "scripts.penfield"]
    return {
        "make": ["-m", "scripts.examples.algonauts_layout", "subj01", "--images", str(given.images)],
        "import": [*penfield, "import", "algonauts2023", "subj01", "--out", "subj01.zarr", *groups],
        "features": [
            *penfield, "features", "subj01-stimuli", "--model", "timm:backbone", "--layer", layer,
            "--readout", "tokens", "--store-dtype", "float16", "--batch-size", "8", "--out", "tokens.zarr",
        ],
        "fit": [*penfield, "encode", "fit", *shown, *how, "--split", "stimulus:0.1", "--out", "model", *given.option],
        "evaluate": [*penfield, "encode", "evaluate", "-m", "model", *shown],
    }  # fmt: skip


def run(step: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Run a step; its seconds, its peak memory in MB, and what it printed as JSON."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    machine_readable = ["--json"] if "scripts.penfield" in words else []
    with (folder / f"{step}.log").open("w") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words, *machine_readable],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        peak = Peak(process.pid)
        printed = process.communicate()[0]
        seconds = time.perf_counter() - started
        sampled = peak.stop()
    if process.returncode:
        raise SystemExit(f"{step} failed:\n" + (folder / f"{step}.log").read_text()[-3000:] + printed[-2000:])
    result = {"seconds": round(seconds, 1), "peak_mb": round(sampled)}
    print(f"{step:>10}{seconds:9.1f} s{sampled:8.0f} MB", file=sys.stderr)
    return result | {"printed": json.loads(printed)}


class Peak(threading.Thread):
    """Watches the memory of a process and its descendants, from /proc (Linux)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_kb, self.ended = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            tree = _descendants(self.pid)
            together = sum(_status(pid, "VmRSS") for pid in tree)
            alone = max((_status(pid, "VmHWM") for pid in tree), default=0)
            self.peak_kb = max(self.peak_kb, together, alone)

    def stop(self) -> float:
        """The peak in MB."""
        self.ended.set()
        self.join()
        return self.peak_kb / 1024


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        found += [each for child in children for each in _descendants(int(child))]
    return found


def _status(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def summary(answer: dict[str, Any]) -> dict[str, Any]:
    """Score of the whole and of each region."""
    kept = ("center", "low", "high", "shuffled", "shuffled_standard_error", "n_train", "n_test")
    return {name: answer[name] for name in (*kept, "roi") if name in answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int)
    parser.add_argument("--depth", type=int, help="blocks of the backbone")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--routing", default="roi")
    parser.add_argument("--option", nargs="*", default=[], help="further words for encode fit")
    parser.add_argument("--until", default="evaluate", help="last step to run")
    parser.add_argument("--scratch", type=Path, help="folder to work in; by default a temporary one")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.images = given.images or (40 if given.quick else 300)
    given.depth = given.depth or (1 if given.quick else 2)
    given.epochs = given.epochs or (1 if given.quick else 2)
    origin = provenance()
    with tempfile.TemporaryDirectory(dir=given.scratch) as temporary:
        folder = Path(temporary)
        save_backbone(folder / "backbone", given.depth)
        steps = {}
        for step, words in commands(given).items():
            steps[step] = run(step, words, folder) | {"command": shlex.join(["python", *words])}
            if step == given.until:
                break
    peak = max(step["peak_mb"] for step in steps.values())
    answers = {name: step.pop("printed") for name, step in steps.items()}
    result = {
        **origin, "images": given.images, "vertices": 39_548,
        "tokens": [961, 768], "backbone_blocks": given.depth, "epochs": given.epochs, "routing": given.routing,
        "peak_mb": peak, "limit_mb": LIMIT_MB, "within_limit": peak <= LIMIT_MB, "steps": steps,
        "score": summary(answers.get("evaluate", {})),
    }  # fmt: skip
    if given.until == "evaluate":
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
