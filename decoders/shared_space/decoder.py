"""`SharedSpaceDecoder`: one network for many subjects, which a new subject joins with little data."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import nn

from encoders import Features
from encoders.features.extractor import torch_device
from recordings import Artifact, Recording
from recordings.artifacts import check_neuroids
from recordings.errors import (
    ArtifactError,
    DuplicateIdError,
    InputError,
    LeakageError,
    UnknownNameError,
)
from recordings.events import OnEvent, Stop, report

from ..identification import Identification, identify
from ..retrieval import Retrieval, retrieve
from .fitting import Data, Fitted, build_network, decode, learn
from .inputs import SubjectInput
from .options import check_adaptation, check_options
from .targets import TargetSpace, fit_target_space

Head = Literal["retrieval", "embedding"]
_ROWS = 512


class SharedSpaceDecoder(Artifact):
    """Decoding of several subjects through a space that they share, after MindEye2 (Scotti et al. 2024, ICML).

    Each subject has a linear input layer of its own. The rest is common: residual perceptron, regression of an
    embedding, a projector contrasted with it (BiMixCo in the first third of training, then SoftCLIP; Scotti et al.
    2023, NeurIPS), and, if asked for, regression of image latents.

    An input layer is "trained" by gradient, as in MindEye2, with weight decay for its ridge; or it is "aligned": the
    orthonormal map that brings responses closest to the embedding's whitened principal components, found in closed
    form. Few responses determine that map far better. So that the perceptron learns from what such a map gives of
    stimuli it has not seen, training goes by `views`: maps fitted on a part of a subject's stimuli each, and shown the
    rest.

    Parameters
    ----------
    inputs : "aligned" or "trained".
    shared : dimensions of the shared space. width, n_blocks : of the residual perceptron.
    views : maps a subject that the perceptron learns from, with aligned inputs; each is fitted on 1 / views of the
        stimuli, so that 8 prepare for a new subject with an eighth of the others' data.
    dropout, input_dropout : within blocks; of neuroids.
    epochs, batch_size : an epoch takes as many steps as batches hold all subjects' stimuli once.
    learning_rate, weight_decay : of AdamW; falls along a cosine.
    temperature : of the contrast with BiMixCo, and at the end of SoftCLIP, where it goes along a cosine.
    loss_weights : of contrast, embedding (mean squared error) and latents (mean absolute error), standardised.
    validation : fraction of the stimuli that is left out of training, to fit the confidence; 0 leaves it out.
    seed : of weights, order, mixtures, dropout and views. device : "auto", "cpu", "cuda" or "mps".

    Attributes
    ----------
    module_ : `SharedSpaceNetwork`. subjects_ : `SubjectInput` by name, in the order of its input layers.
    stimulus_ids_ : every stimulus that any subject of the fit saw, also of those that are left out of `module_`.
    space_ : `TargetSpace`, moments and principal components of what is decoded.
    history_ : mean loss of each epoch, and of its parts.
    """

    stimulus_ids_: list[str]

    def __init__(
        self,
        inputs: Literal["aligned", "trained"] = "aligned",
        *,
        shared: int = 32,
        width: int = 128,
        n_blocks: int = 2,
        views: int = 8,
        dropout: float = 0.1,
        input_dropout: float = 0.0,
        epochs: int = 20,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        temperature: tuple[float, float] = (0.1, 0.1),
        loss_weights: tuple[float, float, float] = (0.3, 1.0, 1.0),
        validation: float = 0.1,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.inputs = inputs
        self.shared = shared
        self.width = width
        self.n_blocks = n_blocks
        self.views = views
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.temperature = (float(temperature[0]), float(temperature[1]))
        self.loss_weights = (float(loss_weights[0]), float(loss_weights[1]), float(loss_weights[2]))
        self.validation = validation
        self.seed = seed
        self.device = device

    # Fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        recordings: Mapping[str, Recording],
        embedding: Features,
        latents: Features | None = None,
        *,
        checkpoints: Path | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Train on several subjects, or one; stimuli are matched by id, repetitions are averaged.

        Parameters
        ----------
        recordings : (presentation, neuroid) by subject; neuroids, their number and the stimuli may differ.
        embedding : (stimulus, feature) or (stimulus, token, channel), flattened.
        latents : of the image, flattened; None leaves the low-level branch out.
        checkpoints : folder in which a run that was stopped goes on, to the same weights.
        on_event, stop : at every step, with the loss and its parts.

        Raises
        ------
        InputError : no subject, or an option that cannot be. RepetitionError : too few stimuli.
        MismatchedIdsError : a stimulus without features. NotFiniteError : NaN or infinity, in responses, features or
        loss. Cancelled : `stop` answered True; with `checkpoints`, fit again to go on.
        """
        self.__dict__.pop("stimulus_ids_", None)
        check_options(self._parameters())
        if not recordings:
            raise InputError("no subject to fit", where="recordings", remedy="Give a recording by subject")
        data = Data.of(recordings, embedding, latents)
        self.space_ = fit_target_space(data.embedding, data.latents, self.shared, on_event, stop)
        self.features_ = {
            kind: _described(features)
            for kind, features in (("embedding", embedding), ("latents", latents))
            if features is not None
        }
        how: dict[str, Any] = {"checkpoints": checkpoints, "on_event": on_event, "stop": stop}
        self._keep(data, learn(data, self.space_, self._parameters(), **how))
        self.stimulus_ids_ = sorted(data.stimulus_ids)
        return self

    def adapt(
        self,
        subject: str,
        recording: Recording,
        embedding: Features,
        latents: Features | None = None,
        *,
        train: Literal["all", "input"] = "input",
        epochs: int | None = None,
        learning_rate: float | None = None,
        checkpoints: Path | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """A decoder that reads one more subject; this one stays as it is.

        Parameters
        ----------
        embedding, latents : of the new subject's stimuli, in the spaces of the fit.
        train : "input", the new subject's layer alone, so that all others are read as before; or "all" weights, from
            those of the fit on, which the result then has for the new subject alone.
        epochs, learning_rate : by default those of the fit; without meaning where nothing is trained by gradient, an
            aligned input alone.

        Raises
        ------
        DuplicateIdError : the name is taken. ArtifactError : another embedding or other latents than in the fit.
        InputError, RepetitionError, MismatchedIdsError, NotFiniteError, Cancelled : see `fit`.
        """
        self._check_fitted()
        if subject in self.subjects_:
            raise DuplicateIdError(f"subject {subject!r} is there already", remedy="Give another name")
        check_adaptation(self._parameters(), train, {"epochs": epochs, "learning_rate": learning_rate})
        self._check_features(embedding, "embedding")
        if (latents is not None) != ("latents" in self.features_):
            raise InputError(
                "latents are given to a decoder without, or the reverse", remedy="Give what the fit was given"
            )
        if latents is not None:
            self._check_features(latents, "latents")
        adapted = type(self)(**self._parameters())
        adapted.space_, adapted.features_ = self.space_, self.features_
        data = Data.of({subject: recording}, embedding, latents)
        fitted = learn(
            data,
            self.space_,
            self._parameters(),
            epochs=epochs,
            learning_rate=learning_rate,
            begin=(self.module_.body(), self.input_scale_),
            train_body=train == "all",
            checkpoints=checkpoints,
            on_event=on_event,
            stop=stop,
        )
        adapted._keep(data, fitted)
        if train == "input":
            adapted.subjects_ = {**self.subjects_, **adapted.subjects_}
            adapted.module_.inputs = nn.ModuleList([*copy.deepcopy(self.module_.inputs), *adapted.module_.inputs])
        adapted.stimulus_ids_ = sorted({*self.stimulus_ids_, *data.stimulus_ids})
        return adapted

    def _keep(self, data: Data, fitted: Fitted) -> None:
        self.module_, self.history_, self.input_scale_ = fitted.network, fitted.history, fitted.input_scale
        self.subjects_ = dict(data.subjects)

    # Use ---------------------------------------------------------------------------------------------------------

    def predict(
        self, subject: str, recording: Recording, *, on_event: OnEvent | None = None, stop: Stop | None = None
    ) -> dict[str, np.ndarray]:
        """Decoded "embedding", "retrieval" and, with latents, "z", each (presentation, feature) float32.

        All are flattened, and in the units of the features; "retrieval" is the vector that is contrasted, which
        identifies better and is no estimate of the embedding's size. Average repetitions first to decode from them all.

        Raises
        ------
        UnknownNameError : a subject that is not there. ArtifactError : other neuroids than in its fit.
        NotFiniteError : NaN or infinity. ShapeError : time bins.
        """
        self._check_fitted()
        if subject not in self.subjects_:
            raise UnknownNameError(f"no subject {subject!r}", remedy=f"There are: {', '.join(self.subjects_)}")
        recording.check_without_time()
        layer, how = list(self.subjects_).index(subject), self.subjects_[subject]
        check_neuroids(how.recording, recording)
        recording.check_finite()
        module, blocks = self.module_.to(torch_device(self.device)), []
        for start in range(0, max(len(recording), 1), _ROWS):
            report(on_event, stop, "decode", start, len(recording))
            values = (recording.read(slice(start, start + _ROWS)) - how.mean) / how.scale
            blocks.append(decode(module, layer, values, self.space_))
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def identify(
        self, subject: str, recording: Recording, features: Features, *, head: Head = "retrieval", **options: Any
    ) -> Identification:
        """Identify the stimulus of each presentation among those of `features`; see `identify` for the options.

        Raises
        ------
        LeakageError : a presentation shows a stimulus that any subject of the fit saw.
        ArtifactError : another embedding than in the fit. See also `predict`.
        """
        self._check_fitted()
        self._check_features(features, "embedding")
        seen = set(self.stimulus_ids_).intersection(map(str, recording.stimulus_ids))
        if seen:
            raise LeakageError(
                f"stimulus {min(seen)!r} was in the fit of a subject ({len(seen)} in all)",
                where="recording",
                remedy="Identify stimuli that no subject of the fit has seen",
            )
        return identify(
            self._decoded(subject, recording, head),
            [str(i) for i in recording.stimulus_ids],
            features,
            mean=self.space_.mean,
            scale=self.space_.scale,
            temperature=self.subjects_[subject].temperature if head == "retrieval" else None,
            **options,
        )

    def retrieve(self, subject: str, recording: Recording, gallery: Features, k: int = 5) -> Retrieval:
        """The k stimuli of a gallery that each presentation resembles most; the gallery may hold training stimuli.

        Raises
        ------
        ArtifactError : another embedding than in the fit, or a fit without confidence. See also `predict`.
        """
        self._check_fitted()
        self._check_features(gallery, "embedding")
        decoded = self._decoded(subject, recording, "retrieval")
        temperature = self.subjects_[subject].temperature
        if temperature is None:
            raise ArtifactError("fitted without confidence", remedy="Fit with a validation part, such as .1")
        return retrieve(decoded, gallery, k, temperature=temperature, mean=self.space_.mean, scale=self.space_.scale)

    def _decoded(self, subject: str, recording: Recording, head: str) -> np.ndarray:
        if head not in ("retrieval", "embedding"):
            raise UnknownNameError(f"no head {head!r} to identify by", remedy="Give retrieval or embedding")
        return self.predict(subject, recording)[head]

    # Checks ------------------------------------------------------------------------------------------------------

    def _check_features(self, features: Features, kind: str) -> None:
        fitted = self.features_.get(kind)
        if fitted is None or features.fingerprint() != fitted["fingerprint"]:
            raise ArtifactError(
                f"{kind} of another space ({features!r}) than in the fit ({fitted})",
                remedy="Give features of the same model, weights, layer and read-out",
            )

    def _check_fitted(self) -> None:
        if not hasattr(self, "stimulus_ids_"):
            raise InputError("the decoder is not fitted", remedy="Call fit, or from_pretrained")

    # Artifact ----------------------------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        subjects = {n: {**s.recording, "temperature": s.temperature} for n, s in self.subjects_.items()}
        return {
            "parameters": self._parameters(),
            "subjects": subjects,
            "features": self.features_,
            "input_scale": self.input_scale_,
            "history": self.history_,
            "stimulus_ids": self.stimulus_ids_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {f"module.{name}": value.cpu().numpy() for name, value in self.module_.state_dict().items()}
        for number, subject in enumerate(self.subjects_.values()):
            tensors |= {f"subject.{number}.mean": subject.mean, f"subject.{number}.scale": subject.scale}
        return tensors | {f"space.{name}": value for name, value in self.space_.tensors().items()}

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        decoder = cls(**config["parameters"])
        space = {n.removeprefix("space."): v for n, v in tensors.items() if n.startswith("space.")}
        decoder.space_ = TargetSpace.from_tensors(space)
        decoder.subjects_ = {}
        for number, (name, subject) in enumerate(config["subjects"].items()):
            temperature = subject.pop("temperature")
            moments = tensors[f"subject.{number}.mean"], tensors[f"subject.{number}.scale"]
            decoder.subjects_[name] = SubjectInput(*moments, subject, temperature)
        decoder.module_ = build_network(
            decoder._parameters(), decoder.space_, [len(s.mean) for s in decoder.subjects_.values()]
        )
        weights = {n.removeprefix("module."): torch.as_tensor(v) for n, v in tensors.items() if n[:7] == "module."}
        decoder.module_.load_state_dict(weights)
        decoder.module_.eval()
        decoder.features_, decoder.input_scale_ = config["features"], config["input_scale"]
        decoder.history_, decoder.stimulus_ids_ = config["history"], config["stimulus_ids"]
        return decoder

    def _card(self) -> str:
        source = self.features_["embedding"]
        return (
            f"Decodes {len(self.space_.mean)} features of {source.get('uri') or 'arrays'}, layer "
            f"{source.get('layer') or '-'}, and {len(self.space_.latent_mean)} image latents, from responses of "
            f"{', '.join(self.subjects_)}. Fitted on {len(self.stimulus_ids_)} stimuli, inputs {self.inputs}."
        )


def _described(features: Features) -> dict[str, str]:
    named = {name: str(features.attrs.get(name) or "") for name in ("uri", "layer", "readout")}
    return {**named, "shape": str(features.shape[1:]), "fingerprint": features.fingerprint()}
