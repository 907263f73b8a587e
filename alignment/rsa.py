"""Representational similarity analysis: one model RDM against those of people, with intervals and noise ceilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from recordings.errors import MismatchedIdsError, RepetitionError
from recordings.events import OnEvent, Stop, report
from recordings.rdms import RDMs
from recordings.statistics import Null

from .comparison import Compare, bootstrap_comparisons, check_comparison, permuted_scores, unit_vectors
from .rdm import Rows, rdm


class Ceiling(NamedTuple):
    """Bounds on what a perfect model would score; `n` RDMs (or people) went into them."""

    lower: float
    upper: float
    n: int


@dataclass(frozen=True)
class RSA:
    """How well a model's RDM agrees with a set of RDMs.

    Attributes
    ----------
    values : (rdm,) comparison with each RDM. names : (rdm,) which ones these are.
    score : their mean.
    interval : bootstrap interval of `score` over stimuli and people; None where it was not asked for.
    null : scores with the stimuli of the model permuted; None where they were not asked for.
    ceiling : `rdm_noise_ceiling` over the RDMs; None with a single one.
    people : comparison with each person's mean RDM, by name; empty where RDMs have no such factor.
    people_ceiling : the ceiling with people as the unit; None with fewer than two.
    compare : how RDMs were compared. n_stimuli : how many stimuli they have.
    """

    values: np.ndarray
    names: list[str]
    score: float
    interval: tuple[float, float] | None
    null: Null | None
    ceiling: Ceiling | None
    people: dict[str, float]
    people_ceiling: Ceiling | None
    compare: str
    n_stimuli: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values: score, low, high, p_value, ceilings, and the value of each RDM and person."""
        found: dict[str, Any] = {"score": self.score, "compare": self.compare, "n_stimuli": self.n_stimuli}
        if self.interval is not None:
            found |= {"low": self.interval[0], "high": self.interval[1]}
        if self.null is not None:
            found |= {"p_value": self.null.p_value, "shuffled": self.null.mean}
        if self.ceiling is not None:
            found["ceiling"] = self.ceiling._asdict()
        found["values"] = dict(zip(self.names, self.values.tolist(), strict=True))
        if self.people:
            found["people"] = {"score": float(np.mean(list(self.people.values()))), "values": self.people}
            if self.people_ceiling is not None:
                found["people"]["ceiling"] = self.people_ceiling._asdict()
        return found


