"""How far neuroids have drifted between the training and a new day, and whether a decoder should follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from scipy import stats

from recordings import Recording
from recordings.errors import RepetitionError

# False discovery rate of the neuroids called drifted.
FDR = 0.05
# Share of drifted neuroids from which recalibration is worth its stimuli, where decoding was not measured.
DRIFTED = 0.1
MINIMUM_STIMULI = 5


class ResponseMoments(NamedTuple):
    """Moments of each neuroid's responses over stimuli; all (s,) float64.

    mean : over stimuli, each averaged over its repetitions. variance : of these averages, unbiased.
    noise : variance within stimuli of one presentation, 0 where nothing was repeated.
    kurtosis : fourth standardised moment of the averages, 3 for Gaussian responses.
    counts : (2,), number of stimuli, and their harmonic mean number of repetitions.
    """

    mean: np.ndarray
    variance: np.ndarray
    noise: np.ndarray
    kurtosis: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """Of a recording of two stimuli or more, shown once or repeatedly, or averaged (``n_repetitions``)."""
        codes, ids = pd.factorize(recording.stimulus_ids)
        counts = np.bincount(codes)
        average = recording if counts.max() == 1 else recording.average_repetitions()
        means, squares = average.values.astype(np.float64), np.zeros(recording.n_neuroids)
        start = 0
        for block in recording.blocks():
            squares += ((block - means[codes[start : start + len(block)]]) ** 2).sum(0)
            start += len(block)
        if "n_repetitions" in recording.data.coords:
            counts = np.bincount(codes, recording.presentation("n_repetitions").astype(float))
        degrees = len(recording) - len(ids)
        noise = squares / degrees if degrees else np.zeros_like(squares)
        deviations = means - means.mean(0)
        variance = (deviations**2).sum(0) / (len(ids) - 1)
        fourth = np.where(variance > 0, (deviations**4).mean(0) / np.where(variance > 0, variance, 1) ** 2, 3)
        return cls(means.mean(0), variance, noise, fourth, np.array([len(ids), stats.hmean(counts)]))

    def variance_of(self, repetitions: float) -> np.ndarray:
        """Variance over stimuli that averages over so many repetitions would have, (s,)."""
        signal = np.maximum(self.variance - self.noise / self.counts[1], 0)
        expected = signal + self.noise / repetitions
        return np.where(self.noise > 0, expected, self.variance)

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name, for storage."""
        return {f"responses.{name}": value for name, value in self._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        return cls(*(tensors[f"responses.{name}"] for name in cls._fields))


class Shift(NamedTuple):
    """What changed between two days, and the sampling variance of each estimate; all (s,) float64.

    offset : new mean less old, in standard deviations of the old.
    log_gain : logarithm of the ratio of standard deviations, new over expected.
    """

    offset: np.ndarray
    offset_variance: np.ndarray
    log_gain: np.ndarray
    log_gain_variance: np.ndarray


def measure_shift(before: ResponseMoments, after: ResponseMoments) -> Shift:
    """Offset and gain of each neuroid, for stimuli drawn at random on both days.

    The variance of a log standard deviation is (kurtosis - 1) / (4 n) (delta method; Kendall & Stuart, The Advanced
    Theory of Statistics, vol. 1, section 10). Different numbers of repetitions are allowed for.

    Raises
    ------
    RepetitionError : fewer than five stimuli on the new day.
    """
    n, m = before.counts[0], after.counts[0]
    if m < MINIMUM_STIMULI:
        raise RepetitionError(f"{m:.0f} stimuli are too few to measure drift by", remedy="Give five or more")
    old, expected = before.variance, before.variance_of(after.counts[1])
    usable = (old > 0) & (expected > 0) & (after.variance > 0)
    unit, ratio = np.where(usable, old, 1), np.where(usable, after.variance, 1) / np.where(usable, expected, 1)
    spread = (np.maximum(before.kurtosis, 1) - 1) / 4 * (1 / n + 1 / m)
    return Shift(
        offset=(after.mean - before.mean) / np.sqrt(unit),
        offset_variance=np.where(usable, after.variance, 1) / unit / m + 1 / n,
        log_gain=np.log(ratio) / 2,
        log_gain_variance=np.maximum(spread, 1e-12),
    )


def drifted(shift: Shift) -> np.ndarray:
    """(s,) bool: neuroids whose mean or spread has changed, at a false discovery rate of 5 % over both tests."""
    z = np.stack([shift.offset, shift.log_gain]) / np.sqrt(np.stack([shift.offset_variance, shift.log_gain_variance]))
    p = 2 * stats.norm.sf(np.abs(z))
    return (stats.false_discovery_control(p.ravel()) < FDR).reshape(p.shape).any(0)


@dataclass(frozen=True)
class DriftReport:
    """Drift of the neuroids that a decoder reads.

    Attributes
    ----------
    neuroid_ids : (s,) str.
    offset : (s,) change of the mean in standard deviations. gain : (s,) ratio of standard deviations, new over old.
    drifted : (s,) bool, at a false discovery rate of 5 %.
    r_before, r_after : by target, mean correlation of decoded with true features of stimuli of the new day, as the
        decoder is and recalibrated on other stimuli of that day, see `decoders.recalibration.compare`; None if targets
        were not given.
    """

    neuroid_ids: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    drifted: np.ndarray
    r_before: dict[str, float] | None = None
    r_after: dict[str, float] | None = None

    @property
    def share_drifted(self) -> float:
        """Share of neuroids that have drifted."""
        return float(self.drifted.mean())

    @property
    def recommendation(self) -> str:
        """What decodes the new day better, "keep" or "recalibrate".

        Where that was not measured: "recalibrate" if a tenth of the neuroids have drifted.
        """
        if self.r_before is None or self.r_after is None:
            return "recalibrate" if self.share_drifted >= DRIFTED else "keep"
        change = [self.r_after[name] - r for name, r in self.r_before.items()]
        return "recalibrate" if np.mean(change) > 0 else "keep"

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values."""
        measured = {} if self.r_before is None else {"r_before": self.r_before, "r_after": self.r_after}
        return {
            "n_neuroids": len(self.neuroid_ids),
            "share_drifted": self.share_drifted,
            "median_absolute_offset": float(np.median(np.abs(self.offset))),
            "median_gain": float(np.median(self.gain)),
            "recommendation": self.recommendation,
            **measured,
        }
