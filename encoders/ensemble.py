"""Ensembles: the predictions of several encoders, weighed for every neuroid by how well each does there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from recordings import Recording
from recordings.artifacts import load_artifact, restored_fields
from recordings.errors import ArtifactError, InputError, RepetitionError
from recordings.events import OnEvent, Stop, report
from recordings.statistics import correlate

from .encoder import Encoder, load_encoder
from .features import Features
from .responses import run_labels

MEMBERS = "members"
Given = Features | Mapping[str, Features]


class Ensemble(Encoder):
    """Weighted sum of several fitted encoders' predictions, with weights of its own for every neuroid.

    Weights are a softmax over all members, layers and runs alike, of `temperature` times the correlation of prediction
    and response (Adeli et al. 2025), on responses that no member has seen, not even to choose an epoch. The score then
    needs stimuli of a third set.

    Parameters
    ----------
    members : fitted encoders of the same neuroids, by name; a name becomes a folder's.
    temperature : 0 weighs members alike, a large number takes the best one.

    Attributes
    ----------
    weights_ : float32 (member, neuroid), summing to 1 over members. r_ : float32 (member, neuroid), what they come
        from; NaN for a constant prediction, which has no weight unless all are constant: then all weigh alike.
    """

    r_: np.ndarray
    weights_: np.ndarray

    def __init__(self, members: Mapping[str, Encoder], temperature: float = 40.0) -> None:
        self.members = dict(members)
        self.temperature = temperature
        self.delays = sorted({delay for member in self.members.values() for delay in member.delays or ()}) or None

    def fit(
        self,
        features: Given | Mapping[str, Given],
        recording: Recording,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Learn the weights.

        Parameters
        ----------
        features : of all members, or what each reads by its name.
        recording : responses to stimuli that no member has seen; repetitions are averaged.
        on_event, stop : progress and cancellation, a member at a time.

        Raises
        ------
        LeakageError : a member has seen a stimulus. ArtifactError : members of different neuroids, or other features.
        RepetitionError : fewer than three stimuli. InputError : no members, or one with nuisance regressors.
        """
        self._check_members()
        test = self._unseen(recording)
        ids, observed = [str(i) for i in test.stimulus_ids], test.values
        r = np.empty((len(self.members), test.n_neuroids), np.float32)
        for number, (name, member) in enumerate(self.members.items()):
            report(on_event, stop, "weigh members", number, len(self.members))
            r[number] = correlate(member.predict(self._of(name, features), ids, runs=self._runs(test)), observed)
        self.r_, self.weights_ = r, member_weights(r, self.temperature)
        self.recording_ = next(iter(self.members.values())).recording_
        seen = [set(member.stimulus_ids_) for member in self.members.values()]
        self.stimulus_ids_ = sorted(set(ids).union(*seen))
        return self

    def predict(
        self,
        features: Given | Mapping[str, Given],
        stimulus_ids: Sequence[str] | None = None,
        *,
        runs: ArrayLike | None = None,
    ) -> np.ndarray:
        """Predicted responses, (n, neuroid) float32.

        Parameters
        ----------
        features : of all members, or what each reads by its name.
        stimulus_ids : stimuli in the order of the rows; by default all that the first member's features have.
        runs : (n,), needed where a member has delays and `stimulus_ids` covers several runs.
        """
        self._check_fitted()
        total: np.ndarray | None = None
        for weights, (name, member) in zip(self.weights_, self.members.items(), strict=True):
            given = self._of(name, features)
            if stimulus_ids is None:
                stimulus_ids = list(_first(given).stimulus_ids)
            part = member.predict(given, stimulus_ids, runs=runs)
            part *= weights
            total = part if total is None else total + part
        assert total is not None
        return total

    def _of(self, name: str, features: Given | Mapping[str, Given]) -> Given:
        """What a member reads."""
        if isinstance(features, Mapping) and set(features) == set(self.members):
            return features[name]
        return features  # type: ignore[return-value]

    def _runs(self, recording: Recording) -> np.ndarray | None:
        return run_labels(recording) if self.delays else None

    def _check_members(self) -> None:
        if not self.members:
            raise InputError("no members", where="ensemble", remedy="Give fitted encoders by name")
        if not 0 <= self.temperature < np.inf:
            raise InputError(f"temperature {self.temperature}", where="ensemble", remedy="Give 0 or more, such as 40")
        first, *others = self.members.items()
        for name, member in self.members.items():
            member._check_fitted()
            if not name or name.startswith(".") or set(name) & set("/\\\0"):
                raise InputError(f"{name!r} cannot name a folder", where="ensemble", remedy="Choose another name")
            if member.nuisance_coef_ is not None:
                raise InputError(
                    "was fitted with nuisance regressors, of which an ensemble knows nothing",
                    where=f"member {name}",
                    remedy="Take them off the responses before the fit",
                )
        for name, member in others:
            if member.recording_["neuroid_fingerprint"] != first[1].recording_["neuroid_fingerprint"]:
                raise ArtifactError(
                    f"has other neuroids than {first[0]}, or has them in another order or space",
                    where=f"member {name}",
                    remedy="Fit all members to recordings of one subject and one mask",
                )

    def _unseen(self, recording: Recording) -> Recording:
        """The responses as they are compared, after every member has said that it has not seen them."""
        for member in self.members.values():
            member.check_unseen(recording)
        repeated = len(set(recording.stimulus_ids)) < len(recording) and not self.delays
        test = recording.average_repetitions() if repeated else recording
        if len(test) < 3:
            raise RepetitionError(
                f"{len(test)} stimuli to learn weights from", where="recording", remedy="Hold out more from all members"
            )
        return test

    # Artifact ----------------------------------------------------------------------------------------------------

    def _sources(self) -> list[dict[str, Any]]:
        return [{**source, "member": name} for name, member in self.members.items() for source in member._sources()]

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        return {
            "temperature": self.temperature,
            "members": list(self.members),
            "stimulus_ids": self.stimulus_ids_,
            **self.recording_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        return {"weights_": self.weights_, "r_": self.r_}

    def _write(self, folder: Path) -> None:
        super()._write(folder)
        for name, member in self.members.items():
            member._write(folder / MEMBERS / name)

    @classmethod
    def _read(cls, folder: Path) -> Self:
        config, tensors = load_artifact(folder, cls.__name__)
        members = {name: load_encoder(folder / MEMBERS / name) for name in config["members"]}
        ensemble = cls(members, config["temperature"])
        ensemble.weights_, ensemble.r_ = tensors["weights_"], tensors["r_"]
        ensemble.stimulus_ids_ = config["stimulus_ids"]
        ensemble.recording_ = restored_fields(config)
        return ensemble

    def _card(self) -> str:
        rows = [
            f"- {name}: mean r {np.mean(r[np.isfinite(r)]):.3f}, mean weight {weight.mean():.3f}"
            for name, r, weight in zip(self.members, self.r_, self.weights_, strict=True)
        ]
        return (
            f"Weighted sum of {len(self.members)} encoders of {self.weights_.shape[1]} neuroids, weights from stimuli "
            "that no member has seen:\n\n" + "\n".join(rows)
        )


def member_weights(r: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax over members of temperature * r, float32 of r's shape (member, neuroid).

    A member whose r is NaN has no weight; where all are NaN they weigh alike.
    """
    logits = np.where(np.isnan(r), -np.inf, temperature * r.astype(np.float64))
    logits[:, np.isnan(r).all(0)] = 0
    return softmax(logits, axis=0).astype(np.float32)


def _first(given: Given) -> Features:
    return next(iter(given.values())) if isinstance(given, Mapping) else given
