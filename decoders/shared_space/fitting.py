"""The fit of the shared space: views or trained inputs, the final input layers, and the confidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoders import Features
from encoders.features.extractor import torch_device
from recordings import Recording
from recordings.events import OnEvent, Stop

from ..confidence import fit_temperature
from ..similarity import correlations
from .inputs import Part, SubjectInput, average, fixed_layer, spread, subject_input, views
from .network import Decoded, SharedSpaceNetwork
from .targets import TargetSpace
from .training import Options, Shown, train

Build = Callable[[list[int]], SharedSpaceNetwork]
# `train`, with all but network, responses, targets, options and steps given.
Run = Callable[..., list[dict[str, float]]]


@dataclass(frozen=True)
class Data:
    """Averaged responses by subject, and features of the same stimuli in one order.

    Attributes
    ----------
    subjects : how each is standardised.
    """

    averages: Mapping[str, Recording]
    subjects: Mapping[str, SubjectInput]
    embedding: Features
    latents: Features | None

    @classmethod
    def of(cls, recordings: Mapping[str, Recording], embedding: Features, latents: Features | None) -> Data:
        """Repetitions averaged, and the features of all stimuli that any subject saw, in the order of the store."""
        averages = {name: average(recording) for name, recording in recordings.items()}
        ids = {str(i) for recording in averages.values() for i in recording.stimulus_ids}
        wanted = [str(i) for i in embedding.stimulus_ids[np.sort(embedding.rows(sorted(ids)))]]
        subjects = {name: subject_input(averages[name], recordings[name]) for name in recordings}
        return cls(averages, subjects, embedding.select(wanted), None if latents is None else latents.select(wanted))

    @property
    def stimulus_ids(self) -> list[str]:
        """Of all stimuli that any subject saw."""
        return [str(i) for i in self.embedding.stimulus_ids]

    def parts(self) -> dict[str, Part]:
        """Of every subject."""
        ids = self.stimulus_ids
        return {name: Part(recording, ids, self.subjects[name]) for name, recording in self.averages.items()}

    def fingerprint(self, settings: Mapping[str, object], body: Mapping[str, Tensor] | None) -> dict[str, str]:
        """What a checkpoint must agree with, by what it is."""
        responses, begun = hashlib.sha256(), hashlib.sha256()
        for recording in self.averages.values():
            responses.update(recording.fingerprint().encode())
            for block in recording.blocks():
                responses.update(block.tobytes())
        for value in (body or {}).values():
            begun.update(value.cpu().numpy().tobytes())
        features = [f.fingerprint() for f in (self.embedding, self.latents) if f is not None]
        return {
            "settings": json.dumps(settings),
            "responses": responses.hexdigest(),
            "stimuli": hashlib.sha256("\n".join(self.stimulus_ids).encode()).hexdigest(),
            "features": " ".join(features),
            "weights begun with": begun.hexdigest(),
        }


def held_out(n: int, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool: the stimuli that fit the confidence."""
    chosen = np.zeros(n, bool)
    if fraction:
        chosen[np.random.default_rng([seed, n]).permutation(n)[: max(2, round(fraction * n))]] = True
    return chosen


@dataclass
class Fitted:
    """A network with an input layer a subject, in the order of `Data.averages`."""

    network: SharedSpaceNetwork
    history: list[dict[str, float]]
    input_scale: float


def build_network(given: Mapping[str, Any], space: TargetSpace, n_neuroids: list[int]) -> SharedSpaceNetwork:
    """An untrained network for a space, as the parameters of a `SharedSpaceDecoder` have it."""
    return SharedSpaceNetwork(
        n_neuroids,
        shared=len(space.deviation),
        n_features=len(space.mean),
        n_latents=len(space.latent_mean),
        **{name: given[name] for name in ("width", "n_blocks", "dropout", "input_dropout")},
    )


