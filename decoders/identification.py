"""Identification: which of n candidates was shown, told from a decoded row or pattern (Kay et al. 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import gammaln
from scipy.stats import rankdata

from encoders import Features
from recordings.errors import InputError, MismatchedIdsError, RepetitionError
from recordings.statistics import Null, bootstrap_interval

from .confidence import calibration_error, fit_temperature, posterior
from .similarity import candidate_names, correlations

_FOLDS = 5


@dataclass(frozen=True)
class Identification:
    """How often the right candidate is the most similar one.

    Attributes
    ----------
    shown, answers : (row,) stimulus that was shown, and the candidate most similar to the row.
    confidence : (row,) probability of the answer among all candidates.
    rank : (row,) of the right candidate among all, 1 the most similar; ties share their middle.
    correct : (row,) chance that the right candidate beats n_way - 1 others, drawn without replacement.
    accuracy : mean of `correct`; chance : 1 / n_way.
    interval : bootstrap interval of `accuracy` over shown stimuli.
    null : accuracies with the shown stimuli permuted.
    two_way_candidates : right candidate against another candidate, for the same row; chance .5, ties count half.
    two_way_rows : right row against a row of another stimulus, for the same candidate; chance .5.
    n_candidates : how many there were. n_tied : rows whose right candidate is as similar as another.
    """

    shown: np.ndarray
    answers: np.ndarray
    confidence: np.ndarray
    rank: np.ndarray
    correct: np.ndarray
    n_way: int
    interval: tuple[float, float]
    null: Null
    two_way_candidates: float
    two_way_rows: float
    n_candidates: int
    n_tied: int

    @property
    def accuracy(self) -> float:
        """Share of rows identified."""
        return float(self.correct.mean())

    @property
    def chance(self) -> float:
        """What guessing reaches."""
        return 1 / self.n_way

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values."""
        return {
            "accuracy": self.accuracy,
            "chance": self.chance,
            "low": self.interval[0],
            "high": self.interval[1],
            "shuffled": self.null.mean,
            "shuffled_standard_error": self.null.standard_error,
            "p_value": self.null.p_value,
            "n_way": self.n_way,
            "n_rows": len(self.shown),
            "n_candidates": self.n_candidates,
            "n_tied": self.n_tied,
            "two_way_candidates": self.two_way_candidates,
            "two_way_rows": self.two_way_rows,
            "two_way_chance": 0.5,
            "median_rank": float(np.median(self.rank)),
            "calibration_error": calibration_error(self.confidence, self.shown == self.answers),
        }


def identify(
    decoded: np.ndarray,
    shown: Sequence[str],
    candidates: np.ndarray | Features,
    *,
    candidate_ids: Sequence[str] | None = None,
    mean: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    temperature: float | None = None,
    **options: Any,
) -> Identification:
    """Identify the stimulus behind each decoded row among candidates, by Pearson correlation across features.

    Parameters
    ----------
    decoded : (row, feature). shown : (row,) stimulus ids; several rows may show one stimulus.
    candidates : (candidate, feature) or `Features`. candidate_ids : (candidate,), needed for an array.
    mean, scale : (feature,) of the training stimuli, see `correlations`.
    temperature, options : see `identify_by_similarity`.

    Raises
    ------
    MismatchedIdsError : a shown stimulus is not a candidate. ShapeError, NotFiniteError, ConstantUnitError : see
    `correlations`.
    """
    names = candidate_names(candidates, candidate_ids)
    similarity = correlations(decoded, candidates, mean=mean, scale=scale)
    return identify_by_similarity(similarity, shown, list(names), temperature=temperature, **options)


