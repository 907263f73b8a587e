"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Nothing in a test may reach for the network; the loopback hub tests set their own endpoint.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# As in the command line: threads that spin while they wait would slow a busy machine down severalfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a process a core already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With PENFIELD_NO_SKIPS set, as in CI, a test that skips has failed, unless it needs a GPU."""
    outcome = yield
    report = outcome.get_result()
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("PENFIELD_NO_SKIPS") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may skip: {report.longrepr}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real recordings: PENFIELD_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PENFIELD_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; set PENFIELD_DATA")
    return folder
