"""What all encoders share: they are fitted to a recording, predict by stimulus id, and are scored on unseen stimuli."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from recordings import Recording, Score, score_predictions
from recordings.artifacts import Artifact, check_neuroids, read_config
from recordings.errors import ArtifactError, InputError, LeakageError
from recordings.events import OnEvent, Stop

from .bands import named
from .features import Features
from .responses import run_labels, without_nuisance


class Encoder(Artifact):
    """Base of all encoders.

    Fitted attributes: ``recording_``, what `recordings.artifacts.recording_fields` remembers of the training recording;
    ``stimulus_ids_``, every stimulus that had a part in the fit, also in choosing an epoch or a penalty.
    """

    delays: Sequence[int] | None = None
    nuisance_mean_: np.ndarray | None = None
    nuisance_coef_: np.ndarray | None = None
    recording_: dict[str, Any]
    stimulus_ids_: list[str]

    def fit(
        self,
        features: Features | Mapping[str, Features],
        recording: Recording,
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Learn from responses to stimuli that are matched by id; some encoders take more than this."""
        raise NotImplementedError

    def predict(
        self,
        features: Features | Mapping[str, Features],
        stimulus_ids: Sequence[str] | None = None,
        *,
        runs: ArrayLike | None = None,
    ) -> np.ndarray:
        """Predicted responses, (n, neuroid) float32."""
        raise NotImplementedError

    def _sources(self) -> list[dict[str, Any]]:
        """What the features are, as JSON values: name, fingerprint and others of each space."""
        raise NotImplementedError

    def score(
        self,
        features: Features | Mapping[str, Features],
        recording: Recording,
        *,
        ceiling: np.ndarray | None = None,
        metric: str = "r",
        nuisance: np.ndarray | None = None,
        n_bootstrap: int = 200,
        seed: int = 0,
    ) -> Score:
        """Compare predictions with responses to stimuli that the fit has never seen.

        Parameters
        ----------
        recording : test responses of the same neuroids; repetitions are averaged.
        ceiling : (neuroid,) fraction of variance; by default the recording's coordinate ``noise_ceiling``, if any.
        metric : "r" or "r2".
        nuisance : (presentation, q), the regressors of the fit; their part, as learnt there, is taken off the
            responses.
        n_bootstrap, seed : resamples of stimuli for the interval.

        Raises
        ------
        LeakageError : a stimulus of the recording was in the fit.
        ArtifactError : other neuroids or another feature space than in the fit.
        """
        test = self.held_out(recording, nuisance)
        runs = run_labels(test) if self.delays else None
        provenance = {"encoder": type(self).__name__, "bands": self._sources(), "seed": seed}
        return score_predictions(
            self.predict(features, list(test.stimulus_ids), runs=runs),
            test,
            ceiling=ceiling,
            metric=metric,
            n_bootstrap=n_bootstrap,
            seed=seed,
            provenance=provenance,
        )

    def held_out(self, recording: Recording, nuisance: np.ndarray | None = None) -> Recording:
        """Responses as `score` compares them: without nuisance, and averaged over repetitions unless there are delays.

        Raises
        ------
        LeakageError : a stimulus of the recording was in the fit. ArtifactError : other neuroids than in the fit.
        """
        self.check_unseen(recording)
        test = without_nuisance(recording, nuisance, self.nuisance_mean_, self.nuisance_coef_)
        repeated = len(set(test.stimulus_ids)) < len(test)
        return test.average_repetitions() if repeated and not self.delays else test

    def check_unseen(self, recording: Recording) -> None:
        """Raise `LeakageError` if a stimulus was in the fit, `ArtifactError` if the neuroids are others."""
        self._check_fitted()
        check_neuroids(self.recording_, recording)
        seen = np.intersect1d(self.stimulus_ids_, recording.stimulus_ids.astype(str))
        if len(seen):
            raise LeakageError(
                f"stimulus {seen[0]!s} was in the fit ({len(seen)} in all)",
                where="recording",
                remedy="Score on stimuli held out by split_by_stimulus",
            )

    def _spaces(self, features: Features | Mapping[str, Features]) -> dict[str, Features]:
        """Features by name, in the order of the fit; `ArtifactError` if they are not those of the fit."""
        self._check_fitted()
        given, fitted = named(features), {source["name"]: source for source in self._sources()}
        if set(given) != set(fitted):
            raise ArtifactError(
                f"features named {sorted(given)}, fitted on {sorted(fitted)}",
                where="features",
                remedy="Give the same features under the same names as in the fit",
            )
        for name, source in fitted.items():
            if given[name].fingerprint() != source["fingerprint"]:
                raise ArtifactError(
                    f"the features are not those of the fit ({source.get('source') or source.get('label')})",
                    where=f"features {name}" if name else None,
                    remedy="Extract them with the same model, layer, read-out and preprocessing",
                )
        return {name: given[name] for name in fitted}

    def _check_fitted(self) -> None:
        if not hasattr(self, "recording_"):
            raise InputError("the encoder is not fitted", remedy="Call fit, or load one with from_pretrained")


def load_encoder(path: str | PathLike[str]) -> Encoder:
    """A fitted encoder of any kind, from the folder that ``save_pretrained`` wrote.

    Raises
    ------
    ArtifactError : no encoder there.
    """
    kind = read_config(path).get("kind")
    kinds = {encoder.__name__: encoder for encoder in _kinds(Encoder)}
    if kind not in kinds:
        raise ArtifactError(
            f"holds a {kind}, not an encoder", where=path, remedy="Give what `penfield encode fit` wrote"
        )
    return kinds[kind].from_pretrained(str(path))


def _kinds(base: type[Encoder]) -> Iterator[type[Encoder]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)