def identify_by_similarity(
    similarity: np.ndarray,
    shown: Sequence[str],
    candidate_ids: Sequence[str],
    *,
    n_way: int | None = None,
    temperature: float | None = None,
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Identification:
    """Identify the stimulus behind each row from its similarity with every candidate.

    With n_way below the number of candidates, the accuracy is the exact mean over all draws of n_way - 1 others, not
    over a sample of them.

    Parameters
    ----------
    similarity : (row, candidate). shown : (row,) ids. candidate_ids : (candidate,) ids.
    n_way : number of candidates to choose from; by default all.
    temperature : of the confidence (`fit_temperature`); by default fitted on other stimuli's rows, in five folds.
    n_permutations, n_bootstrap, seed : permutations and resamples of the shown stimuli.

    Raises
    ------
    MismatchedIdsError : a shown stimulus is not a candidate. RepetitionError : fewer than two stimuli were shown.
    InputError : n_way is not between 2 and the number of candidates.
    """
    n = similarity.shape[1]
    n_way = n if n_way is None else n_way
    if not 2 <= n_way <= n:
        raise InputError(f"{n_way}-way identification among {n} candidates", remedy=f"Choose between 2 and {n}")
    truth = _positions(shown, candidate_ids)
    stimuli, codes = np.unique(truth, return_inverse=True)
    if len(stimuli) < 2:
        raise RepetitionError("all rows show one stimulus; identification needs at least two")
    rows = np.arange(len(truth))
    ranks = rankdata(similarity, axis=1)[:, stimuli]
    wins = _chance_to_win(n, n_way)[np.round(2 * (ranks - 1)).astype(int)]
    observed = wins[rows, codes]
    by_stimulus = np.stack([np.bincount(codes, column, len(stimuli)) for column in wins.T], axis=1)
    rng = np.random.default_rng(seed)
    draws = [by_stimulus[np.arange(len(stimuli)), rng.permutation(len(stimuli))] for _ in range(n_permutations)]
    null = Null(np.array([d.sum() / len(rows) for d in draws]), float(observed.mean()))
    answers = similarity.argmax(1)
    if temperature is None:
        confidence = _cross_fitted_confidence(similarity, truth, codes, seed)
    else:
        confidence = posterior(similarity, temperature).max(1)
    right = similarity[rows, truth][:, None]
    return Identification(
        shown=np.array([str(i) for i in shown], object),
        answers=np.asarray(candidate_ids, object)[answers],
        confidence=confidence,
        rank=n + 1 - ranks[rows, codes],
        correct=observed,
        n_way=n_way,
        interval=_interval(observed, codes, n_bootstrap, seed),
        null=null,
        two_way_candidates=float(((ranks[rows, codes] - 1) / (n - 1)).mean()),
        two_way_rows=_two_way_rows(similarity, truth),
        n_candidates=n,
        n_tied=int(((similarity == right).sum(1) > 1).sum()),
    )


def _positions(shown: Sequence[str], candidate_ids: Sequence[str]) -> np.ndarray:
    index = pd.Index([str(i) for i in candidate_ids])
    if index.has_duplicates:
        raise MismatchedIdsError(f"candidate {index[index.duplicated()][0]!r} occurs twice")
    truth = index.get_indexer(pd.Index([str(i) for i in shown]))
    if (truth < 0).any():
        raise MismatchedIdsError(
            f"stimulus {shown[int((truth < 0).argmax())]!r} was shown but is not a candidate "
            f"({len(set(np.asarray(shown, object)[truth < 0]))} in all)",
            remedy="Add it to the candidates, or leave its rows out",
        )
    return truth


def _chance_to_win(n: int, n_way: int) -> np.ndarray:
    # Probability that n_way - 1 of the n - 1 others, drawn without replacement, are all among the b less similar ones:
    # C(b, n_way - 1) / C(n - 1, n_way - 1), at b = 0, .5, 1, ..., n - 1; a tie counts as half of both neighbours.
    below, k = np.arange(n), n_way - 1
    with np.errstate(invalid="ignore"):
        logs = gammaln(below + 1) - gammaln(below - k + 1) - gammaln(n) + gammaln(n - k)
    whole = np.where(below >= k, np.exp(np.where(below >= k, logs, 0)), 0)
    table = np.empty(2 * n - 1)
    table[::2], table[1::2] = whole, (whole[1:] + whole[:-1]) / 2
    return table


def _two_way_rows(similarity: np.ndarray, truth: np.ndarray) -> float:
    wins = []
    for candidate in np.unique(truth):
        own, others = similarity[truth == candidate, candidate], similarity[truth != candidate, candidate]
        ordered = np.sort(others)
        below, up_to = np.searchsorted(ordered, own, "left"), np.searchsorted(ordered, own, "right")
        wins.append((below + up_to) / (2 * len(others)))
    return float(np.concatenate(wins).mean())


def _interval(correct: np.ndarray, codes: np.ndarray, n_bootstrap: int, seed: int) -> tuple[float, float]:
    sums, counts = np.bincount(codes, correct), np.bincount(codes)
    return bootstrap_interval(
        lambda drawn: float(sums[drawn].sum() / counts[drawn].sum()), len(sums), n_resamples=n_bootstrap, seed=seed
    )


def _cross_fitted_confidence(similarity: np.ndarray, truth: np.ndarray, codes: np.ndarray, seed: int) -> np.ndarray:
    n_stimuli = int(codes.max()) + 1
    fold = np.random.default_rng(seed).permutation(n_stimuli)[codes] % min(_FOLDS, n_stimuli)
    confidence = np.empty(len(truth))
    for k in np.unique(fold):
        temperature = fit_temperature([similarity[fold != k]], [truth[fold != k]])
        confidence[fold == k] = posterior(similarity[fold == k], temperature).max(1)
    return confidence