def rsa(
    model: np.ndarray | Rows,
    rdms: RDMs,
    compare: Compare = "spearman",
    *,
    metric: str = "correlation",
    unit: str = "subject",
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> RSA:
    """Compare a model with a set of RDMs, stimulus by stimulus as their ids say.

    The interval resamples stimuli and people together (all RDMs of a person at once), so that it speaks of other
    stimuli and other people; with both resampled it is somewhat wide (Schuett et al. 2023). With a single person it
    resamples stimuli alone. The p-value permutes the stimuli of the model (Kriegeskorte et al. 2008).

    Parameters
    ----------
    model : `Features` or an averaged `Recording` that has all stimuli of `rdms` (others are left out), or an RDM,
        (pair,), over the stimuli of `rdms` in their order.
    compare : "spearman", "pearson" or "cosine". metric : dissimilarity of the model, see `rdm`.
    unit : factor of `rdms` that names the person; where there is none, each RDM counts as one.
    n_bootstrap, n_permutations : 0 leaves the interval or the p-value out. level : coverage of the interval.

    Raises
    ------
    MismatchedIdsError : the model lacks a stimulus, or its RDM has another size.
    ConstantUnitError, NotFiniteError, UnknownNameError : see `rdm`.
    """
    check_comparison(compare)
    report(on_event, stop, "rsa", 0, 3)
    vector = _model_rdm(model, rdms, metric)
    values = unit_vectors(rdms.values, compare) @ unit_vectors(vector, compare)
    report(on_event, stop, "rsa", 1, 3)
    streams = np.random.default_rng(seed).spawn(2)
    interval = _interval(vector, rdms, compare, unit, n_bootstrap, level, streams[0]) if n_bootstrap else None
    report(on_event, stop, "rsa", 2, 3)
    null = None
    if n_permutations:
        shuffled = permuted_scores(vector, rdms.values, compare, n_permutations, streams[1])
        null = Null(shuffled, float(values.mean()))
    people = rdms.average(unit) if unit in rdms.factors else None
    by_person = [] if people is None else unit_vectors(people.values, compare) @ unit_vectors(vector, compare)
    report(on_event, None, "rsa", 3, 3)
    return RSA(
        values=values,
        names=list(rdms.names),
        score=float(values.mean()),
        interval=interval,
        null=null,
        ceiling=_ceiling(rdms, compare),
        people={} if people is None else dict(zip(people.names, map(float, by_person), strict=True)),
        people_ceiling=None if people is None else _ceiling(people, compare),
        compare=compare,
        n_stimuli=rdms.n_stimuli,
    )


def rdm_noise_ceiling(rdms: RDMs, compare: Compare = "spearman", unit: str | None = None) -> Ceiling:
    """What a perfect model would score, between two bounds (Nili et al. 2014).

    Upper: mean comparison of each RDM with the mean of all; lower: with the mean of all others. RDMs are pooled as the
    comparison sees them: as ranks (spearman), standardised (pearson), or of unit length (cosine).

    Parameters
    ----------
    unit : factor to average over first, such as "subject". Several RDMs of one person make the lower bound without
        `unit` too high, because the others then include the same person.

    Raises
    ------
    RepetitionError : fewer than two RDMs or people. UnknownNameError : no such factor or comparison.
    """
    check_comparison(compare)
    if unit is not None:
        rdms = rdms.average(unit)
    if len(rdms) < 2:
        raise RepetitionError(f"{len(rdms)} {unit or 'RDM'}; a noise ceiling needs at least two")
    vectors = unit_vectors(rdms.values, compare)
    # Sums of plain ranks are exact, so that ties among them stay ties.
    pooled = rankdata(rdms.values, axis=-1) if compare == "spearman" else vectors
    total = pooled.sum(0)
    upper = vectors @ unit_vectors(total, compare)
    lower = np.einsum("ij,ij->i", vectors, unit_vectors(total - pooled, compare))
    return Ceiling(float(lower.mean()), float(upper.mean()), len(rdms))


def _ceiling(rdms: RDMs, compare: Compare) -> Ceiling | None:
    return rdm_noise_ceiling(rdms, compare) if len(rdms) > 1 else None


def _model_rdm(model: np.ndarray | Rows, rdms: RDMs, metric: str) -> np.ndarray:
    if not isinstance(model, np.ndarray):
        return rdm(model, metric, stimulus_ids=rdms.stimulus_ids)
    if model.shape != rdms.values.shape[1:]:
        raise MismatchedIdsError(
            f"a model RDM of shape {model.shape} for {rdms.values.shape[1]} pairs of {rdms.n_stimuli} stimuli",
            remedy="Give a condensed RDM over the same stimuli, or features with stimulus ids",
        )
    return model


def _interval(
    model: np.ndarray, rdms: RDMs, compare: Compare, unit: str, n: int, level: float, rng: np.random.Generator
) -> tuple[float, float]:
    per_rdm = bootstrap_comparisons(model, rdms.values, compare, n, rng)
    codes = pd.factorize(rdms.factors[unit])[0] if unit in rdms.factors else np.arange(len(rdms))
    n_people = int(codes.max()) + 1
    times = rng.multinomial(n_people, np.full(n_people, 1 / n_people), size=n) if n_people > 1 else np.ones((n, 1))
    weights = times[:, codes]
    scores = (per_rdm * weights).sum(1) / weights.sum(1)
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
