"""Verbs of encoding models: encode fit, ensemble, predict and evaluate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from .base import Task, Verb
from .references import Reference

Names = tuple[str, ...]


class EncodeFit(Verb):
    """Fit an encoding model on a part of a recording; what is held out stays unseen for encode evaluate.

    Options of the network that are left out take its defaults.
    """

    name: ClassVar[str] = "encode fit"
    writes: ClassVar[str] = "model"

    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores."""
    recording: Reference
    """Recording or subject folder."""
    layer: Names = ()
    """Layers of the stores; all by default."""
    model: Literal["ridge", "banded_ridge", "kernel_ridge", "transformer"] = "ridge"
    """Kind of model; banded_ridge weighs layers against each other."""
    routing: Literal["cls", "pooled", "flattened", "gaussian", "spatial_roi", "spatial", "roi", "vertex"] | None = None
    """Way from tokens to responses."""
    split: str = "stimulus:0.2"
    """What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,... or none."""
    roi: Names = ()
    """Regions; all by default."""
    standardise: Literal["session"] | None = None
    """Give each neuroid mean 0 and variance 1 in every session, learnt on the training part."""
    delays: tuple[int, ...] = ()
    """Delays in samples for time series."""
    keep_constant: bool = False
    """Predict the mean of neuroids that do not vary; else they are refused."""
    alphas: tuple[float, ...] = ()
    """Penalties to choose from."""
    folds: int | None = Field(default=None, ge=2)
    """Cross-validation folds that choose the penalty."""
    nuisance: Names = ()
    """Presentation coordinates to fit without penalty (motion, drift)."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads."""
    hidden: int | None = Field(default=None, ge=1)
    """Size of queries, keys and values."""
    layers: int | None = Field(default=None, ge=1)
    """Decoder layers."""
    self_attention: int | None = Field(default=None, ge=0)
    """Layers of self-attention over tokens."""
    feedforward: int | None = Field(default=None, ge=0)
    """Feed-forward size; 0 for none."""
    dropout: float | None = Field(default=None, ge=0, le=0.99)
    """Dropout."""
    attention_dropout: float | None = Field(default=None, ge=0, le=0.99)
    """Dropout of attention weights."""
    position: Literal["fourier", "sine"] | None = None
    """Code of places."""
    grid: tuple[int, int] | None = None
    """Rows and columns that tokens are averaged to."""
    fold_keys: bool = False
    """Fold the key projection into the queries."""
    haemodynamics: Literal["fir", "query"] | None = None
    """With delays: a weight each (fir), or attention over them."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the stimuli."""
    batch_size: int | None = Field(default=None, ge=1)
    """Stimuli a step."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of AdamW."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Of AdamW."""
    schedule: Literal["constant", "step", "cosine"] | None = None
    """How the learning rate falls."""
    step_epochs: int | None = Field(default=None, ge=1)
    """Epochs between halvings of the schedule step."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without gain."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Number format of training."""
    validation: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the training stimuli that choose the epoch."""
    no_refit: bool = False
    """Keep the read-out that training ends with."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.encoding.make_encoder` and `fit_encoder`; a transformer that was stopped goes on."""
        from encoders.routings import check_readout
        from recordings.storage import remove
        from studies.encoding import fit_encoder
        from studies.sources import open_recording, open_stores, stimuli_shown
        from studies.standardise import standardise_sessions
        from studies.study import training_part

        encoder = self._encoder(task.device)
        spaces = open_stores(task.paths(self.features), self.layer)
        if self.routing:
            check_readout(self.routing, spaces)
        whole = open_recording(task.path(self.recording), self.roi)
        train = training_part(whole, self.split, self.seed, stimuli_shown(task.path(self.recording)))
        checkpoints = task.out / "checkpoints" if self.model == "transformer" else None
        with tempfile.TemporaryDirectory() as scratch:
            if self.standardise:
                train = standardise_sessions(train, whole, Path(scratch) / "standardised.zarr")
            fit_encoder(
                encoder,
                spaces,
                train,
                nuisance=self.nuisance,
                keep_constant=self.keep_constant,
                scratch=Path(scratch),
                checkpoints=checkpoints,
                **task.watched,
            )
        out = task.out / self.writes
        encoder.save_pretrained(out, overwrite=True)
        if checkpoints is not None:
            remove(checkpoints)
        return {"out": out, "model": self.model, **_fitted(encoder)}

    def _encoder(self, device: str) -> Any:
        from studies.encoding import make_encoder

        same: tuple[str, ...]
        same = ("hidden", "feedforward", "dropout", "attention_dropout", "position", "grid", "haemodynamics", "epochs")
        same += ("batch_size", "learning_rate", "weight_decay", "schedule", "step_epochs", "clip", "patience")
        same += ("precision", "validation")
        return make_encoder(
            self.model,
            self.routing,
            alphas=self.alphas,
            folds=self.folds,
            delays=self.delays,
            device=device,
            seed=self.seed,
            n_heads=self.heads,
            n_layers=self.layers,
            n_self_attention=self.self_attention,
            fold_keys=self.fold_keys or None,
            refit=False if self.no_refit else None,
            **{name: getattr(self, name) for name in same},
        )


