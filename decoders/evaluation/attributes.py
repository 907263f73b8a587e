"""What an independent classifier reads in reconstructions: category, colour, place and nearness of the object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from recordings.errors import ShapeError
from recordings.statistics import correlate

from .features import mean_over_samples, unit_rows
from .measures import Measure, Resampling


@dataclass(frozen=True)
class Attributes:
    """Attributes of the object in n pictures; None for what is not known or not read.

    Attributes
    ----------
    category, colour : (n,) names.
    position : (n, 2) place of its centre, right and up positive; any unit.
    nearness : (n, H, W) larger is nearer, 0 is background.
    """

    category: np.ndarray | None = None
    colour: np.ndarray | None = None
    position: np.ndarray | None = None
    nearness: np.ndarray | None = None


# A classifier trained on pictures that no generator made: from uint8 (n, H, W, 3) to `Attributes`, or to an object with
# some of its fields.
Reader = Callable[[np.ndarray], Any]


def read_attributes(reader: Reader, pictures: np.ndarray, batch_size: int = 64) -> Attributes:
    """What a reader sees in pictures uint8 (n, H, W, 3), batch by batch."""
    parts = [reader(np.asarray(pictures[k : k + batch_size])) for k in range(0, len(pictures), batch_size)]
    read = {}
    for name in (field.name for field in fields(Attributes)):
        values = [getattr(part, name, None) for part in parts]
        read[name] = None if any(v is None for v in values) else np.concatenate([np.asarray(v) for v in values])
    return Attributes(**read)


def agreement(
    read: Attributes, truth: Attributes, n_samples: int = 1, *, resampling: Resampling | None = None
) -> dict[str, Measure]:
    """How well attributes read in reconstructions agree with those of the stimuli, by attribute that both sides have.

    Category and colour: accuracy, with the stimuli permuted as null. Position: Pearson r over pictures, mean of the two
    axes. Nearness: Pearson r over the pixels of a map, mean over pictures; a flat map is undefined and counted. True
    maps a whole number of times larger than those that were read are averaged down to them.
    Samples of one brain are scored each and averaged.

    Parameters
    ----------
    read : attributes of n * n_samples pictures, the samples of a stimulus after one another. truth : of n stimuli.

    Raises
    ------
    ShapeError : other numbers of pictures, or maps of another size.
    """
    resampling = resampling or Resampling()
    scores = {"category": _accuracy, "colour": _accuracy, "position": _position, "nearness": _nearness}
    found = {}
    for name, score in scores.items():
        seen, true = getattr(read, name), getattr(truth, name)
        if seen is None or true is None:
            continue
        seen, true = np.asarray(seen), np.asarray(true)
        if name == "nearness":
            true = _reduced(true, seen.shape[1:])
        if len(seen) != n_samples * len(true) or seen.shape[1:] != true.shape[1:]:
            raise ShapeError(f"read {seen.shape} for stimuli {true.shape} and {n_samples} samples", where=name)
        found[name] = score(seen.reshape(len(true), n_samples, *true.shape[1:]), true, resampling)
    return found


def _accuracy(seen: np.ndarray, true: np.ndarray, resampling: Resampling) -> Measure:
    matches = (true[:, None, None] == seen[None]).mean(-1)
    return resampling.mean(matches.diagonal(), matches)


def _position(seen: np.ndarray, true: np.ndarray, resampling: Resampling) -> Measure:
    flat, target = seen.reshape(len(seen), -1), np.tile(true, (1, seen.shape[1]))

    def statistic(rows: np.ndarray) -> float:
        return float(mean_over_samples(correlate(flat[rows], target[rows])))

    value = statistic(np.arange(len(true)))
    measure = Measure(value, n_undefined=0 if np.isfinite(value) else len(true))
    return replace(measure, interval=resampling.interval(statistic, len(true)) if np.isfinite(value) else None)


def _nearness(seen: np.ndarray, true: np.ndarray, resampling: Resampling) -> Measure:
    targets = unit_rows(true.reshape(len(true), -1))
    values = [
        np.einsum("ij,ij->i", unit_rows(seen[:, k].reshape(len(true), -1)), targets) for k in range(seen.shape[1])
    ]
    return resampling.mean(mean_over_samples(np.stack(values, -1)))


def _reduced(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if len(size) != 2 or maps.ndim != 3 or 0 in size or any(a % b for a, b in zip(maps.shape[1:], size, strict=True)):
        return maps
    rows, columns = size
    return maps.reshape(len(maps), rows, maps.shape[1] // rows, columns, -1).mean((2, 4), dtype=np.float64)
