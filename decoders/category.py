"""`CategoryDecoder`: which category a block or trial showed, by linear support vector machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from recordings import Artifact, Recording, leave_one_group_out
from recordings.artifacts import check_neuroids, recording_fields, restored_fields
from recordings.errors import InputError, NotFiniteError, RepetitionError
from recordings.events import OnEvent, Stop, report
from recordings.splits import check_split

from .confidence import fit_temperature, posterior
from .machines import Design, LinearMap


@dataclass(frozen=True)
class Answers:
    """Category of each presentation.

    Attributes
    ----------
    categories : (presentation,) object. confidence : (presentation,) probability that the answer is right.
    probabilities : (presentation, class). classes : (class,) object.
    """

    categories: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray


class CategoryDecoder(Artifact):
    """One-vs-rest linear support vector machines on standardised responses (squared hinge loss).

    Parameters
    ----------
    C : inverse strength of the penalty. label : presentation coordinate that names the category.
    group : coordinate whose values are left out in turn to fit the temperature of the confidence, such as "run"; None
        leaves confidence out.

    Attributes
    ----------
    classes_ : (class,) object. map_ : coefficients on responses as recorded. temperature_ : of the confidence, or None.
    cv_accuracy_ : accuracy over the left-out groups of the training data, or None.
    """

    classes_: np.ndarray
    map_: LinearMap
    temperature_: float | None
    cv_accuracy_: float | None

    def __init__(self, C: float = 1.0, label: str = "category", group: str | None = "run"):
        self.C = C
        self.label = label
        self.group = group

    def fit(self, recording: Recording, *, on_event: OnEvent | None = None, stop: Stop | None = None) -> Self:
        """Fit on presentations and their categories.

        Raises
        ------
        RepetitionError : fewer than two categories, or one that is missing when a group is left out.
        NotFiniteError : NaN or infinity. ShapeError : time bins. LeakageError : a stimulus in two groups.
        """
        values, labels = responses(recording), labels_of(recording, self.label)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        check_classes(codes, len(self.classes_), "recording")
        self.map_ = Design(values).fit(codes, self.C)
        self.temperature_ = self.cv_accuracy_ = None
        if self.group is not None:
            self._calibrate(recording, values, codes, on_event, stop)
        self.training_ = recording_fields(recording) | {"n_presentations": len(recording)}
        return self

    def _calibrate(
        self, recording: Recording, values: np.ndarray, codes: np.ndarray, on_event: OnEvent | None, stop: Stop | None
    ) -> None:
        decisions, truths = [], []
        folds = leave_one_group_out(recording, str(self.group))
        for number, fold in enumerate(folds):
            report(on_event, stop, "calibrate", number, len(folds))
            check_split(recording, fold)
            check_classes(codes[fold.train], len(self.classes_), fold.name)
            fitted = Design(values[fold.train]).fit(codes[fold.train], self.C)
            decisions.append(values[fold.test] @ fitted.coef + fitted.intercept)
            truths.append(codes[fold.test])
        self.temperature_ = fit_temperature(decisions, truths)
        self.cv_accuracy_ = float((np.concatenate(decisions).argmax(1) == np.concatenate(truths)).mean())

    def decide(self, recording: Recording) -> np.ndarray:
        """Decision value of each class, (presentation, class) float64; the highest is the answer.

        Raises
        ------
        ArtifactError : other neuroids than in the fit. NotFiniteError : NaN or infinity.
        """
        self._check_fitted()
        check_neuroids(self.training_, recording)
        return responses(recording) @ self.map_.coef + self.map_.intercept

    def predict(self, recording: Recording) -> Answers:
        """The category of each presentation, with confidence; errors as in `decide`.

        Raises
        ------
        InputError : fitted without a group, hence without confidence; use `decide`.
        """
        decisions = self.decide(recording)
        if self.temperature_ is None:
            raise InputError("fitted without confidence", remedy="Fit with a group such as 'run', or use decide")
        probabilities = posterior(decisions, self.temperature_)
        best = decisions.argmax(1)
        return Answers(self.classes_[best], probabilities.max(1), probabilities, self.classes_)

    def _check_fitted(self) -> None:
        if not hasattr(self, "map_"):
            raise InputError("the decoder is not fitted", remedy="Call fit, or from_pretrained")

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        return {
            "parameters": {"C": self.C, "label": self.label, "group": self.group},
            "classes": list(self.classes_),
            "temperature": self.temperature_,
            "cv_accuracy": self.cv_accuracy_,
            **self.training_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        return self.map_._asdict()

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        decoder = cls(**config["parameters"])
        decoder.classes_ = np.array(config["classes"], object)
        decoder.temperature_, decoder.cv_accuracy_ = config["temperature"], config["cv_accuracy"]
        decoder.map_ = LinearMap(**tensors)
        decoder.training_ = restored_fields(config) | {"n_presentations": config["n_presentations"]}
        return decoder

    def _card(self) -> str:
        score = "not measured" if self.cv_accuracy_ is None else f"{self.cv_accuracy_:.3f}"
        return (
            f"Decodes {self.label} ({', '.join(self.classes_)}) from {len(self.map_.coef)} neuroids. Fitted on "
            f"{self.training_['n_presentations']} presentations; accuracy with each {self.group} left out: {score}, "
            f"chance {1 / len(self.classes_):.3f} where categories are shown equally often."
        )


def responses(recording: Recording) -> np.ndarray:
    """All responses, (presentation, neuroid) float64; `ShapeError` on time bins, `NotFiniteError` on NaN."""
    recording.check_without_time()
    values = recording.values.astype(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise NotFiniteError(
            f"presentation {row} has a NaN or infinite value in neuroid {recording.neuroid_ids[column]!r}"
        )
    return values


def labels_of(recording: Recording, label: str) -> np.ndarray:
    """A presentation coordinate as text, (presentation,) object."""
    return np.array([str(v) for v in recording.presentation(label)], object)


def check_classes(codes: np.ndarray, n_classes: int, where: str) -> None:
    """Raise `RepetitionError` unless there are two classes and each of them is among `codes`."""
    if n_classes < 2:
        raise RepetitionError("a single category; there is nothing to tell apart", where=where)
    if len(np.unique(codes)) < n_classes:
        raise RepetitionError(
            "a category is missing from the training part",
            where=where,
            remedy="Show each category in at least two groups, or leave it out",
        )
