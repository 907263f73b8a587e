"""`BrainDecoder`: everything that a generator starts from, each decoded from its own regions of one brain."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from encoders import Features
from recordings import Artifact, Recording
from recordings.artifacts import check_neuroids, load_artifact, recording_fields, restored_fields
from recordings.errors import InputError, UnknownNameError
from recordings.events import Event, OnEvent, Stop

from .drift import DriftReport, ResponseMoments, drifted, measure_shift
from .latent import LatentDecoder
from .recalibration import compare
from .selection import constants_told_once

TARGETS = "targets"


class BrainDecoder(Artifact):
    """One `LatentDecoder` a target, on a set of regions of its own (Takagi & Nishimoto 2023).

    Parameters
    ----------
    rois : regions that each target is decoded from, as in `Recording.roi`; None for the whole recording.
        ``{"z": ["V1", "V2"], "c": ["category"]}``.
    rescale : give predictions the spread of their targets, learnt on training stimuli out of fold.
    components : decode targets of more than so many features through so many principal components.
    options : of every `LatentDecoder`.

    Attributes
    ----------
    decoders_ : the fitted `LatentDecoder` of each target.

    Raises
    ------
    InputError : no target, one without regions, or one whose name is no folder name.
    """

    decoders_: dict[str, LatentDecoder]

    def __init__(
        self,
        rois: Mapping[str, Sequence[str] | None],
        *,
        rescale: bool = True,
        components: int | None = None,
        **options: Any,
    ):
        if not rois:
            raise InputError("no target", where="rois", remedy='Name regions by target, such as {"z": ["V1"]}')
        for target, names in rois.items():
            if names is not None and (isinstance(names, str) or not len(names)):
                raise InputError(
                    f"regions {names!r}", where=f"target {target!r}", remedy="Give a list, or None for all"
                )
            if Path(target).name != target or target in ("", ".", ".."):
                raise InputError(f"target {target!r} is no folder name", where="rois")
        self.rois = {target: None if names is None else list(names) for target, names in rois.items()}
        self.rescale = rescale
        self.components = components
        self.options = options
        # Unknown options are an error here, not at the fit.
        self._new()

    def _new(self) -> LatentDecoder:
        return LatentDecoder(rescale=self.rescale, components=self.components, **self.options)

    # Fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        recording: Recording,
        targets: Mapping[str, Features],
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Fit each target on single training presentations, matched to its features by stimulus id.

        Raises
        ------
        UnknownNameError : a target without features or without regions, or a region that the recording does not have.
        EmptyROIError : a region without neuroids. Others : see `LatentDecoder.fit`.

        Warns
        -----
        ConstantNeuroidWarning : neuroids of any target that do not vary, once for all targets.
        """
        self._check_targets(targets)
        parts = self._parts(recording)
        with constants_told_once(self._regions(recording)):
            fits = {t: self._new().fit(part, targets[t], **_watched(t, on_event, stop)) for t, part in parts.items()}
        self.decoders_, self.recording_ = fits, recording_fields(recording)
        return self

    def partial_fit(
        self,
        recording: Recording,
        targets: Mapping[str, Features],
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Recalibrate every target's decoder to a new day by a few of its stimuli; see `LatentDecoder.partial_fit`."""
        self._check_targets(targets)
        # All or none: stopped in between, targets would stand on different days.
        self.decoders_ = {
            t: copy.copy(self.decoders_[t]).partial_fit(part, targets[t], **_watched(t, on_event, stop))
            for t, part in self._fitted_parts(recording).items()
        }
        return self

    def cross_predict(
        self,
        recording: Recording,
        targets: Mapping[str, Features],
        folds: int = 5,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> dict[str, np.ndarray]:
        """Decoded targets of each stimulus by fits that have not seen it, (stimulus, *feature_shape) float32.

        Stimuli stand in the order of their first appearance, as in `Recording.average_repetitions`; folds are the same
        for all targets. A fit that was made before stays as it is.
        """
        self._check_targets(targets)
        new, decoded = self._new(), {}
        with constants_told_once(self._regions(recording)):
            for target, part in self._parts(recording).items():
                values = new.cross_predict(part, targets[target], folds, **_watched(target, on_event, stop))
                decoded[target] = values.reshape(len(values), *targets[target].shape[1:])
        return decoded

    # Use ---------------------------------------------------------------------------------------------------------

    def predict(
        self, recording: Recording, *, on_event: OnEvent | None = None, stop: Stop | None = None
    ) -> dict[str, np.ndarray]:
        """Decoded targets of each presentation, (presentation, *feature_shape) float32 by target.

        Average repetitions first (`Recording.average_repetitions`) to decode a stimulus from all of them.

        Raises
        ------
        ArtifactError : other neuroids than in the fit, another order or space. NotFiniteError : NaN or infinity.
        """
        decoded = {}
        for target, part in self._fitted_parts(recording).items():
            decoder = self.decoders_[target]
            values = decoder.predict(part, **_watched(target, on_event, stop))
            decoded[target] = values.reshape(len(values), *decoder.feature_shape_)
        return decoded

    def drift(
        self,
        recording: Recording,
        targets: Mapping[str, Features] | None = None,
        *,
        folds: int = 5,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> DriftReport:
        """How far the neuroids that are read have drifted since the training.

        Parameters
        ----------
        recording : presentations of a new day. targets : of its stimuli; with them, decoding is compared before and
            after recalibration, each stimulus decoded after recalibration on the other folds.

        Raises
        ------
        RepetitionError : fewer than five stimuli, or than folds.
        """
        if targets is not None:
            self._check_targets(targets)
        found: dict[str, tuple[float, float, bool]] = {}
        before, after = {}, {}
        for target, part in self._fitted_parts(recording).items():
            decoder = self.decoders_[target]
            read = part.take(neuroid=decoder.neuroids_)
            read.check_finite()
            shift = measure_shift(decoder.response_moments_, ResponseMoments.of(read))
            rows = zip(shift.offset.tolist(), np.exp(shift.log_gain).tolist(), drifted(shift).tolist(), strict=True)
            # A neuroid that several targets are decoded from counts once.
            found |= dict(zip(map(str, read.neuroid_ids), rows, strict=True))
            if targets is not None:
                before[target], after[target] = compare(
                    decoder.map_,
                    decoder.response_moments_,
                    read,
                    targets[target],
                    folds,
                    mean=decoder.feature_mean_,
                    scale=decoder.feature_scale_,
                    **_watched(target, on_event, stop),
                )
        offset, gain, flagged = (np.array(column) for column in zip(*found.values(), strict=True))
        ids = np.array(list(found), object)
        return DriftReport(ids, offset, gain, flagged, before or None, after or None)

    def _check_targets(self, targets: Mapping[str, Features]) -> None:
        for name in self.rois.keys() - targets.keys():
            raise UnknownNameError(
                f"no features of target {name!r}", remedy=f"Given are: {', '.join(targets) or 'none'}"
            )
        for name in targets.keys() - self.rois.keys():
            raise UnknownNameError(f"no regions for target {name!r}", remedy=f"There are: {', '.join(self.rois)}")

    def _parts(self, recording: Recording) -> dict[str, Recording]:
        return {t: recording if names is None else recording.roi(*names) for t, names in self.rois.items()}

    def _regions(self, recording: Recording) -> Recording:
        """The neuroids that any target is decoded from."""
        regions = [names for names in self.rois.values() if names is not None]
        return recording if len(regions) < len(self.rois) else recording.roi(*chain(*regions))

    def _fitted_parts(self, recording: Recording) -> dict[str, Recording]:
        self._check_fitted()
        check_neuroids(self.recording_, recording)
        return self._parts(recording)

    def _check_fitted(self) -> None:
        if not hasattr(self, "decoders_"):
            raise InputError("the decoder is not fitted", remedy="Call fit, or from_pretrained")

    # Artifact ----------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        parameters = {"rescale": self.rescale, "components": self.components, **self.options}
        return {"rois": self.rois, "parameters": parameters, **self.recording_}

    def _tensors(self) -> dict[str, np.ndarray]:
        return {}

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        for target, decoder in self.decoders_.items():
            decoder._write(folder / TARGETS / target)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        config, _ = load_artifact(folder, cls.__name__)
        decoder = cls(config["rois"], **config["parameters"])
        decoder.decoders_ = {target: LatentDecoder._read(folder / TARGETS / target) for target in config["rois"]}
        decoder.recording_ = restored_fields(config)
        return decoder

    def _card(self) -> str:
        rows = [
            f"- {target}, from {', '.join(self.rois[target] or ['all neuroids'])}: {decoder._card()}"
            for target, decoder in self.decoders_.items()
        ]
        return "\n".join(rows)


def _watched(target: str, on_event: OnEvent | None, stop: Stop | None) -> dict[str, Any]:
    """`on_event` and `stop` of one target, whose events say that they are of it."""

    def tell(event: Event) -> None:
        if on_event is not None:
            on_event(Event(f"{target}: {event.stage}", event.done, event.total, event.payload))

    return {"on_event": tell, "stop": stop}
