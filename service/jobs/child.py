"""`Child`: the process of one job, as the server sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

WORKER = (sys.executable, "-P", "-m", "service.jobs.worker")
MAX_LINE = 1 << 20
LOG = "log.txt"
# What a log says should be a job's own.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


class Child:
    """A process that is told what to do on standard input and tells of it on standard output, a line an event.

    It is not this process's in the eyes of the terminal, so that Ctrl-C reaches the server alone, which stops it in
    order. It sees the server's end by its standard input.
    """

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    @classmethod
    async def start(cls, spec: dict[str, Any], command: Sequence[str] = WORKER) -> Self:
        """Start the process of a job."""
        folder = Path(spec["folder"])
        # Nothing that a caller has written can be imported: -P, and the packages by their own place.
        packages = str(Path(__file__).resolve().parents[2])
        given = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
        descriptor = await asyncio.to_thread(_open_log, folder / LOG)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=descriptor,
                cwd=folder,
                env={**os.environ, **QUIET, "PYTHONPATH": given},
                limit=MAX_LINE,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        child = cls(process)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            await process.stdin.drain()
        except ConnectionError:
            # It died at once, as its events and its exit will tell.
            pass
        return child

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What it tells, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                # Killed in the middle of a line.
                continue
            if isinstance(event, dict):
                yield event

    async def ended(self) -> str:
        """Wait for its end: how it ended, in words."""
        code = await self._process.wait()
        return f"{signal.Signals(-code).name} ended its process" if code < 0 else f"its process ended with {code}"

    def stop(self) -> None:
        """Ask it to stop at its next step."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what it has started."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
