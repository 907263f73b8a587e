"""The fit of the shared space: targets, views or trained inputs, the final input layers, and the confidence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from encoders import Features
from recordings import Recording
from recordings.events import OnEvent, Stop

from ..columns import MEMORY_BYTES, moments, read_targets
from ..components import Components, fit_components, gram_matrix
from ..confidence import fit_temperature
from ..similarity import correlations
from .inputs import Part, SubjectInput, average, fixed_layer, spread, subject_input, views
from .network import Decoded, SharedSpaceNetwork
from .training import Options, Shown, Standardised, Targets

Build = Callable[[list[int]], SharedSpaceNetwork]
# `train`, with all but network, responses, targets, options and steps given.
Run = Callable[..., list[dict[str, float]]]
_ROWS = 512


@dataclass(frozen=True)
class TargetSpace:
    """What is decoded, as the stimuli of the fit have it.

    Attributes
    ----------
    mean, scale : (feature,) of the embedding. latent_mean, latent_scale : (latent,), empty without latents.
    components : of the embedding, whose whitened scores aligned inputs are brought to.
    deviation : (shared,) standard deviation of the scores.
    """

    mean: np.ndarray
    scale: np.ndarray
    latent_mean: np.ndarray
    latent_scale: np.ndarray
    components: Components
    deviation: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """As arrays by name."""
        plain = {name: value for name, value in vars(self).items() if name != "components"}
        return plain | {f"components.{name}": value for name, value in self.components._asdict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> TargetSpace:
        """From what `tensors` gave."""
        components = Components(*(tensors[f"components.{name}"] for name in Components._fields))
        plain = {name: value for name, value in tensors.items() if not name.startswith("components.")}
        return cls(components=components, **plain)

    def scores(self, embedding: Features) -> np.ndarray:
        """Whitened scores of all stimuli of `embedding`, (stimulus, shared) float32."""
        rows = range(0, len(embedding), _ROWS)
        blocks = (embedding.read(slice(start, start + _ROWS)) for start in rows)
        found = [self.components.scores(block.reshape(len(block), -1)) for block in blocks]
        return np.concatenate(found) / self.deviation

    def targets(self, embedding: Features, latents: Features | None) -> Targets:
        """Standardised by this space."""
        low = None if latents is None else Standardised(_held(latents), self.latent_mean, self.latent_scale)
        return Targets(Standardised(_held(embedding), self.mean, self.scale), low)


def _held(features: Features) -> np.ndarray | Features:
    # Rows at random from a store on disk are slow; what fits into memory is read once.
    return features.read() if 4 * int(np.prod(features.shape)) <= MEMORY_BYTES else features


def fit_target_space(
    embedding: Features, latents: Features | None, shared: int, on_event: OnEvent | None, stop: Stop | None
) -> TargetSpace:
    """Moments of the stimuli's targets, and the principal components of the embedding."""
    ids = [str(i) for i in embedding.stimulus_ids]
    values, _ = read_targets(embedding, ids, on_event, stop)
    mean, scale = moments(values)
    components, scores = fit_components(values, gram_matrix(values, mean, on_event, stop), shared, on_event, stop)
    low = np.empty(0, np.float32), np.empty(0, np.float32)
    if latents is not None:
        low = moments(read_targets(latents, ids, on_event, stop)[0])
    return TargetSpace(mean, scale, *low, components, scores.std(0))


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
