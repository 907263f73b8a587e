"""Confidence: similarities as probabilities, by temperature scaling (Guo et al. 2017) fitted on held-out answers."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from recordings.errors import RepetitionError, ShapeError

TEMPERATURES = (1e-3, 1e3)


def posterior(similarity: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of each candidate, (row, candidate), if each is as likely beforehand and one of them is right.

    softmax(similarity / temperature) over the candidates.
    """
    return softmax(np.asarray(similarity, np.float64) / temperature, axis=1)


def fit_temperature(similarities: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """The temperature that makes the right candidates most likely.

    Parameters
    ----------
    similarities : one (row, candidate) a fold, of rows that the decoder of that fold has not seen.
    truths : one (row,) a fold, position of the right candidate.

    Raises
    ------
    ShapeError : rows do not match. RepetitionError : no row at all.
    """
    if any(len(s) != len(t) for s, t in zip(similarities, truths, strict=True)):
        raise ShapeError("each row of similarities needs the position of its right candidate")
    if not sum(map(len, truths)):
        raise RepetitionError("no held-out answer to fit a temperature on")

    def surprise(log_temperature: float) -> float:
        scores = zip(similarities, truths, strict=True)
        return -sum(
            log_softmax(s.astype(np.float64) / np.exp(log_temperature), axis=1)[np.arange(len(t)), t].sum()
            for s, t in scores
        )

    return float(np.exp(minimize_scalar(surprise, bounds=np.log(TEMPERATURES), method="bounded").x))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap between confidence and share correct, in bins of equal counts.

    Parameters
    ----------
    confidence : (answer,) probability that the answer is right. correct : (answer,) whether it was.
    """
    order = np.argsort(confidence, kind="stable")
    bins = [b for b in np.array_split(order, n_bins) if len(b)]
    gaps = [len(b) * abs(confidence[b].mean() - np.asarray(correct, float)[b].mean()) for b in bins]
    return float(sum(gaps) / len(order))
