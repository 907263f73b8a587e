"""`Room`: how much memory the requests of all clients take together."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from service.errors import BusyError


class Room:
    """Memory that requests share. `taken` may exceed `most` by what was read at the same moment.

    Parameters
    ----------
    most : bytes.
    """

    def __init__(self, most: int):
        self.most, self.taken = most, 0
        self.lock = threading.Lock()


class Share:
    """What one request takes of a room until the end of its block. Its methods may be called from any thread."""

    def __init__(self, room: Room):
        self._room = room
        self._mine = 0
        self._open = True

    def check(self) -> None:
        """Raise `BusyError` if the room is full."""
        if self._room.taken >= self._room.most:
            raise BusyError("what others sent fills the memory for it", retry_seconds=1)

    def take(self, n_bytes: int) -> None:
        """Count so many bytes; none after the block, when a thread may still read for a client that has left."""
        with self._room.lock:
            if self._open:
                self._mine += n_bytes
                self._room.taken += n_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._room.lock:
            self._open = False
            self._room.taken -= self._mine