def learn(
    data: Data,
    space: TargetSpace,
    given: Mapping[str, Any],
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    begin: tuple[Mapping[str, Tensor], float] | None = None,
    train_body: bool = True,
    checkpoints: Path | None,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> Fitted:
    """Fit a network to all subjects of `data`, and set the temperatures of their confidence.

    Parameters
    ----------
    given : parameters of a `SharedSpaceDecoder`. epochs, learning_rate : instead of those, if not None.
    begin : body and scale of the inputs of an earlier fit. train_body : or only the input layers.
    checkpoints, on_event, stop : see `train`, and for what it raises.
    """
    options = Options(
        epochs=given["epochs"] if epochs is None else epochs,
        learning_rate=given["learning_rate"] if learning_rate is None else learning_rate,
        **{name: given[name] for name in ("batch_size", "weight_decay", "temperature", "loss_weights", "seed")},
    )
    torch.manual_seed(options.seed)
    fingerprint = {}
    if checkpoints is not None:
        settings = {**given, **vars(options), "train_body": train_body, "device": None}
        fingerprint = data.fingerprint(settings, None if begin is None else begin[0])
    run = partial(
        train,
        device=torch_device(given["device"]),
        checkpoints=checkpoints,
        fingerprint=fingerprint,
        on_event=on_event,
        stop=stop,
    )
    common = (data, space, partial(build_network, given, space), options, run)
    held = held_out(len(data.embedding), given["validation"], options.seed)
    if given["inputs"] == "aligned":
        return learn_aligned(*common, n_views=given["views"], held=held, begin=begin, train_body=train_body)
    return learn_trained(*common, held=held, begin=None if begin is None else begin[0], train_body=train_body)


def learn_aligned(
    data: Data,
    space: TargetSpace,
    build: Build,
    options: Options,
    run: Run,
    *,
    n_views: int,
    held: np.ndarray,
    begin: tuple[Mapping[str, Tensor], float] | None,
    train_body: bool,
) -> Fitted:
    """Input layers in closed form, from all rows in the end; the body learns from views, or stays as it begins.

    Parameters
    ----------
    held : (stimulus,) bool, not to be trained on.
    begin : body and scale of the inputs of an earlier fit.
    """
    parts, scores = data.parts(), space.scores(data.embedding)
    history: list[dict[str, float]] = []
    network = build([part.n_neuroids for part in parts.values()])
    body, scale = begin or (network.body(), 1.0)
    if train_body:
        maps, shown = views(parts, np.flatnonzero(~held), scores, n_views, options.seed)
        scale = spread(maps, shown) if begin is None else scale
        viewed = build([])
        viewed.load_state_dict(body)
        viewed.inputs = nn.ModuleList(fixed_layer(weights, scale) for weights in maps)
        history = run(
            viewed,
            dict(enumerate(shown)),
            space.targets(data.embedding, data.latents),
            options,
            steps=_steps(parts, options),
        )
        body = viewed.body()
    network.load_state_dict(body, strict=False)

    def lay(stimuli: np.ndarray) -> None:
        maps = [part.align(part.rows(stimuli), scores) for part in parts.values()]
        network.inputs = nn.ModuleList(fixed_layer(weights, scale) for weights in maps)

    lay(np.flatnonzero(~held))
    fit_confidences(network, parts, data, space, held)
    lay(np.arange(len(held)))
    return Fitted(network.cpu().eval(), history, scale)


def learn_trained(
    data: Data,
    space: TargetSpace,
    build: Build,
    options: Options,
    run: Run,
    *,
    held: np.ndarray,
    begin: Mapping[str, Tensor] | None,
    train_body: bool,
) -> Fitted:
    """Input layers and body by gradient, or the input layers alone."""
    parts = data.parts()
    network = build([part.n_neuroids for part in parts.values()])
    if begin is not None:
        network.load_state_dict(begin, strict=False)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(train_body or name.startswith("inputs."))
    shown: dict[int, Shown] = {
        number: part.shown(part.rows(np.flatnonzero(~held))) for number, part in enumerate(parts.values())
    }
    history = run(
        network,
        shown,
        space.targets(data.embedding, data.latents),
        options,
        steps=_steps(parts, options),
    )
    fit_confidences(network, parts, data, space, held)
    return Fitted(network.cpu().eval(), history, 1.0)


def _steps(parts: Mapping[str, Part], options: Options) -> int:
    return max(1, round(sum(len(part.stimuli) for part in parts.values()) / options.batch_size))


def decode(
    network: SharedSpaceNetwork, layer: int, standardised: np.ndarray, space: TargetSpace
) -> dict[str, np.ndarray]:
    """Heads by name, float32 (row, feature), in the units of the features."""
    network.eval()
    with torch.inference_mode():
        found: Decoded = network({layer: torch.from_numpy(standardised).to(network.entry.weight.device)})
    heads = {name: getattr(found, name).cpu().numpy() * space.scale + space.mean for name in ("embedding", "retrieval")}
    if found.latents is not None:
        heads["z"] = found.latents.cpu().numpy() * space.latent_scale + space.latent_mean
    return heads


def fit_confidences(
    network: SharedSpaceNetwork,
    parts: Mapping[str, Part],
    data: Data,
    space: TargetSpace,
    held: np.ndarray,
) -> None:
    """Set the temperature of each subject from the stimuli that were left out, where it saw two or more of them."""
    for layer, (name, part) in enumerate(parts.items()):
        rows = part.rows(np.flatnonzero(held))
        if len(rows) < 2:
            continue
        decoded = decode(network, layer, part.responses[rows], space)["retrieval"]
        candidates = data.embedding.read(part.stimuli[rows])
        flat = candidates.reshape(len(rows), -1)
        similarity = correlations(decoded, flat, mean=space.mean, scale=space.scale)
        data.subjects[name].temperature = fit_temperature([similarity], [np.arange(len(rows))])
