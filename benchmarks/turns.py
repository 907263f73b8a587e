"""Timing variants in turns, so that what else runs on the machine meets all of them alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Times = dict[str, dict[str, float]]


def take_turns(
    variants: Mapping[str, Callable[[], float | None]],
    repeats: int,
    *,
    clock: Callable[[], float] = time.process_time,
    per: Mapping[str, int] | None = None,
    warm: bool = True,
) -> Times:
    """Smallest and median seconds of each variant, all called once a round.

    Parameters
    ----------
    variants : by name; one that returns a number has taken its own time, the others are timed.
    clock : by default CPU time of all threads of the process.
    per : how many steps a call of a variant takes, by name; 1 by default. Seconds are those of one step.
    warm : call every variant once before the first round, uncounted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-1 if warm else 0, repeats):
        for name, run in variants.items():
            started = clock()
            own = run()
            took = (clock() - started if own is None else own) / (per or {}).get(name, 1)
            print(f"{name}: {took:.4f} s" + (" (not counted)" if turn < 0 else ""), file=sys.stderr)
            if turn >= 0:
                seconds[name].append(took)
    return {name: {"seconds": min(s), "median": statistics.median(s), "repeats": len(s)} for name, s in seconds.items()}


def growth_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size: 1 where cost is linear, less where a fixed part weighs in."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def over(times: Times, reference: str) -> Times:
    """How many times the reference's seconds are each variant's, by the smallest and by the median."""
    return {
        name: {kind: times[reference][kind] / row[kind] for kind in ("seconds", "median")}
        for name, row in times.items()
        if name != reference
    }


def print_part(name: str, part: Mapping[str, Any], depth: int = 0) -> None:
    """A line for each variant in "times", with its "ratios", and one for each other entry; groups are indented."""
    margin = "  " * (depth + 1)
    print("  " * depth + name)
    for key, value in part.items():
        if key == "times":
            for variant, row in value.items():
                ratio = part.get("ratios", {}).get(variant)
                faster = f"{ratio['seconds']:9.2f}x{ratio['median']:9.2f}x" if ratio else ""
                print(f"{margin + variant:<44}{row['seconds']:10.4f}{row['median']:10.4f}{faster}")
        elif isinstance(value, Mapping) and set(value) == {"mean", "sd"}:
            print(f"{margin + key:<44}{value['mean']:10.3f} +- {value['sd']:.3f}")
        elif isinstance(value, Mapping) and key != "ratios":
            print_part(key, value, depth + 1)
        elif key != "ratios":
            print(f"{margin + key:<44}" + (f"{value:10.3g}" if isinstance(value, float) else f"{value!s:>10}"))
