"""What is needed to repeat a measurement: its command, the commit at which it began, and the machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, str]:
    """Of the running benchmark; ask before it measures, since others may commit meanwhile."""
    head = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": subprocess.run(head, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {torch.get_num_threads()} thread used, torch {torch.__version__}",
    }
