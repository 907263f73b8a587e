"""`LatentDecoder`: from brain responses to the feature space of a model, and from there to stimuli."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from encoders import Features
from encoders.solvers import AlphaEdgeWarning, ConstantTargetWarning, ridge_cv
from recordings import Artifact, Recording, stimulus_folds
from recordings.artifacts import check_neuroids, recording_fields
from recordings.ceilings import MINIMUM_CEILING
from recordings.errors import ArtifactError, InputError, LeakageError, NotFiniteError, RepetitionError
from recordings.events import OnEvent, Stop, report

from .confidence import fit_temperature
from .identification import Identification, identify
from .retrieval import Retrieval, retrieve
from .selection import reliable_neuroids
from .similarity import correlations

DEFAULT_ALPHAS = tuple(np.logspace(0, 6, 13).tolist())
_PARAMETERS = ("alphas", "cv", "reliability", "max_neuroids", "calibration_folds", "device", "seed")
_ROWS = 512


class _Map(NamedTuple):
    """Selected neuroids (s,), their mean and scale (s,), weights (s, feature) and intercept (feature,)."""

    neuroids: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def predict(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.mean) / self.scale) @ self.weights + self.intercept


class LatentDecoder(Artifact):
    """Ridge regression from responses to features, one alpha a feature (Kay et al. 2008; Takagi & Nishimoto 2023).

    Neuroids are chosen by their reliability on the training presentations, then standardised; repetitions are
    averaged. The intercept keeps the mean of the features. Presentations of one stimulus never stand on both sides of a
    cross-validation fold.

    Parameters
    ----------
    alphas : penalties to choose from. cv : folds over training stimuli that choose them.
    reliability : smallest noise ceiling of a neuroid that is read; None reads all that vary, repeated or not.
    max_neuroids : read at most so many, the most reliable.
    calibration_folds : folds over training stimuli in which the decoder is fitted anew, neuroids selected anew, to fit
        the temperature of its confidence on stimuli it has not seen; 0 leaves confidence out.
    device : torch device of the regression. seed : of the calibration folds.

    Attributes
    ----------
    neuroids_ : (s,) columns of the recording that are read. alphas_ : (feature,) chosen penalties, NaN for constants.
    feature_mean_, feature_scale_ : (feature,) of the training stimuli.
    feature_shape_ : shape of the features of one stimulus, flattened in predictions.
    temperature_ : of the confidence, or None. cv_accuracy_, cv_chance_ : identification accuracy within the calibration
        folds, and its chance.
    """

    neuroids_: np.ndarray
    alphas_: np.ndarray
    feature_mean_: np.ndarray
    feature_scale_: np.ndarray
    feature_shape_: tuple[int, ...]
    temperature_: float | None
    cv_accuracy_: float | None
    cv_chance_: float | None

    def __init__(
        self,
        alphas: Sequence[float] = DEFAULT_ALPHAS,
        cv: int = 5,
        reliability: float | None = MINIMUM_CEILING,
        max_neuroids: int | None = None,
        calibration_folds: int = 5,
        device: str = "cpu",
        seed: int = 0,
    ):
        self.alphas = tuple(float(a) for a in alphas)
        self.cv = cv
        self.reliability = reliability
        self.max_neuroids = max_neuroids
        self.calibration_folds = calibration_folds
        self.device = device
        self.seed = seed

    # Fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        recording: Recording,
        features: Features,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Fit on single training presentations and the features of their stimuli, matched by id.

        Features of the training stimuli are held in memory, (stimulus, feature) float32: reduce huge layers first.

        Raises
        ------
        MismatchedIdsError : a stimulus without features. NotFiniteError : NaN or infinity on either side.
        RepetitionError : no repetitions to choose neuroids by, none reliable, or too few stimuli.
        """
        recording.check_without_time()
        if self.reliability is None and self.max_neuroids is not None:
            raise InputError("max_neuroids needs a reliability to rank by", remedy="Give reliability, if only 0")
        recording.check_finite()
        targets, ids = _targets(recording, features)
        self.map_, self.alphas_ = self._fit_map(recording, ids, targets, on_event, stop)
        self.neuroids_ = self.map_.neuroids
        self.feature_mean_, self.feature_scale_ = _moments(targets)
        self.feature_shape_ = tuple(features.shape[1:])
        self._calibrate(recording, ids, targets, on_event, stop)
        self.training_ = {
            **recording_fields(recording),
            "feature_fingerprint": features.fingerprint(),
            "features": {name: str(value) for name, value in features.attrs.items() if value is not None},
            "stimulus_ids": sorted(ids),
        }
        return self

    def _fit_map(
        self, recording: Recording, ids: list[str], targets: np.ndarray, on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[_Map, np.ndarray]:
        # `targets` has a row for each of `ids`; the recording may show a part of them.
        neuroids = self._select(recording)
        part = recording.take(neuroid=neuroids)
        average = part if len(set(part.stimulus_ids)) == len(part) else part.average_repetitions()
        values = average.values
        mean, scale = _moments(values)
        varies = values.std(0) > 0
        if not varies.any():
            raise RepetitionError("no neuroid varies over the training stimuli")
        neuroids, mean, scale = neuroids[varies], mean[varies], scale[varies]
        design = (values[:, varies] - mean) / scale
        shown = average.match(ids)
        fit = ridge_cv(
            design,
            targets[shown],
            self.alphas,
            self.cv,
            groups=average.stimulus_ids.astype(str),
            device=self.device,
            on_event=on_event,
            stop=stop,
        )
        weights = np.asarray(fit.weights)
        if fit.solver == "kernel":
            weights = (design - design.mean(0)).T @ weights
        return _Map(neuroids, mean, scale, weights.astype(np.float32), fit.intercept.astype(np.float32)), fit.alphas

    def _select(self, recording: Recording) -> np.ndarray:
        if self.reliability is None:
            return np.arange(recording.n_neuroids)
        try:
            return reliable_neuroids(recording, self.reliability, self.max_neuroids, seed=self.seed)
        except RepetitionError as error:
            raise RepetitionError(
                f"neuroids cannot be chosen by reliability: {error.what}",
                remedy="Fit on single presentations of repeated stimuli, or on all neuroids (reliability=None or "
                "--all-neuroids)",
            ) from error

    def _calibrate(
        self, recording: Recording, ids: list[str], targets: np.ndarray, on_event: OnEvent | None, stop: Stop | None
    ) -> None:
        self.temperature_ = self.cv_accuracy_ = self.cv_chance_ = None
        if not self.calibration_folds:
            return
        similarities, truths = [], []
        folds = stimulus_folds(recording, self.calibration_folds, self.seed)
        for number, fold in enumerate(folds):
            report(on_event, stop, "calibrate", number, len(folds))
            train, held_out = fold.apply(recording)
            with warnings.catch_warnings():
                # The fit on all training stimuli has said so already.
                warnings.simplefilter("ignore", AlphaEdgeWarning)
                warnings.simplefilter("ignore", ConstantTargetWarning)
                fitted, _ = self._fit_map(train, ids, targets, None, stop)
            average = held_out.take(neuroid=fitted.neuroids).average_repetitions()
            rows = average.match(ids)
            mean, scale = _moments(targets[train.match(ids)])
            decoded = fitted.predict(average.values)
            similarities.append(correlations(decoded, targets[rows], mean=mean, scale=scale))
            truths.append(np.arange(len(rows)))
        self.temperature_ = fit_temperature(similarities, truths)
        hits = [s.argmax(1) == t for s, t in zip(similarities, truths, strict=True)]
        self.cv_accuracy_ = float(np.concatenate(hits).mean())
        self.cv_chance_ = len(hits) / sum(map(len, hits))

    # Use ---------------------------------------------------------------------------------------------------------

    def predict(self, recording: Recording, *, on_event: OnEvent | None = None, stop: Stop | None = None) -> np.ndarray:
        """Decoded features of each presentation, (presentation, feature) float32.

        Average repetitions first (`Recording.average_repetitions`) to decode a stimulus from all of them.

        Raises
        ------
        ArtifactError : other neuroids than in the fit, another order or space. NotFiniteError : NaN or infinity.
        """
        self._check_fitted()
        check_neuroids(self.training_, recording)
        decoded = np.empty((len(recording), len(self.map_.intercept)), np.float32)
        for start in range(0, len(recording), _ROWS):
            report(on_event, stop, "decode", start, len(recording))
            values = recording.read(slice(start, start + _ROWS), self.neuroids_)
            self._check_values(values, recording, start)
            decoded[start : start + _ROWS] = self.map_.predict(values)
        return decoded

    def identify(self, recording: Recording, features: Features, **options: Any) -> Identification:
        """Identify the stimulus of each presentation among those of `features`; see `identify` for the options.

        Raises
        ------
        LeakageError : a presentation shows a stimulus of the fit. ArtifactError : another feature space.
        """
        self._check_fitted()
        self._check_features(features)
        seen = set(self.training_["stimulus_ids"]).intersection(map(str, recording.stimulus_ids))
        if seen:
            raise LeakageError(
                f"stimulus {min(seen)!r} was in the fit ({len(seen)} in all)",
                where="recording",
                remedy="Identify stimuli held out by split_by_stimulus",
            )
        return identify(
            self.predict(recording),
            [str(i) for i in recording.stimulus_ids],
            features,
            mean=self.feature_mean_,
            scale=self.feature_scale_,
            temperature=self.temperature_,
            **options,
        )

    def retrieve(self, recording: Recording, gallery: Features, k: int = 5) -> Retrieval:
        """The k stimuli of a gallery that each presentation resembles most; the gallery may hold training stimuli.

        Raises
        ------
        ArtifactError : another feature space, or a fit without calibration.
        """
        self._check_fitted()
        self._check_features(gallery)
        if self.temperature_ is None:
            raise ArtifactError("fitted without confidence", remedy="Fit with calibration_folds of 2 or more")
        return retrieve(
            self.predict(recording),
            gallery,
            k,
            temperature=self.temperature_,
            mean=self.feature_mean_,
            scale=self.feature_scale_,
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "map_"):
            raise InputError("the decoder is not fitted", remedy="Call fit, or from_pretrained")

    def _check_features(self, features: Features) -> None:
        if features.fingerprint() != self.training_["feature_fingerprint"]:
            fitted = ", ".join(f"{k} {self.training_['features'].get(k, '-')}" for k in ("uri", "layer", "readout"))
            given = ", ".join(f"{k} {features.attrs.get(k, '-')}" for k in ("uri", "layer", "readout"))
            raise ArtifactError(
                f"features of another space ({given}, shape {features.shape[1:]}) than in the fit ({fitted}, "
                f"shape {self.feature_shape_})",
                remedy="Give features of the same model, weights, layer and read-out",
            )

    def _check_values(self, values: np.ndarray, recording: Recording, first: int) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise NotFiniteError(
                f"presentation {first + row} (stimulus {recording.stimulus_ids[first + row]!r}) has a NaN or infinite "
                f"value in neuroid {recording.neuroid_ids[self.neuroids_[column]]!r}"
            )

    # Artifact ----------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        return {
            "parameters": {name: getattr(self, name) for name in _PARAMETERS},
            "feature_shape": list(self.feature_shape_),
            "temperature": self.temperature_,
            "cv_accuracy": self.cv_accuracy_,
            "cv_chance": self.cv_chance_,
            **self.training_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        fitted = {"alphas": self.alphas_, "feature_mean": self.feature_mean_, "feature_scale": self.feature_scale_}
        return fitted | {f"map.{name}": value for name, value in self.map_._asdict().items()}

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        decoder = cls(**config["parameters"])
        decoder.map_ = _Map(**{name: tensors[f"map.{name}"] for name in _Map._fields})
        decoder.neuroids_ = decoder.map_.neuroids
        decoder.alphas_ = tensors["alphas"]
        decoder.feature_mean_, decoder.feature_scale_ = tensors["feature_mean"], tensors["feature_scale"]
        decoder.feature_shape_ = tuple(config["feature_shape"])
        decoder.temperature_ = config["temperature"]
        decoder.cv_accuracy_, decoder.cv_chance_ = config["cv_accuracy"], config["cv_chance"]
        names = ("neuroid_ids", "space", "neuroid_fingerprint", "feature_fingerprint", "features", "stimulus_ids")
        decoder.training_ = {name: config[name] for name in names}
        return decoder

    def _card(self) -> str:
        source = self.training_["features"]
        score = (
            "not measured" if self.cv_accuracy_ is None else f"{self.cv_accuracy_:.3f} (chance {self.cv_chance_:.3f})"
        )
        return (
            f"Decodes {int(np.prod(self.feature_shape_))} features of {source.get('uri', 'arrays')}, layer "
            f"{source.get('layer', '-')}, from {len(self.neuroids_)} of {len(self.training_['neuroid_ids'])} neuroids. "
            f"Fitted on {len(self.training_['stimulus_ids'])} stimuli. Identification of training stimuli held out in "
            f"{self.calibration_folds} folds, each among its fold: {score}."
        )


def _targets(recording: Recording, features: Features) -> tuple[np.ndarray, list[str]]:
    ids = list(dict.fromkeys(map(str, recording.stimulus_ids)))
    values = features.read(features.rows(ids))
    return values.reshape(len(ids), -1), ids


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = values.std(0, dtype=np.float64)
    return values.mean(0, dtype=np.float64).astype(np.float32), np.where(scale > 0, scale, 1).astype(np.float32)