class EncodeEnsemble(Verb):
    """Weigh the predictions of several fitted models, for each neuroid by how well each does there."""

    name: ClassVar[str] = "encode ensemble"
    writes: ClassVar[str] = "ensemble"

    model: dict[str, Reference] = Field(min_length=1)
    """Fitted models by the names that they get as members."""
    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores."""
    recording: Reference
    """Recording or subject folder."""
    layer: Names = ()
    """Layers of the stores; all by default."""
    temperature: float = Field(default=40.0, ge=0)
    """How much better members count more; 0 for alike."""
    split: str = "stimulus:0.5"
    """What to hold out of the stimuli that no member has seen, see encode fit."""
    roi: Names = ()
    """Regions; all by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `encoders.Ensemble`."""
        from encoders import Ensemble, load_encoder
        from studies.encoding import select_features
        from studies.evaluation import split_by_fit
        from studies.sources import open_recording, open_stores, stimuli_shown
        from studies.standardise import standardise_as_fitted
        from studies.study import training_part

        members = {name: load_encoder(task.path(reference)) for name, reference in self.model.items()}
        spaces = open_stores(task.paths(self.features), self.layer)
        fitted_on = {i for encoder in members.values() for i in encoder.stimulus_ids_}
        given = open_recording(task.path(self.recording), self.roi)
        whole = standardise_as_fitted(next(iter(members.values())).recording_, given, fitted_on)
        _, unseen = split_by_fit(list(members.values()), whole)
        part = training_part(unseen, self.split, self.seed, stimuli_shown(task.path(self.recording)))
        fitted = Ensemble(members, self.temperature)
        fitted.fit(select_features(fitted, spaces), part, **task.watched)
        out = task.out / self.writes
        fitted.save_pretrained(out, overwrite=True)
        weights = zip(fitted.members, fitted.weights_.mean(1), strict=True)
        named = {name: float(weight) for name, weight in weights}
        return {"out": out, **_fitted(fitted), "weights": named, "stimuli_for_weights": len(set(part.stimulus_ids))}


class EncodePredict(Verb):
    """Predict the responses to every stimulus of a feature store, as a recording."""

    name: ClassVar[str] = "encode predict"
    writes: ClassVar[str] = "predicted.zarr"

    model: Reference
    """Fitted model."""
    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores."""
    layer: Names = ()
    """Layers of the stores; all by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.encoding.predict_recording`."""
        from encoders import load_encoder
        from studies.encoding import predict_recording
        from studies.sources import open_stores

        encoder = load_encoder(task.path(self.model))
        spaces = open_stores(task.paths(self.features), self.layer)
        out = task.out / self.writes
        predicted = predict_recording(encoder, spaces, out, overwrite=True, **task.watched)
        return {"out": out, "stimuli": len(predicted), "neuroids": predicted.n_neuroids}


class EncodeEvaluate(Verb):
    """Score a fitted model on the stimuli that it has not seen: by region, against the noise ceiling, with a null."""

    name: ClassVar[str] = "encode evaluate"
    writes: ClassVar[str] = "values.npz"

    model: Reference
    """Fitted model."""
    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores; they may hold more layers than the model reads."""
    recording: Reference
    """Recording or subject folder."""
    layer: Names = ()
    """Layers of the stores; all by default."""
    roi: Names = ()
    """Regions; all by default."""
    metric: Literal["r", "r2"] = "r"
    """Pearson r or R2, over the noise ceiling where there is one."""
    nuisance: Names = ()
    """Presentation coordinates that were fitted without penalty."""
    shuffles: int = Field(default=100, ge=0, le=100_000)
    """Shuffles of the stimuli for the null; 0 leaves it out."""
    values: bool = False
    """Write the score of each neuroid, over its noise ceiling."""
    baselines: bool = False
    """Also fit pixels, Gabor energies and the untrained model."""
    stimuli: Reference | None = None
    """What was shown, for the baselines; beside the recording by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.evaluation.score_encoder` and `score_against_baselines`."""
        from encoders import load_encoder
        from studies.evaluation import ceiling_of, score_against_baselines, score_encoder, split_by_fit
        from studies.sources import extract_baselines, open_recording, open_stimuli, open_stores
        from studies.standardise import standardise_as_fitted

        encoder = load_encoder(task.path(self.model))
        spaces = open_stores(task.paths(self.features), self.layer)
        given = open_recording(task.path(self.recording), self.roi)
        whole = standardise_as_fitted(encoder.recording_, given, encoder.stimulus_ids_)
        train, test = split_by_fit(encoder, whole)
        ceiling = ceiling_of(encoder, whole, test, self.nuisance)
        how: dict[str, Any] = {
            "ceiling": ceiling,
            "metric": self.metric,
            "nuisance": self.nuisance,
            "seed": self.seed,
        }
        values = task.out / self.writes if self.values else None
        answer = score_encoder(encoder, spaces, test, shuffles=self.shuffles, values=values, **how)
        if self.baselines:
            source = next(iter(spaces.values())).attrs
            same = {"layer": source.get("layer"), "readout": source.get("readout", "pooled"), "device": task.device}
            with tempfile.TemporaryDirectory() as folder:
                shown = open_stimuli(task.path(self.stimuli or self.recording))
                beside = extract_baselines(source.get("uri"), shown, Path(folder), **same, **task.watched)
                answer["baselines"] = score_against_baselines(encoder, beside, train, test, **how, **task.watched)
        counts = {"n_train": len(set(train.stimulus_ids)), "n_test": len(set(test.stimulus_ids))}
        return {"model": self.model, **counts, **answer}


def _fitted(encoder: Any) -> dict[str, Any]:
    return {
        "kind": type(encoder).__name__,
        "stimuli": len(encoder.stimulus_ids_),
        "neuroids": len(encoder.recording_["neuroid_ids"]),
    }
