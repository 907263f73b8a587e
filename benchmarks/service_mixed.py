"""Everything that clients do, all at once, for as long as one likes: no answer may be lost and no memory may grow."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from service.client import AsyncClient

MIB = 2**20
ENCODING_CLIENTS = 4
STEPS, PREVIEW_EVERY = 20, 5
# Before it, caches fill; after it, memory must stay.
WARM_SHARE = 0.25


async def mixed_load(
    target: str, process: int, encoder: str, decoder: str, *, seconds: float, folder: Path
) -> dict[str, Any]:
    """Four clients encode, one decodes pictures with previews, one uploads and deletes, one lists jobs and models.

    Parameters
    ----------
    target : address of the server. process : its number. encoder, decoder : names of models; the encoder of pictures.
    folder : for what is uploaded.

    Returns
    -------
    Answers by kind, what was lost instead, and the growth of memory: its median in the last quarter of the time over
    that in the second quarter, less one.
    """
    end, answered, lost, memory = time.monotonic() + seconds, Counter[str](), [], []

    async def forever(kind: str, act: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < end:
            try:
                await act()
                answered[kind] += 1
            except Exception as error:
                lost.append(f"{kind}: {type(error).__name__}: {error}")

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(resident(process))
            await asyncio.sleep(min(1.0, seconds / 100))

    clients = [AsyncClient(target) for _ in range(ENCODING_CLIENTS + 3)]
    try:
        acts: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("encode", await encoding(client, encoder)) for client in clients[:ENCODING_CLIENTS]
        ]
        acts.append(("decode", await decoding(clients[-3], decoder)))
        acts.append(("upload", uploading(clients[-2], folder)))
        acts.append(("list", listing(clients[-1])))
        await asyncio.gather(watch(), *(forever(kind, act) for kind, act in acts))
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    quarter = max(1, int(len(memory) * WARM_SHARE))
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    growth = statistics.median(late) / statistics.median(early) - 1
    return {
        "minutes": seconds / 60,
        "answered": dict(answered),
        "lost": lost,
        "memory_mib": [round(statistics.median(part) / MIB, 1) for part in (early, late)],
        "growth": round(growth, 4),
    }


async def encoding(client: AsyncClient, model: str) -> Callable[[], Coroutine[Any, Any, None]]:
    """Ask for responses to two pictures; they must stay the same."""
    pictures = list(np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8))
    first = await client.encode(model, images=pictures)

    async def act() -> None:
        np.testing.assert_allclose(await client.encode(model, images=pictures), first, rtol=0, atol=1e-4)

    return act


async def decoding(client: AsyncClient, model: str) -> Callable[[], Coroutine[Any, Any, None]]:
    """Ask for a picture with previews; both must come, and the picture stay the same."""
    units = len((await client.describe(model)).unit_ids)
    row = np.random.default_rng(0).standard_normal((1, units), np.float32)

    async def draw() -> np.ndarray:
        previews: list[Any] = []

        def tell(event: Any) -> None:
            previews.extend(event.payload.get("preview", ()))

        how = {"steps": STEPS, "preview_every": PREVIEW_EVERY, "strength": 1.0}
        [decoded] = await client.decode(model, row, ["image"], on_event=tell, **how)
        assert previews, "no preview"
        return np.asarray(decoded.images)

    first = await draw()

    async def act() -> None:
        np.testing.assert_array_equal(await draw(), first)

    return act


def uploading(client: AsyncClient, folder: Path) -> Callable[[], Coroutine[Any, Any, None]]:
    """Store 2 MiB, find them again, delete them."""
    path = folder / "upload.bin"

    async def act() -> None:
        content = os.urandom(2 * MIB)
        path.write_bytes(content)
        stored = await client.upload(path, kind="file")
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        assert stored.id in {found.id for found in await client.data()}
        await client.delete(stored.id)

    return act


def listing(client: AsyncClient) -> Callable[[], Coroutine[Any, Any, None]]:
    """Ask what there is, ten times a second."""

    async def act() -> None:
        assert await client.models()
        await client.jobs()
        await asyncio.sleep(0.1)

    return act


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
