"""What a job tells its caller: JSON values, without the server's own paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from service.verbs import Reference

from .records import Failure

TEXTS = (".json", ".toml", ".csv", ".md", ".html", ".txt")
MAX_TEXT = 64 << 20


class Places:
    """The references that a caller knows for folders of the server.

    Parameters
    ----------
    spec : of a job, see `service.jobs.worker.carry_out`.
    """

    def __init__(self, spec: Mapping[str, Any]):
        job = Path(spec["folder"])
        known = {str(job / name): f"job:{spec['id']}" for name in ("part", "result")}
        known[str(job)] = f"job:{spec['id']}"
        known |= {str(place): Reference(reference).root for reference, place in spec["places"].items()}
        # Whatever else is shown of the server's folders, say of a model inside a model, loses its beginning.
        known |= {str(job.parent.parent): "server:", str(Path(spec["models"])): "model:"}
        self._known = sorted(known.items(), key=lambda pair: -len(pair[0]))

    def hide(self, text: str) -> str:
        """The text with references for paths."""
        for place, reference in self._known:
            text = text.replace(place, reference)
        return text

    def hide_in(self, value: Any) -> Any:
        """The same JSON values with references for paths in all of their texts."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, dict):
            return {self.hide(k): self.hide_in(v) for k, v in value.items()}
        return [self.hide_in(v) for v in value] if isinstance(value, list) else value

    def hide_in_folder(self, folder: Path) -> None:
        """Write the same text files with references for paths; reports and provenance name what was read."""
        for path in folder.rglob("*"):
            if path.suffix.lower() not in TEXTS or not path.is_file() or path.stat().st_size > MAX_TEXT:
                continue
            before = path.read_text(encoding="utf-8", errors="surrogateescape")
            after = self.hide(before)
            if after != before:
                path.write_text(after, encoding="utf-8", errors="surrogateescape")


def failure_values(error: BaseException, id: str) -> Failure:
    """Code, message and reason of an error, as a job's caller is told; `id` of the job leads its keeper to the log."""
    from service.status import failure_of

    failure = failure_of(error, id)
    return failure.code, failure.message, failure.reason


def plain(value: Any) -> Any:
    """JSON values of NumPy numbers, paths and the like; numbers that JSON cannot hold become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PathLike) else value
