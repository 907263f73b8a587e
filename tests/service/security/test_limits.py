"""Shares of clients."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.errors import BusyError
from service.security import limits
from service.security.limits import Shares


def test_one_client_at_its_limit_leaves_room_for_others():
    shares = Shares(total=3, at_once=2)
    with ExitStack() as held:
        held.enter_context(shares.taken("a"))
        held.enter_context(shares.taken("a"))
        with pytest.raises(BusyError, match="2 calls of one client"), shares.taken("a"):
            pass
        held.enter_context(shares.taken("b"))
        with pytest.raises(BusyError, match="as many calls as the server takes"), shares.taken("c"):
            pass
        with shares.taken("probe", counted=False):
            assert shares.in_flight == 3
    assert shares.in_flight == 0
    with shares.taken("a"):
        assert shares.in_flight == 1


def test_share_is_given_back_after_an_error():
    shares = Shares(total=1, at_once=1)
    with pytest.raises(RuntimeError), shares.taken("a"):
        raise RuntimeError
    with shares.taken("a"):
        pass


def test_rate_of_one_client():
    now = [0.0]
    shares = Shares(total=9, at_once=9, rate=4, clock=lambda: now[0])

    def calls(client, n):
        done = 0
        for _ in range(n):
            try:
                with shares.taken(client):
                    done += 1
            except BusyError as error:
                assert 0 < error.retry_seconds <= 0.25
        return done

    assert (calls("a", 10), calls("b", 3)) == (4, 3)
    now[0] = 0.5
    assert calls("a", 10) == 2
    now[0] = 100
    assert calls("a", 10) == 4


def test_slow_rate_lets_the_first_call_in():
    now = [0.0]
    shares = Shares(total=9, at_once=9, rate=0.1, clock=lambda: now[0])
    with shares.taken("a"):
        pass
    with pytest.raises(BusyError) as caught, shares.taken("a"):
        pass
    assert caught.value.retry_seconds == pytest.approx(10)


def test_clients_at_rest_are_forgotten_and_the_limited_are_not(monkeypatch):
    monkeypatch.setattr(limits, "REMEMBERED", 10)
    now = [0.0]
    shares = Shares(total=99, at_once=1, rate=1, clock=lambda: now[0])
    with shares.taken("held"):
        for i in range(100):
            now[0] += 10
            with shares.taken(f"client {i}"):
                pass
        assert len(shares._shares) <= 11
        with pytest.raises(BusyError, match="1 calls of one client"), shares.taken("held"):
            pass
