"""One server of really fitted models, which all faults of this folder befall one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .process import ServerProcess, server_process


@pytest.fixture(scope="session")
def live_models(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models that the server serves, which tests may spoil and mend."""
    return Path(shutil.copytree(models_folder, tmp_path_factory.mktemp("live") / "models"))


@pytest.fixture(scope="session")
def server(live_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that must outlive every test, and end in order after the last one."""
    folder = tmp_path_factory.mktemp("served")
    warm = ("ridge", "subject-01/decoder")
    with server_process(folder / "log", models=live_models, data=folder / "data", warm_up=warm) as found:
        yield found
        assert found.alive
        assert found.end() == 0


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """The server's process outlives the test, and nothing of it was a bug of the server's own."""
    uses = "server" in request.fixturenames
    found: ServerProcess | None = request.getfixturevalue("server") if uses else None
    before = len(found.lines()) if found else 0
    yield
    if found:
        assert found.alive
        bugs = [line for line in found.lines()[before:] if line["level"] == "error"]
        assert not bugs, bugs[0]
