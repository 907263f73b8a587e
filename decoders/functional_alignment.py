"""Functional alignment: a space in which subjects respond alike to the same stimuli, and decoding through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from encoders.attention.targets import moments
from recordings import Artifact, Recording
from recordings.artifacts import check_neuroids, recording_fields
from recordings.errors import DuplicateIdError, InputError, LeakageError, RepetitionError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from .latent import LatentDecoder

_TOLERANCE = 1e-6


def orthonormal_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """W (p, k) with orthonormal columns (k <= p; else rows) that maximises trace(W' source' target).

    Where p = k it is the rotation that brings (n, p) `source` closest to (n, k) `target` (Schonemann 1966,
    Psychometrika 31), that of `scipy.linalg.orthogonal_procrustes`.
    """
    u, _, vt = np.linalg.svd(source.T.astype(np.float64) @ target, full_matrices=False)
    return (u @ vt).astype(np.float32)


class _Subject(NamedTuple):
    """Mean and scale (neuroid,), map (neuroid, shared), and what is remembered of the recording."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    recording: dict[str, Any]

    def project(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.mean) / self.scale) @ self.weights


class _Alignment(Artifact):
    """What both alignments share: responses to common stimuli, one orthonormal map a subject, more subjects later.

    Attributes
    ----------
    shared_ : (stimulus, shared) float32, mean over subjects of what their maps give.
    stimulus_ids_ : (stimulus,) list, common to all subjects of the fit. subjects_ : map of each by name.
    """

    shared_: np.ndarray
    stimulus_ids_: list[str]

    def fit(
        self, recordings: Mapping[str, Recording], *, on_event: OnEvent | None = None, stop: Stop | None = None
    ) -> Self:
        """Align subjects on the stimuli that all of them saw; repetitions are averaged, neuroids standardised.

        Responses to these stimuli are held in memory, (stimulus, neuroid) float32 a subject.

        Raises
        ------
        InputError : fewer than two subjects. RepetitionError : too few stimuli in common.
        NotFiniteError : NaN or infinity. ShapeError : time bins.
        """
        if len(recordings) < 2:
            raise InputError(f"{len(recordings)} subject to align", remedy="Give two or more")
        seen = [set(map(str, recording.stimulus_ids)) for recording in recordings.values()]
        ids = sorted(set.intersection(*seen))
        if len(ids) < 3:
            raise RepetitionError(
                f"{len(ids)} stimuli were shown to all {len(recordings)} subjects",
                remedy="Give recordings of common stimuli, three or more",
            )
        read = {name: _common(recording, ids) for name, recording in recordings.items()}
        values = [(x - mean) / scale for x, mean, scale in read.values()]
        maps, self.shared_ = self._align(values, on_event, stop)
        self.stimulus_ids_ = ids
        self.subjects_ = {
            name: _Subject(read[name][1], read[name][2], weights, recording_fields(recordings[name]))
            for name, weights in zip(read, maps, strict=True)
        }
        return self

    def _align(
        self, values: list[np.ndarray], on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        raise NotImplementedError

    def add_subject(self, subject: str, recording: Recording) -> Self:
        """Map one more subject, on those of the common stimuli that it saw; nothing else changes.

        Raises
        ------
        DuplicateIdError : the name is taken. RepetitionError : fewer than three of the common stimuli.
        """
        self._check_fitted()
        if subject in self.subjects_:
            raise DuplicateIdError(f"subject {subject!r} is aligned already", remedy="Give another name")
        saw = set(map(str, recording.stimulus_ids))
        rows = [row for row, i in enumerate(self.stimulus_ids_) if i in saw]
        if len(rows) < 3:
            raise RepetitionError(
                f"subject {subject!r} saw {len(rows)} of the {len(self.stimulus_ids_)} common stimuli",
                remedy="Give responses to three or more of them",
            )
        x, mean, scale = _common(recording, [self.stimulus_ids_[row] for row in rows])
        shared = self.shared_[rows] - self.shared_[rows].mean(0)
        weights = orthonormal_map((x - mean) / scale, shared)
        self.subjects_[subject] = _Subject(mean, scale, weights, recording_fields(recording))
        return self

    def transform(
        self, subject: str, recording: Recording, *, on_event: OnEvent | None = None, stop: Stop | None = None
    ) -> Recording:
        """The recording in the common space: its presentations, neuroids "shared0", "shared1", ...

        What is fitted on one subject there reads any other.

        Raises
        ------
        UnknownNameError : a subject that was not aligned. ArtifactError : other neuroids than were.
        NotFiniteError : NaN or infinity.
        """
        weights = self._subject(subject, recording).weights
        table = {"neuroid_id": [f"shared{k}" for k in range(weights.shape[1])]}
        blocks = self._projected(subject, recording, on_event, stop)
        return Recording(blocks, recording.presentations, table, attrs={**recording.attrs, "aligned": subject})

    def carry(
        self,
        recording: Recording,
        source: str,
        target: Recording,
        target_subject: str,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Recording:
        """Responses of `source` as the neuroids of another subject would give them: there through the common space.

        Parameters
        ----------
        target : any recording of `target_subject`, for its neuroids.
        """
        self._subject(source, recording)
        to = self._subject(target_subject, target)
        values = self._projected(source, recording, on_event, stop) @ to.weights.T * to.scale + to.mean
        return Recording(
            values,
            recording.presentations,
            target.neuroids,
            space=target.space,
            rois=target.declared_rois,
            attrs={**recording.attrs, "aligned": source, "carried_to": target_subject},
        )

    def _projected(self, subject: str, recording: Recording, on_event: OnEvent | None, stop: Stop | None) -> np.ndarray:
        recording.check_without_time()
        recording.check_finite()
        blocks, done = [], 0
        for block in recording.blocks():
            report(on_event, stop, "align", done, len(recording))
            blocks.append(self.subjects_[subject].project(block))
            done += len(block)
        return np.concatenate(blocks)

    def _subject(self, name: str, recording: Recording) -> _Subject:
        self._check_fitted()
        if name not in self.subjects_:
            raise UnknownNameError(
                f"subject {name!r} was not aligned",
                remedy=f"There are: {', '.join(self.subjects_)}; call add_subject for others",
            )
        check_neuroids(self.subjects_[name].recording, recording)
        return self.subjects_[name]

    def _check_fitted(self) -> None:
        if not hasattr(self, "subjects_"):
            raise InputError("the alignment is not fitted", remedy="Call fit, or from_pretrained")

    def _parameters(self) -> dict[str, Any]:
        raise NotImplementedError

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        subjects = {name: subject.recording for name, subject in self.subjects_.items()}
        return {"parameters": self._parameters(), "stimulus_ids": self.stimulus_ids_, "subjects": subjects}

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {"shared": self.shared_}
        for number, subject in enumerate(self.subjects_.values()):
            tensors |= {f"{number}.{name}": getattr(subject, name) for name in ("mean", "scale", "weights")}
        return tensors

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        alignment = cls(**config["parameters"])
        alignment.shared_, alignment.stimulus_ids_ = tensors["shared"], config["stimulus_ids"]
        alignment.subjects_ = {
            name: _Subject(
                tensors[f"{number}.mean"], tensors[f"{number}.scale"], tensors[f"{number}.weights"], recording
            )
            for number, (name, recording) in enumerate(config["subjects"].items())
        }
        return alignment

    def _card(self) -> str:
        return (
            f"Brings responses of {len(self.subjects_)} subjects to {self.shared_.shape[1]} shared dimensions, aligned "
            f"on {len(self.stimulus_ids_)} stimuli."
        )


class SharedResponseModel(_Alignment):
    """Deterministic shared response model: X_i ~ S W_i' with W_i' W_i = 1 (Chen et al. 2015, NIPS, eq. 1).

    Maps and shared responses are solved for in turn, each exactly, from random orthonormal maps.

    Parameters
    ----------
    n_features : k, dimensions of the shared space; at most the neuroids of the smallest subject.
    n_iterations : at most; it ends sooner once the squared error falls by less than a millionth of itself.
    seed : of the first maps.

    Attributes
    ----------
    errors_ : squared error after each iteration, over that of no model at all.
    """

    errors_: list[float]

    def __init__(self, n_features: int = 20, n_iterations: int = 50, seed: int = 0) -> None:
        self.n_features = n_features
        self.n_iterations = n_iterations
        self.seed = seed

    def _align(
        self, values: list[np.ndarray], on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        k, fewest = self.n_features, min(x.shape[1] for x in values)
        if not 1 <= k <= fewest or self.n_iterations < 1:
            raise InputError(
                f"{k} shared features of {fewest} neuroids, {self.n_iterations} iterations",
                remedy=f"Choose between 1 and {fewest} features, and at least one iteration",
            )
        rng = np.random.default_rng(self.seed)
        maps = [np.linalg.qr(rng.normal(size=(x.shape[1], k)))[0].astype(np.float32) for x in values]
        total = sum(float((x.astype(np.float64) ** 2).sum()) for x in values)
        self.errors_ = []
        for iteration in range(self.n_iterations):
            report(on_event, stop, "align", iteration, self.n_iterations)
            shared = np.mean([x @ w for x, w in zip(values, maps, strict=True)], 0)
            maps = [orthonormal_map(x, shared) for x in values]
            # |X - S W'|^2 = |X|^2 - 2 tr(W' X' S) + |S|^2, since W has orthonormal columns.
            common = [float((x @ w * shared).sum()) for x, w in zip(values, maps, strict=True)]
            self.errors_.append(1 + (len(values) * float((shared**2).sum()) - 2 * sum(common)) / total)
            if len(self.errors_) > 1 and self.errors_[-2] - self.errors_[-1] < _TOLERANCE:
                break
        return maps, np.mean([x @ w for x, w in zip(values, maps, strict=True)], 0)

    def _parameters(self) -> dict[str, Any]:
        return {"n_features": self.n_features, "n_iterations": self.n_iterations, "seed": self.seed}


class Hyperalignment(_Alignment):
    """Procrustean hyperalignment in three passes (Haxby et al. 2011, Neuron 72, supplemental methods).

    The reference is the subject of fewest neuroids. Pass one brings each subject to the mean of those before it; pass
    two to the mean of the others; pass three to the mean of all, which is the common space. Its dimensions are the
    neuroids of the reference, so give one region of interest, or a subject's principal components.
    """

    def _align(
        self, values: list[np.ndarray], on_event: OnEvent | None, stop: Stop | None
    ) -> tuple[list[np.ndarray], np.ndarray]:
        order = np.argsort([x.shape[1] for x in values], kind="stable")
        aligned: dict[int, np.ndarray] = {}
        for done, k in enumerate(order):
            report(on_event, stop, "align", done, 3 * len(values))
            reference = np.mean(list(aligned.values()), 0) if aligned else values[k]
            aligned[k] = values[k] @ orthonormal_map(values[k], reference) if aligned else values[k]
        whole = np.sum(list(aligned.values()), 0)
        second = []
        for k, x in enumerate(values):
            report(on_event, stop, "align", len(values) + k, 3 * len(values))
            second.append(x @ orthonormal_map(x, (whole - aligned[k]) / (len(values) - 1)))
        common = np.mean(second, 0)
        maps = []
        for k, x in enumerate(values):
            report(on_event, stop, "align", 2 * len(values) + k, 3 * len(values))
            maps.append(orthonormal_map(x, common))
        return maps, common.astype(np.float32)

    def _parameters(self) -> dict[str, Any]:
        return {}


def transfer(
    decoder: LatentDecoder,
    alignment: SharedResponseModel | Hyperalignment,
    recording: Recording,
    *,
    subject: str,
    fitted_on: Recording,
    fitted_subject: str,
) -> np.ndarray:
    """Decode one subject by a decoder that was fitted on another, (presentation, feature) float32.

    The responses are carried to the neuroids that the decoder reads. (A decoder fitted on `transform`-ed responses
    needs none of this: it predicts from any subject's.)

    Parameters
    ----------
    recording : of `subject`. fitted_on : any recording of `fitted_subject`, for its neuroids.

    Raises
    ------
    LeakageError : a presentation shows a stimulus of the decoder's fit.
    UnknownNameError : a subject that was not aligned. ArtifactError : other neuroids than were aligned or decoded.
    """
    seen = set(decoder.training_["stimulus_ids"]).intersection(map(str, recording.stimulus_ids))
    if seen:
        raise LeakageError(
            f"stimulus {min(seen)!r} was in the fit of the decoder ({len(seen)} in all)",
            where="recording",
            remedy="Decode stimuli that no subject of the fit has seen",
        )
    return decoder.predict(alignment.carry(recording, subject, fitted_on, fitted_subject))


def _common(recording: Recording, stimulus_ids: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean response to each stimulus, in their order, with mean and scale of each neuroid over them."""
    recording.check_without_time()
    shown = recording.take(np.flatnonzero(np.isin(recording.stimulus_ids.astype(str), stimulus_ids)))
    shown.check_finite()
    average = shown.average_repetitions() if len(shown) > len(stimulus_ids) else shown
    average = average.take(np.argsort(average.match(stimulus_ids)))
    return average.values, *moments(average)
