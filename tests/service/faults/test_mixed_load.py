"""Two minutes of everything at once; `benchmarks/service_load.py --minutes` has more of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ..conftest import DECODER, ENCODER

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
SECONDS = 120.0


@pytest.mark.slow
def test_two_minutes_of_mixed_load_lose_nothing_and_grow_nothing(server, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from service_mixed import mixed_load

    load = mixed_load(server.target, server.process.pid, ENCODER, DECODER, seconds=SECONDS, folder=tmp_path)
    found = asyncio.run(load)
    assert not found["lost"], found["lost"][:3]
    assert min(found["answered"][kind] for kind in ("encode", "decode", "upload", "list")) >= 5
    assert found["growth"] <= 0.05, found
