"""A whole server in a process of its own, as a user runs it, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
RUN = "import json, sys; from service.server import run; from service.settings import ServerSettings as S; "
RUN += "run(S(**json.loads(sys.argv[1])))"
START_SECONDS = 120.0


class ServerProcess:
    """A server that is started at once, with its log in a file.

    Parameters
    ----------
    log : file of its standard error. before : command that the server's own is given to.
    settings : of the server; any port, and metrics on any port.
    """

    def __init__(self, log: Path, *, before: Sequence[str] = (), **settings: Any):
        values = {"port": 0, "device": "cpu", "metrics_port": 0, "log_format": "json", "drain_pause": 0.1, **settings}
        text = json.dumps(values, default=str)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-c", RUN, text], stderr=file, env=environment, cwd=ROOT
            )
        self.port = 0
        self.metrics_port = 0

    @property
    def target(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, as far as it is log lines."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def wait(self) -> ServerProcess:
        """Until it is ready."""
        end = time.monotonic() + START_SECONDS
        while not any(line["message"] == "ready" for line in self.lines()):
            assert self.alive and time.monotonic() < end, self.log.read_text(errors="replace")[-3000:]
            time.sleep(0.05)
        listening = next(line for line in self.lines() if line["message"] == "listening")
        self.port, self.metrics_port = listening["port"], listening["metrics_port"]
        return self

    def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric over the labels that are not given."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        total = 0.0
        for found in re.finditer(rf"^penfield_{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
            if all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
                total += float(found[2])
        return total

    def memory(self, kind: str = "VmRSS") -> int:
        """Bytes in use; with "VmHWM" the most that ever were since `forget_peak`, with "VmSize" of addresses."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Let the peak of memory begin at what is in use now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def server_process(log: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A server that is ready, and is killed at the end if it still runs."""
    server = ServerProcess(log, **settings)
    try:
        yield server.wait()
    finally:
        server.process.kill()
        server.process.wait()
