"""Shares: how many calls at once, and how often, one client may ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import BusyError

# Clients that are at rest are forgotten beyond this number.
REMEMBERED = 10_000


@dataclass
class _Share:
    at_once: int = 0
    credit: float = 0.0
    seen: float = 0.0


class Shares:
    """Counts the calls of each client, and of all.

    Not for threads: all calls come from one event loop.

    Parameters
    ----------
    total : most calls at once of all clients together.
    at_once : most calls at once of one client.
    rate : calls a second of one client on average, of which it may save up a second's, at least one; None for any.
    clock : seconds that never go back.
    """

    def __init__(
        self, *, total: int, at_once: int, rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self.total = total
        self.at_once = at_once
        self.rate = rate
        self._clock = clock
        self._shares: dict[str, _Share] = {}
        self.in_flight = 0

    @contextmanager
    def taken(self, client: str, *, counted: bool = True) -> Iterator[None]:
        """One call of a client, for as long as the block runs.

        Parameters
        ----------
        client : name of a caller or address of a peer.
        counted : False for probes: a server at its limit must still say that it lives.

        Raises
        ------
        BusyError : the client's share, or the server's, is used up.
        """
        now = self._clock()
        share = self._share(client, now)
        if counted and self.in_flight >= self.total:
            raise BusyError("as many calls as the server takes are in flight", retry_seconds=1)
        if share.at_once >= self.at_once:
            raise BusyError(
                f"{self.at_once} calls of one client are in flight, which is as many as it may have", retry_seconds=1
            )
        if self.rate is not None and counted:
            share.credit = min(self._most, share.credit + (now - share.seen) * self.rate)
            share.seen = now
            if share.credit < 1:
                raise BusyError(f"more than {self.rate:g} calls a second", retry_seconds=(1 - share.credit) / self.rate)
            share.credit -= 1
        share.at_once += 1
        self.in_flight += counted
        try:
            yield
        finally:
            share.at_once -= 1
            self.in_flight -= counted

    @property
    def _most(self) -> float:
        return max(1.0, self.rate or 1.0)

    def _share(self, client: str, now: float) -> _Share:
        if client not in self._shares:
            if len(self._shares) >= REMEMBERED:
                self._shares = {name: share for name, share in self._shares.items() if self._matters(share, now)}
            self._shares[client] = _Share(credit=self._most, seen=now)
        return self._shares[client]

    def _matters(self, share: _Share, now: float) -> bool:
        waiting = self.rate is not None and share.credit + (now - share.seen) * self.rate < self._most
        return share.at_once > 0 or waiting
