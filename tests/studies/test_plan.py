"""Estimates of time and memory against what the work then takes."""

from __future__ import annotations

import time

import pytest

from studies.plan import Plan, extrapolate, resident_memory


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.002), (0.05, 0.001)])
def test_a_line_through_two_probes_finds_fixed_and_growing_cost(fixed: float, each: float) -> None:
    calls = []

    def step(n: int) -> None:
        calls.append(n)
        time.sleep(fixed + each * n)

    found_fixed, found_all = extrapolate(step, 10_000, first=8)
    assert max(calls) < 2000
    assert found_fixed + found_all == pytest.approx(fixed + each * 10_000, rel=0.4)


def test_work_smaller_than_the_probe_is_measured_whole() -> None:
    fixed, everything = extrapolate(lambda n: time.sleep(0.01 * n), 4, first=8)
    assert fixed < 0.02 and everything == pytest.approx(0.04, rel=0.5)


def test_parts_one_after_the_other() -> None:
    total = Plan(1, 5e9, 1e9) + Plan(2, 3e9, 2e9)
    assert total.to_dict() == {"estimate": {"seconds": 3, "memory_gb": 5, "disk_gb": 3}}


def test_resident_memory_is_in_bytes() -> None:
    assert 2e7 < resident_memory() < 1e12
