"""A server with a playground in a thread, and an encoder whose units lie on the cortex."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encoders import Features, RidgeEncoder
from recordings import Recording
from recordings.miniature.cortex import SPACE, layout
from service.server import Server
from service.settings import ServerSettings

CORTEX = "cortex"


@pytest.fixture(scope="session")
def playground_models(models_folder: Path, scene_features: Features, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `models_folder` with `CORTEX` beside."""
    folder = tmp_path_factory.mktemp("playground") / "models"
    shutil.copytree(models_folder, folder)
    values, neuroids = scene_features.read(), layout().iloc[::3].reset_index(drop=True)
    mixed = (values - values.mean(0)) @ np.random.default_rng(0).standard_normal((values.shape[1], len(neuroids)))
    recording = Recording(mixed, {"stimulus_id": list(scene_features.stimulus_ids)}, neuroids, space=SPACE)
    RidgeEncoder(alphas=(1e3,), cv=2, device="cpu").fit(scene_features, recording).save_pretrained(folder / CORTEX)
    return folder


@pytest.fixture(scope="session")
def playground(playground_models: Path) -> Iterator[str]:
    """Address of the playground of a whole server."""
    ready, found, loop = threading.Event(), [], asyncio.new_event_loop()

    async def serve() -> None:
        settings = ServerSettings(
            models=playground_models, port=0, playground_port=0, device="cpu", grace=0, log_level="error"
        )
        server = Server(settings)
        await server.start()
        stop = asyncio.Event()
        found.extend((server.playground_port, stop))
        ready.set()
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{found[0]}/"
    loop.call_soon_threadsafe(found[1].set)
    thread.join(30)
    assert not thread.is_alive()
    loop.close()
