"""`TransformerEncoder`: queries of regions or neuroids attend to a frozen model's tokens."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from recordings import Recording
from recordings.artifacts import recording_fields, restored_fields
from recordings.errors import InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from ..bands import named
from ..encoder import Encoder
from ..features import Features
from ..features.extractor import torch_device
from ..responses import run_labels
from .maps import AttentionMaps
from .options import ATTENDING, check_options
from .predictor import BY_NEUROID, Predictor, Shape
from .queries import Regions
from .refit import refit_readout
from .sources import Source, delayed_rows, source_of
from .stream import TokenStream
from .targets import StandardisedResponses, moments, split_validation
from .training import History, train

# Neuroids whose queries are served together where each has its own.
NEUROIDS = 1024


class TransformerEncoder(Encoder):
    """Learned queries attend to patch tokens; each neuroid reads what its query has gathered (Adeli et al. 2025).

    Other routings of tokens to neuroids take the place of attention, so that they can be compared: one fixed map a
    region or neuroid, or a Gaussian receptive field.

    Parameters
    ----------
    routing : "roi", one query a region; "vertex", one a neuroid; "spatial_roi" and "spatial", one softmax map a region
        or neuroid; "gaussian", a receptive field a neuroid.
    hidden : d of queries, keys and values; by default the tokens' channels.
    n_heads, n_layers, n_self_attention, feedforward, dropout, attention_dropout, fold_keys, position : see
        `Attention`.
    grid : (rows, columns) to which tokens are averaged first; fewer tokens are faster and blur receptive fields.
    delays, haemodynamics : samples by which stimuli are delayed, for time series; "fir" or "query", see `Predictor`.
    epochs, batch_size, learning_rate, weight_decay, schedule, step_epochs, clip, patience, precision : see `train`.
    validation : fraction of stimuli (of runs, with delays) that choose the epoch, where `fit` is given none.
    refit : after training, fit the read-out of each region anew by ridge with a penalty a neuroid, chosen on the
        validation part; for routings by region.
    seed : of weights, order of pictures and dropout. device : "auto", "cpu", "cuda" or "mps".

    Attributes
    ----------
    module_ : `Predictor`. regions_ : `Regions`. history_ : loss and validation r by epoch.
    target_mean_, target_scale_ : (neuroid,) float32 of the training part.
    """

    def __init__(
        self,
        routing: str = "roi",
        *,
        hidden: int | None = None,
        n_heads: int = 16,
        n_layers: int = 1,
        n_self_attention: int = 0,
        feedforward: int = 1024,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        fold_keys: bool = False,
        position: Literal["fourier", "sine"] = "fourier",
        grid: tuple[int, int] | None = None,
        delays: Sequence[int] | None = None,
        haemodynamics: Literal["fir", "query"] = "fir",
        epochs: int = 15,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-4,
        schedule: Literal["constant", "step", "cosine"] = "cosine",
        step_epochs: int = 4,
        clip: float = 0.1,
        patience: int | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        validation: float = 0.1,
        refit: bool = True,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.routing = routing
        self.hidden = hidden
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.n_self_attention = n_self_attention
        self.feedforward = feedforward
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.fold_keys = fold_keys
        self.position = position
        self.grid = None if grid is None else (int(grid[0]), int(grid[1]))
        self.delays = None if delays is None else [int(delay) for delay in delays]
        self.haemodynamics = haemodynamics
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.step_epochs = step_epochs
        self.clip = clip
        self.patience = patience
        self.precision = precision
        self.validation = validation
        self.refit = refit
        self.seed = seed
        self.device = device

    # Fit ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        features: Features | Mapping[str, Features],
        recording: Recording,
        *,
        validation: Recording | None = None,
        checkpoints: Path | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Train on cached tokens, matched to the presentations of a recording by stimulus id.

        Parameters
        ----------
        features : tokens (stimulus, token, channel) with a ``grid``; a mapping gives several layers or models by name,
            brought to the first one's grid and laid side by side.
        recording : responses, (presentation, neuroid). Averaging repetitions beforehand is faster.
        validation : responses to other stimuli, which choose the epoch; by default a part of `recording`.
        checkpoints : folder in which a run that was stopped goes on, to the same weights.
        on_event, stop : progress, with loss and validation r, and cancellation, at every step.

        Raises
        ------
        ShapeError, InputError : features that are no tokens, or tokens without a grid.
        MismatchedIdsError : a stimulus without features.
        NotFiniteError : names the first presentation and neuroid with NaN or infinity.
        LeakageError : a stimulus of `validation` is in `recording`.
        ArtifactError : the checkpoint is of other data or other settings.
        Cancelled : `stop` answered True; with `checkpoints`, fit again to go on.
        """
        # Until the end this encoder counts as not fitted, so that a fit that is stopped leaves nothing half fitted.
        self.__dict__.pop("recording_", None)
        check_options(self._parameters(), inspect.signature(type(self)).parameters)
        spaces = named(features)
        parts = split_validation(recording, validation, self.validation, bool(self.delays), self.seed)
        training, chosen = parts
        for part in parts:
            part.check_without_time()
            part.check_finite()
        self.sources_ = [source_of(name, space) for name, space in spaces.items()]
        self.regions_ = Regions.of(recording)
        self.target_mean_, self.target_scale_ = moments(training)
        streams = [
            self._stream(list(spaces.values()), part.stimulus_ids, run_labels(part), self.delays) for part in parts
        ]
        torch.manual_seed(self.seed)
        self.module_ = self._build()
        self.module_.standardise_with(streams[0].moments())
        targets = [StandardisedResponses(part, self.target_mean_, self.target_scale_) for part in parts]
        self.history_: History = train(
            self.module_,
            streams[0],
            targets[0],
            (streams[1], targets[1]),
            neuroids=NEUROIDS if self.routing in BY_NEUROID else None,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            step_epochs=self.step_epochs,
            clip=self.clip,
            patience=self.patience,
            precision=self.precision,
            seed=self.seed,
            device=torch_device(self.device),
            checkpoints=checkpoints,
            fingerprint={} if checkpoints is None else self._fingerprint(training, chosen),
            on_event=on_event,
            stop=stop,
        )
        self.module_.eval()
        if self.refit and self.routing not in BY_NEUROID:
            refit_readout(self.module_, self.regions_, streams, targets, on_event=on_event, stop=stop)
        ids = np.concatenate([part.stimulus_ids.astype(str) for part in parts])
        self.recording_, self.stimulus_ids_ = recording_fields(recording), sorted(set(ids.tolist()))
        return self

    def _build(self) -> Predictor:
        shapes = [Shape(source.channels, source.grid) for source in self.sources_]
        attention: dict[str, Any] = {}
        if self.routing in ATTENDING:
            channels = sum(shape.channels for shape in shapes)
            if channels < self.n_heads and not self.hidden:
                raise InputError(
                    f"{channels} channels do not split among {self.n_heads} heads",
                    where="n_heads",
                    remedy="Give fewer heads, or `hidden`",
                )
            attention = {
                "hidden": self.hidden or channels - channels % self.n_heads,
                "n_heads": self.n_heads,
                "n_layers": self.n_layers,
                "n_self_attention": self.n_self_attention,
                "feedforward": self.feedforward,
                "dropout": self.dropout,
                "attention_dropout": self.attention_dropout,
                "fold_keys": self.fold_keys,
                "position": self.position,
            }
        return Predictor(
            shapes,
            self.regions_,
            self.routing,
            grid=self.grid,
            n_delays=len(self.delays or ()),
            haemodynamics=self.haemodynamics,
            **attention,
        )

    def _stream(
        self,
        spaces: Sequence[Features],
        stimulus_ids: Sequence[str] | np.ndarray,
        runs: np.ndarray,
        delays: Sequence[int] | None,
    ) -> TokenStream:
        rows = [space.rows([str(i) for i in stimulus_ids]) for space in spaces]
        if delays:
            rows = [delayed_rows(r, delays, runs) for r in rows]
        return TokenStream(spaces, rows, batch_size=self.batch_size, seed=self.seed)

    def _fingerprint(self, training: Recording, chosen: Recording) -> dict[str, str]:
        """What a checkpoint must agree with, by what it is."""
        ids = [*training.stimulus_ids.astype(str), "|", *chosen.stimulus_ids.astype(str)]
        return {
            "settings": json.dumps({k: v for k, v in self._parameters().items() if k != "device"}),
            "neuroids": training.fingerprint(),
            "responses": _digest(*(block.tobytes() for part in (training, chosen) for block in part.blocks())),
            "stimuli": _digest("\n".join(ids).encode()),
            "features": _digest(" ".join(source.fingerprint for source in self.sources_).encode()),
        }

    # Predict -----------------------------------------------------------------------------------------------------

    def predict(
        self,
        features: Features | Mapping[str, Features],
        stimulus_ids: Sequence[str] | None = None,
        *,
        runs: ArrayLike | None = None,
    ) -> np.ndarray:
        """Predicted responses, (n, neuroid) float32.

        Parameters
        ----------
        features : of the same models and layers as in the fit.
        stimulus_ids : stimuli in the order of the rows; by default all that the (first) features have.
        runs : (n,), needed with delays where `stimulus_ids` covers several runs: they never reach across runs.
        """
        module, device = self._ready()
        out: list[np.ndarray] = []
        step = NEUROIDS if module.by_neuroid else len(self.target_mean_)
        with torch.inference_mode():
            for tokens, shown in self._batches(features, stimulus_ids, runs, device, self.delays):
                memory = module.memory(tokens, shown)
                parts = [
                    module.respond(memory, slice(start, start + step))
                    for start in range(0, len(self.target_mean_), step)
                ]
                out.append(torch.cat(parts, 1).cpu().numpy() * self.target_scale_ + self.target_mean_)
        return np.concatenate(out) if out else np.empty((0, len(self.target_mean_)), np.float32)

    def attention(
        self,
        features: Features | Mapping[str, Features],
        stimulus_ids: Sequence[str] | None = None,
        *,
        queries: Sequence[str] | None = None,
        per_head: bool = False,
        runs: ArrayLike | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> AttentionMaps:
        """How much each query attends to each place of each picture.

        Parameters
        ----------
        queries : names of regions, or ids of neuroids where each has its own query; all by default, which for many
            neuroids and pictures is much: 4 bytes a picture, neuroid and place.
        per_head : keep heads apart instead of averaging them.

        Raises
        ------
        UnknownNameError : no such query.
        """
        module, device = self._ready()
        names = self.recording_["neuroid_ids"] if module.by_neuroid else list(self.regions_.names)
        wanted = torch.as_tensor(_positions(names, queries), device=device)
        first = next(iter(self._spaces(features).values()))
        ids = [str(i) for i in (first.stimulus_ids if stimulus_ids is None else stimulus_ids)]
        if not ids:
            raise InputError("no stimuli to attend to", where="stimulus_ids", remedy="Give at least one")
        # Through a finite impulse response queries see one stimulus at a time, whatever the delay.
        delays = None if module.fir else self.delays
        weights: list[np.ndarray] = []
        with torch.inference_mode():
            for tokens, shown in self._batches(features, ids, runs, device, delays):
                report(on_event, stop, "attend", len(weights), -(-len(ids) // self.batch_size))
                memory = module.memory(tokens, shown)
                found = [module.weights(memory, wanted[part]) for part in module.blocks(len(wanted), memory)]
                weights.append(torch.cat([w if per_head else w.mean(2) for w in found], 1).cpu().numpy())
        return AttentionMaps(np.concatenate(weights), ids, tuple(names[int(q)] for q in wanted), per_head)

    def _ready(self) -> tuple[Predictor, torch.device]:
        self._check_fitted()
        device = torch_device(self.device)
        return self.module_.to(device).eval(), device

    def _batches(
        self,
        features: Features | Mapping[str, Features],
        stimulus_ids: Sequence[str] | None,
        runs: ArrayLike | None,
        device: torch.device,
        delays: Sequence[int] | None,
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
        """Tokens of consecutive stimuli, and which delays are shown."""
        spaces = list(self._spaces(features).values())
        ids = spaces[0].stimulus_ids if stimulus_ids is None else stimulus_ids
        if not len(ids):
            return
        labels = np.zeros(len(ids), int) if runs is None else np.asarray(runs)
        for batch in self._stream(spaces, ids, labels, delays).in_order():
            shown = None if batch.shown is None else batch.shown.to(device)
            yield [tokens.to(device) for tokens in batch.tokens], shown

    # Artifact ----------------------------------------------------------------------------------------------------

    def _sources(self) -> list[dict[str, Any]]:
        return [source.to_config() for source in self.sources_]

    def _parameters(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def _config(self) -> dict[str, Any]:
        self._check_fitted()
        return {
            "parameters": self._parameters(),
            "sources": self._sources(),
            "regions": list(self.regions_.names),
            "history": self.history_.to_config(),
            "stimulus_ids": self.stimulus_ids_,
            **self.recording_,
        }

    def _tensors(self) -> dict[str, np.ndarray]:
        weights = {f"module.{name}": value.cpu().numpy() for name, value in self.module_.state_dict().items()}
        return weights | {
            "region_index": self.regions_.index.astype(np.int32),
            "target_mean": self.target_mean_,
            "target_scale": self.target_scale_,
        }

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        encoder = cls(**config["parameters"])
        encoder.sources_ = [Source.from_config(source) for source in config["sources"]]
        encoder.regions_ = Regions(tuple(config["regions"]), tensors["region_index"].astype(np.int64))
        encoder.target_mean_, encoder.target_scale_ = tensors["target_mean"], tensors["target_scale"]
        encoder.module_ = encoder._build().eval()
        state = {
            name.removeprefix("module."): torch.as_tensor(v) for name, v in tensors.items() if name[:7] == "module."
        }
        encoder.module_.load_state_dict(state)
        encoder.history_ = History.from_config(config["history"])
        encoder.stimulus_ids_ = config["stimulus_ids"]
        encoder.recording_ = restored_fields(config)
        return encoder

    def _card(self) -> str:
        sources = " + ".join(source.label or source.name or "arrays" for source in self.sources_)
        best = self.history_.best
        return (
            f"Predicts {len(self.target_mean_)} neuroids of {len(self.regions_.names)} regions from tokens of "
            f"{sources}, routing {self.routing}. Fitted on {len(self.stimulus_ids_)} stimuli. Validation r of epoch "
            f"{best.epoch + 1}, which was chosen by it: {best.validation:.3f}."
        )


def _positions(names: Sequence[str], wanted: Sequence[str] | None) -> list[int]:
    """Position of each wanted name, of all by default."""
    place = {name: number for number, name in enumerate(names)}
    unknown = [name for name in wanted or () if name not in place]
    if unknown:
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise UnknownNameError(f"no query {unknown[0]!r}", remedy=f"There are: {shown}")
    return list(place.values()) if wanted is None else [place[name] for name in wanted]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
