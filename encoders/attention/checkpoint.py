"""A training run on disk: weights, the best weights so far, the optimiser's moments, and how far it is.

All of it is one safetensors file, so that it is replaced at once and loading it runs no code. (Accelerate's own states
pickle what is no weight.) The order of pictures and dropout follow from seed and step; no generator's state is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from recordings.errors import ArtifactError
from recordings.storage import atomic_path

FORMAT_VERSION = 1
_REMEDY = "Give another folder for checkpoints, or delete this file to begin anew"


def save_checkpoint(
    path: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    best: dict[str, Tensor],
    progress: dict[str, Any],
    fingerprint: dict[str, str],
) -> None:
    """Write a run's state; `progress` and `fingerprint` are JSON values."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in moments.items()}
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "progress": json.dumps(progress),
        "fingerprint": json.dumps(fingerprint),
    }
    with atomic_path(path, overwrite=True) as part:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part, metadata)


def load_checkpoint(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, fingerprint: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Bring module and optimiser to the state of a run; give its best weights and progress.

    Raises
    ------
    ArtifactError : not a whole checkpoint, or one of other settings or data; says what differs.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format_version") != str(FORMAT_VERSION):
                raise ArtifactError(f"not a checkpoint of format {FORMAT_VERSION}", where=path, remedy=_REMEDY)
            _check(path, json.loads(metadata["fingerprint"]), fingerprint)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"the checkpoint cannot be read ({error})", where=path, remedy=_REMEDY) from error
    module.load_state_dict(_below(tensors, "module"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimiser").items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return _below(tensors, "best"), json.loads(metadata["progress"])


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{prefix}."): value for n, value in tensors.items() if n.startswith(f"{prefix}.")}


def _check(path: Path, stored: dict[str, str], now: dict[str, str]) -> None:
    differing = [name for name in now if stored.get(name) != now[name]]
    if differing:
        raise ArtifactError(
            f"the checkpoint is of another run: {'; '.join(_difference(n, stored.get(n), now[n]) for n in differing)}",
            where=path,
            remedy=_REMEDY,
        )


def _difference(name: str, stored: str | None, now: str) -> str:
    """The name of what differs; of settings in JSON, each that differs, with its values."""
    try:
        before, after = json.loads(stored or ""), json.loads(now)
        changed = [
            f"{key} was {before.get(key)!r}, is {after[key]!r}" for key in after if before.get(key) != after[key]
        ]
        return f"{name} ({', '.join(changed)})"
    except (ValueError, AttributeError):
        return f"other {name}"
