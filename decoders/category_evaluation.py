"""How well categories are decoded from groups of presentations (runs, sessions) that the decoder has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recordings import Recording, leave_one_group_out
from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report
from recordings.splits import Split, check_split
from recordings.statistics import Null, bootstrap_interval

from .category import CategoryDecoder, check_classes, labels_of, responses
from .confidence import calibration_error
from .machines import Design


@dataclass(frozen=True)
class CategoryEvaluation:
    """Cross-validated category decoding.

    Attributes
    ----------
    answers : one row a presentation: stimulus_id, the group, shown, answer, confidence.
    classes : (class,). confusion : (shown, answered) counts.
    accuracy : share of right answers; interval : its bootstrap interval over groups.
    chance : share of the largest category, what always giving the same answer reaches.
    null : accuracies with labels shuffled within groups, each from a whole cross-validation; None if not asked for.
    """

    answers: pd.DataFrame
    classes: np.ndarray
    confusion: np.ndarray
    accuracy: float
    interval: tuple[float, float]
    chance: float
    null: Null | None

    def to_dict(self) -> dict[str, Any]:
        """Summary as JSON values: accuracy, chance, low, high, shuffled, p_value, accuracy by category, confusion."""
        right = (self.answers["shown"] == self.answers["answer"]).to_numpy()
        found: dict[str, Any] = {
            "accuracy": self.accuracy,
            "chance": self.chance,
            "low": self.interval[0],
            "high": self.interval[1],
            "n_presentations": len(self.answers),
            "n_classes": len(self.classes),
        }
        if self.null is not None:
            found |= {
                "shuffled": self.null.mean,
                "shuffled_standard_error": self.null.standard_error,
                "n_shuffles": len(self.null.scores),
                "p_value": self.null.p_value,
            }
        confidence = self.answers["confidence"].to_numpy()
        found |= {
            "mean_confidence": float(confidence.mean()),
            "calibration_error": calibration_error(confidence, right),
        }
        found["accuracy_by_category"] = {
            str(c): float(self.confusion[i, i] / self.confusion[i].sum()) for i, c in enumerate(self.classes)
        }
        found["confusion"] = self.confusion.tolist()
        return found


def evaluate_categories(
    recording: Recording,
    label: str = "category",
    group: str = "run",
    *,
    C: float = 1.0,
    n_permutations: int = 100,
    n_bootstrap: int = 1000,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> CategoryEvaluation:
    """Leave each group out in turn, fit a `CategoryDecoder` on the others, and decode the group.

    Confidence is calibrated within the training groups. The null shuffles labels within groups, so that it keeps how
    often each category was shown in a run (Haxby et al. 2001; permutation as in Phipson & Smyth 2010).

    Parameters
    ----------
    recording : (presentation, neuroid), best one row a block or trial.
    label, group : presentation coordinates. C : of the support vector machines.
    n_permutations : label shuffles; 0 leaves the null out. n_bootstrap : resamples of groups.

    Raises
    ------
    InputError : fewer than three groups: one to test on, two to fit the confidence on.
    LeakageError : a stimulus in two groups. Otherwise as `CategoryDecoder.fit`.
    """
    values, labels = responses(recording), labels_of(recording, label)
    classes, codes = np.unique(labels, return_inverse=True)
    check_classes(codes, len(classes), "recording")
    folds = leave_one_group_out(recording, group)
    if len(folds) < 3:
        raise InputError(f"{len(folds)} values of {group!r}; needed are three", remedy="Group by something finer")
    total = len(folds) + n_permutations
    answered, confidence = np.empty(len(codes), int), np.empty(len(codes))
    for number, fold in enumerate(folds):
        report(on_event, stop, "evaluate", number, total)
        check_split(recording, fold)
        check_classes(codes[fold.train], len(classes), fold.name)
        decoder = CategoryDecoder(C, label, group).fit(recording.take(fold.train))
        answers = decoder.predict(recording.take(fold.test))
        answered[fold.test] = np.searchsorted(classes, answers.categories)
        confidence[fold.test] = answers.confidence
    right = answered == codes
    groups = pd.factorize(recording.presentation(group))[0]
    null = None
    if n_permutations:
        scores = _shuffled(values, codes, groups, folds, C, n_permutations, seed, on_event, stop)
        null = Null(scores, float(right.mean()))
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (codes, answered), 1)
    return CategoryEvaluation(
        answers=_table(recording, group, labels, classes[answered], confidence),
        classes=classes,
        confusion=confusion,
        accuracy=float(right.mean()),
        interval=_interval(right, groups, n_bootstrap, seed),
        chance=float(np.bincount(codes).max() / len(codes)),
        null=null,
    )


def _shuffled(
    values: np.ndarray,
    codes: np.ndarray,
    groups: np.ndarray,
    folds: list[Split],
    C: float,
    n: int,
    seed: int,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> np.ndarray:
    designs = [Design(values[fold.train]) for fold in folds]
    scores = np.empty(n)
    for i in range(n):
        report(on_event, stop, "evaluate", len(folds) + i, len(folds) + n)
        shuffled = _shuffle_within(codes, groups, np.random.default_rng((seed, i)))
        right = 0
        for fold, design in zip(folds, designs, strict=True):
            fitted = design.fit(shuffled[fold.train], C)
            right += int(((values[fold.test] @ fitted.coef + fitted.intercept).argmax(1) == shuffled[fold.test]).sum())
        scores[i] = right / len(codes)
    return scores


def _shuffle_within(codes: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shuffled = codes.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        shuffled[rows] = codes[rng.permutation(rows)]
    return shuffled


def _interval(right: np.ndarray, groups: np.ndarray, n_bootstrap: int, seed: int) -> tuple[float, float]:
    hits, counts = np.bincount(groups, right), np.bincount(groups)
    return bootstrap_interval(
        lambda drawn: float(hits[drawn].sum() / counts[drawn].sum()), len(hits), n_resamples=n_bootstrap, seed=seed
    )


def _table(
    recording: Recording, group: str, shown: np.ndarray, answered: np.ndarray, confidence: np.ndarray
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "stimulus_id": recording.stimulus_ids,
            group: recording.presentation(group),
            "shown": shown,
            "answer": answered,
            "confidence": confidence,
        }
    )
