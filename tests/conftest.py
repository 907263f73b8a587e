"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

# Nothing in a test may reach for the network; the loopback hub tests set their own endpoint.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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
