"""Noise ceilings: how much of a neuroid's variance a perfect model could explain.

All are given as a fraction of variance (NC). A correlation is compared with its square root: noise-normalised
r = r / sqrt(NC).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from .errors import MismatchedIdsError, RepetitionError, UnknownNameError
from .recording import Recording
from .statistics import correlate

MINIMUM_CEILING = 0.05
_COLUMNS = 4096


def noise_ceiling(
    recording: Recording,
    method: str = "ncsnr",
    *,
    n_average: int | None = None,
    n_splits: int = 100,
    seed: int = 0,
) -> np.ndarray:
    """Explainable fraction of variance of the mean over repetitions, from the repetitions themselves.

    Parameters
    ----------
    recording : single presentations, (presentation, [time,] neuroid), best z-scored per session.
    method : "ncsnr" takes the noise variance within stimuli from the total variance (Allen et al. 2022, NSD, Methods,
        "Noise ceiling": NC = ncsnr^2 / (ncsnr^2 + 1/n)); "split_half" correlates the means of random halves and
        extrapolates by Spearman-Brown, SB(r) = m r / (1 + (m - 1) r).
    n_average : repetitions n that the mean is over; by default what each stimulus has (1/n is then their mean).
    n_splits, seed : random halves of "split_half".

    Returns
    -------
    ([time,] neuroid) float32 in [0, 1]; 0 where no signal was found, NaN where the neuroid is constant.

    Raises
    ------
    RepetitionError : no stimulus was shown twice (no ceiling can be had), or fewer than three were.
    """
    codes, _ = pd.factorize(recording.stimulus_ids)
    counts = np.bincount(codes)
    if (counts > 1).sum() < 3:
        raise RepetitionError(
            f"{(counts > 1).sum()} stimuli were shown more than once; a noise ceiling needs at least three",
            remedy="Use single presentations, not averages, or leave the ceiling out",
        )
    if method not in ("ncsnr", "split_half"):
        raise UnknownNameError(f"no noise ceiling {method!r}", remedy="There are: ncsnr, split_half")
    rng = np.random.default_rng(seed)
    draws = [_halves(codes, rng) for _ in range(n_splits)] if method == "split_half" else []
    ceiling = []
    for start in range(0, recording.n_neuroids, _COLUMNS):
        values = recording.read(neuroid=slice(start, start + _COLUMNS)).astype(np.float64)
        flat = values.reshape(len(values), -1)
        if method == "ncsnr":
            block = _from_ncsnr(ncsnr(flat, codes), counts, n_average)
        else:
            block = _from_halves(flat, codes, draws, n_average)
        ceiling.append(block.reshape(values.shape[1:]))
    return np.concatenate(ceiling, -1).astype(np.float32)


def ncsnr(values: np.ndarray, stimulus: np.ndarray) -> np.ndarray:
    """Noise-ceiling signal-to-noise ratio, signal s.d. over noise s.d. of one presentation (NSD; Allen et al. 2022).

    Parameters
    ----------
    values : (presentation, neuroid). stimulus : (presentation,) int code.

    Returns
    -------
    (neuroid,) at least 0; NaN where the neuroid is constant.
    """
    counts = np.bincount(stimulus)
    repeated = counts[stimulus] > 1
    means = _mean_by(values, stimulus)
    residuals = (values - means[stimulus])[repeated]
    degrees = repeated.sum() - (counts > 1).sum()
    noise = (residuals**2).sum(0) / degrees
    total = values.var(0, ddof=1)
    signal = np.maximum(total - noise, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, np.sqrt(signal / noise), np.nan)


def _from_ncsnr(ratio: np.ndarray, counts: np.ndarray, n_average: int | None) -> np.ndarray:
    inverse_n = np.mean(1 / counts) if n_average is None else 1 / n_average
    squared = ratio**2
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(squared), 1.0, squared / (squared + inverse_n))


def _halves(codes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    # A random order within stimuli; the first floor(n/2) presentations are one half, the next floor(n/2) the other.
    order = np.lexsort((rng.random(len(codes)), codes))
    counts = np.bincount(codes)
    rank = np.empty(len(codes), int)
    rank[order] = np.concatenate([np.arange(c) for c in counts])
    half = counts[codes] // 2
    return np.flatnonzero(rank < half), np.flatnonzero((rank >= half) & (rank < 2 * half))


def _from_halves(
    values: np.ndarray, codes: np.ndarray, draws: list[tuple[np.ndarray, np.ndarray]], n_average: int | None
) -> np.ndarray:
    counts = np.bincount(codes)
    repeated = np.flatnonzero(counts > 1)
    r = np.mean([_half_correlation(values, codes, draw, repeated) for draw in draws], axis=0)
    in_half = 1 / np.mean(1 / (counts[repeated] // 2))
    n = 1 / np.mean(1 / counts) if n_average is None else n_average
    r = np.maximum(r, 0)  # Spearman-Brown of a negative reliability explodes; no signal was found there.
    return np.asarray(spearman_brown(r, float(n / in_half)))


def _half_correlation(
    values: np.ndarray, codes: np.ndarray, draw: tuple[np.ndarray, np.ndarray], repeated: np.ndarray
) -> np.ndarray:
    first, second = (_mean_by(values[rows], codes[rows], codes.max() + 1)[repeated] for rows in draw)
    return correlate(first, second)


def spearman_brown(r: np.ndarray | float, factor: float = 2.0) -> np.ndarray | float:
    """Reliability of a measurement `factor` times as long: factor r / (1 + (factor - 1) r)."""
    return factor * r / (1 + (factor - 1) * r)


def inter_subject_ceiling(recordings: Sequence[Recording]) -> np.ndarray:
    """Squared correlation of each subject with the mean of the others, (subject, neuroid) float32.

    Subjects must share neuroids (a template space) and stimuli; repetitions are averaged first. Negative correlations
    count as 0. Known as the lower bound of the inter-subject ceiling (Nili et al. 2014).

    Raises
    ------
    RepetitionError : fewer than two subjects. MismatchedIdsError : neuroids or stimuli differ.
    """
    if len(recordings) < 2:
        raise RepetitionError("an inter-subject ceiling needs at least two subjects")
    first = recordings[0]
    ids = list(dict.fromkeys(first.stimulus_ids))
    for number, recording in enumerate(recordings):
        if recording.fingerprint() != first.fingerprint() or set(recording.stimulus_ids) != set(ids):
            raise MismatchedIdsError(
                f"subject {number} has other neuroids or stimuli than subject 0",
                remedy="Bring all subjects to one template space and select the stimuli they share",
            )
    averages = [_ordered(r.average_repetitions(), ids) for r in recordings]
    total = np.sum(averages, axis=0, dtype=np.float64)
    r = [correlate(a, (total - a) / (len(averages) - 1)) for a in averages]
    return (np.maximum(r, 0) ** 2).astype(np.float32)


def _ordered(average: Recording, ids: list[str]) -> np.ndarray:
    values = average.values
    ordered = np.empty_like(values)
    ordered[average.match(ids)] = values
    return ordered


def _mean_by(values: np.ndarray, codes: np.ndarray, n: int | None = None) -> np.ndarray:
    n = int(codes.max()) + 1 if n is None else n
    indicator = sparse.csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(n, len(codes)))
    counts = np.maximum(np.bincount(codes, minlength=n), 1)
    return (indicator @ values) / counts[:, None]
