"""`LatentDecoder`: from brain responses to the feature space of a model, and from there to stimuli."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from encoders import Features
from recordings import Artifact, Recording
from recordings.artifacts import check_neuroids
from recordings.ceilings import MINIMUM_CEILING
from recordings.errors import ArtifactError, InputError, NotFiniteError
from recordings.events import OnEvent, Stop, report

from .calibration import OutOfFold, Spread, decode_out_of_fold, fit_confidence, measure_spread, rescale
from .columns import column_blocks, moments
from .drift import ResponseMoments
from .identification import Identification, identify
from .latent_map import LatentMap, Targets, fit_map
from .recalibration import recalibrate
from .retrieval import Retrieval, retrieve
from .selection import select_neuroids, warn_of_constants
from .training_record import add_stimuli, check_features, check_unseen, restored_record, training_record

DEFAULT_ALPHAS = tuple(np.logspace(0, 6, 13).tolist())
_PARAMETERS = (
    "alphas", "cv", "reliability", "max_neuroids", "calibration_folds", "device", "seed", "components", "rescale"
)  # fmt: skip
_ROW_BYTES = 64 * 2**20


class LatentDecoder(Artifact):
    """Ridge regression from responses to features, one alpha a feature (Kay et al. 2008; Takagi & Nishimoto 2023).

    Neuroids are chosen by their reliability on the training presentations, then standardised; repetitions are
    averaged. The intercept keeps the mean of the features. Presentations of one stimulus never stand on both sides of a
    cross-validation fold. Targets stream through the fit by columns, from a temporary file where they are larger than
    1 GB; weights of (s, feature) stay in memory, and with `components` of (s, k) and a basis (k, feature).

    Parameters
    ----------
    alphas : penalties to choose from. cv : folds over training stimuli that choose them.
    reliability : smallest noise ceiling of a neuroid that is read; None reads all that vary, repeated or not.
    max_neuroids : read at most so many, the most reliable.
    calibration_folds : folds over training stimuli in which the decoder is fitted anew, neuroids selected anew, to fit
        the temperature of its confidence on stimuli it has not seen; 0 leaves confidence out.
    device : torch device of the regression. seed : of the calibration folds.
    components : decode the first k principal components of the features instead, one alpha a component; None, or as
        many features as that or fewer, decodes features themselves.
    rescale : give predictions the spread of the features, see `decoders.calibration.measure_spread`; it is learnt in
        the calibration folds, for responses averaged over as many repetitions as in the training.

    Attributes
    ----------
    neuroids_ : (s,) columns of the recording that are read.
    alphas_ : (feature,) or (component,) chosen penalties, NaN for constants.
    feature_mean_, feature_scale_ : (feature,) of the training stimuli.
    feature_shape_ : shape of the features of one stimulus, flattened in predictions.
    explained_variance_ : share of the training features' variance that components keep, 1 without them.
    cv_r_ : (feature,) correlation of training features with their prediction out of fold, None without calibration.
    gain_ : (feature,) what predictions are spread by, None without `rescale`.
    temperature_ : of the confidence, or None. cv_accuracy_, cv_chance_ : identification accuracy within the calibration
        folds, and its chance.
    """

    neuroids_: np.ndarray
    alphas_: np.ndarray
    feature_mean_: np.ndarray
    feature_scale_: np.ndarray
    feature_shape_: tuple[int, ...]
    explained_variance_: float
    cv_r_: np.ndarray | None
    gain_: np.ndarray | None
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
        components: int | None = None,
        rescale: bool = False,
    ):
        self.alphas = tuple(float(a) for a in alphas)
        self.cv = cv
        self.reliability = reliability
        self.max_neuroids = max_neuroids
        self.calibration_folds = calibration_folds
        self.device = device
        self.seed = seed
        self.components = components
        self.rescale = rescale

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

        Raises
        ------
        MismatchedIdsError : a stimulus without features. NotFiniteError : NaN or infinity on either side.
        RepetitionError : no repetitions to choose neuroids by, none reliable, or too few stimuli.
        InputError : `rescale` without calibration folds, or components of features that do not vary.

        Warns
        -----
        ConstantNeuroidWarning : neuroids that do not vary over the presentations, which are left out.
        """
        self._check_training(recording)
        if self.rescale and not self.calibration_folds:
            raise InputError("rescale learns its gain in calibration folds", remedy="Give 2 calibration_folds or more")
        targets = Targets.of(features, recording, self.components, on_event, stop)
        self.feature_mean_, self.feature_scale_ = moments(targets.values)
        self.feature_shape_ = tuple(features.shape[1:])
        self.map_, self.alphas_ = self._fit_map(recording, targets, on_event, stop)
        self.neuroids_ = self.map_.neuroids
        kept = self.map_.components
        self.explained_variance_ = 1.0 if kept is None else float(kept.explained_variance_ratio.sum())
        self.temperature_ = self.cv_accuracy_ = self.cv_chance_ = self.cv_r_ = self.gain_ = None
        if self.calibration_folds:
            out, spread = self._out_of_fold(recording, targets, self.calibration_folds, on_event, stop)
            self.cv_r_, self.gain_ = spread.r, spread.gain if self.rescale else None
            gains = spread.by_fold if self.rescale else None
            self.temperature_, self.cv_accuracy_, self.cv_chance_ = fit_confidence(out, targets.values, gains)
        self.response_moments_ = ResponseMoments.of(recording.take(neuroid=self.neuroids_))
        self.training_ = training_record(recording, features, targets.stimulus_ids)
        return self

    def partial_fit(
        self,
        recording: Recording,
        features: Features,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Recalibrate to a new day by a few of its stimuli, see `decoders.recalibration.recalibrate`.

        They count as training stimuli from now on. Confidence and gain stay as they were fitted.

        Raises
        ------
        ArtifactError : other neuroids or another feature space. RepetitionError : fewer than five stimuli.
        """
        self._check_fitted()
        check_features(self.training_, features)
        check_neuroids(self.training_, recording)
        part = recording.take(neuroid=self.neuroids_)
        self.map_ = recalibrate(self.map_, self.response_moments_, part, features, on_event=on_event, stop=stop)
        self.training_ = add_stimuli(self.training_, recording)
        return self

    def cross_predict(
        self,
        recording: Recording,
        features: Features,
        folds: int = 5,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> np.ndarray:
        """Decoded features of each stimulus by a fit that has not seen it, (stimulus, feature) float32.

        Stimuli stand in the order of their first appearance, as in `Recording.average_repetitions`, and are decoded
        from their average. Everything is learnt in the other folds, the gain of `rescale` included. What a fit of this
        decoder has learnt stays as it is.
        """
        self._check_training(recording)
        targets = Targets.of(features, recording, self.components, on_event, stop)
        out, spread = self._out_of_fold(recording, targets, folds, on_event, stop)
        first_seen = {name: row for row, name in enumerate(dict.fromkeys(map(str, recording.stimulus_ids)))}
        rows = np.array([first_seen[targets.stimulus_ids[row]] for row in out.rows])
        decoded = np.empty(targets.values.shape, np.float32)
        for columns in column_blocks(targets.values):
            for part, gain, (mean, _) in zip(out.folds, spread.by_fold, out.training, strict=True):
                block = np.array(out.decoded[part, columns])
                if self.rescale:
                    rescale(block, gain[columns], mean[columns])
                decoded[rows[part], columns] = block
        return decoded

    def _check_training(self, recording: Recording) -> None:
        recording.check_without_time()
        if self.reliability is None and self.max_neuroids is not None:
            raise InputError("max_neuroids needs a reliability to rank by", remedy="Give reliability, if only 0")
        recording.check_finite()
        warn_of_constants(recording)

    def _fit_map(
        self, recording: Recording, targets: Targets, on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[LatentMap, np.ndarray]:
        neuroids = select_neuroids(recording, self.reliability, self.max_neuroids, self.seed)
        part = recording.take(neuroid=neuroids)
        average = part if len(set(part.stimulus_ids)) == len(part) else part.average_repetitions()
        options: dict[str, Any] = {"components": self.components, "device": self.device}
        return fit_map(average, neuroids, targets, self.alphas, self.cv, **options, on_event=on_event, stop=stop)

    def _out_of_fold(
        self, recording: Recording, targets: Targets, folds: int, on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[OutOfFold, Spread]:
        def fit(train: Recording) -> LatentMap:
            return self._fit_map(train, targets, None, stop)[0]

        out = decode_out_of_fold(fit, recording, targets, folds, self.seed, on_event, stop)
        return out, measure_spread(out, targets.values)

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
        decoded = np.empty((len(recording), self.map_.n_features), np.float32)
        step = int(np.clip(_ROW_BYTES // (4 * self.map_.n_features), 1, 512))
        for start in range(0, len(recording), step):
            report(on_event, stop, "decode", start, len(recording))
            values = recording.read(slice(start, start + step), self.neuroids_)
            self._check_values(values, recording, start)
            decoded[start : start + step] = self.map_.predict(values)
            if self.gain_ is not None:
                rescale(decoded[start : start + step], self.gain_, self.feature_mean_)
        return decoded

    def identify(self, recording: Recording, features: Features, **options: Any) -> Identification:
        """Identify the stimulus of each presentation among those of `features`; see `identify` for the options.

        Raises
        ------
        LeakageError : a presentation shows a stimulus of the fit. ArtifactError : another feature space.
        """
        self._check_fitted()
        check_features(self.training_, features)
        check_unseen(self.training_, recording)
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
        check_features(self.training_, gallery)
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
        # The last that a fit sets: one that was stopped is none.
        if not hasattr(self, "training_"):
            raise InputError("the decoder is not fitted", remedy="Call fit, or from_pretrained")

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
            "explained_variance": self.explained_variance_,
            "temperature": self.temperature_,
            "cv_accuracy": self.cv_accuracy_,
            "cv_chance": self.cv_chance_,
            **self.training_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        fitted = {"alphas": self.alphas_, "feature_mean": self.feature_mean_, "feature_scale": self.feature_scale_}
        optional = {"cv_r": self.cv_r_, "gain": self.gain_}
        fitted |= {name: value for name, value in optional.items() if value is not None}
        return fitted | self.map_.tensors() | self.response_moments_.tensors()

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        decoder = cls(**config["parameters"])
        decoder.map_ = LatentMap.from_tensors(tensors)
        decoder.response_moments_ = ResponseMoments.from_tensors(tensors)
        decoder.neuroids_ = decoder.map_.neuroids
        decoder.alphas_ = tensors["alphas"]
        decoder.feature_mean_, decoder.feature_scale_ = tensors["feature_mean"], tensors["feature_scale"]
        decoder.cv_r_, decoder.gain_ = tensors.get("cv_r"), tensors.get("gain")
        decoder.feature_shape_ = tuple(config["feature_shape"])
        decoder.explained_variance_ = config["explained_variance"]
        decoder.temperature_ = config["temperature"]
        decoder.cv_accuracy_, decoder.cv_chance_ = config["cv_accuracy"], config["cv_chance"]
        decoder.training_ = restored_record(config)
        return decoder

    def _card(self) -> str:
        source, kept = self.training_["features"], self.map_.components
        score = (
            "not measured" if self.cv_accuracy_ is None else f"{self.cv_accuracy_:.3f} (chance {self.cv_chance_:.3f})"
        )
        through = "" if kept is None else f" Principal components: {len(kept.basis)}, which keep "
        through += "" if kept is None else f"{self.explained_variance_:.1%} of the training features' variance."
        spread = "" if self.gain_ is None else f" Spread by a gain of {np.median(self.gain_):.2f} in the median."
        return (
            f"Decodes {int(np.prod(self.feature_shape_))} features of {source.get('uri', 'arrays')}, layer "
            f"{source.get('layer', '-')}, from {len(self.neuroids_)} of {len(self.training_['neuroid_ids'])} neuroids. "
            f"Fitted on {len(self.training_['stimulus_ids'])} stimuli. Identification of training stimuli held out in "
            f"{self.calibration_folds} folds, each among its fold: {score}.{through}{spread}"
        )
