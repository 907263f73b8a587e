"""What the shared space decodes: features of the stimuli, standardised, and the components that they vary along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from encoders import Features
from recordings.events import OnEvent, Stop

from ..columns import MEMORY_BYTES, moments, read_targets
from ..components import Components, fit_components, gram_matrix

_ROWS = 512


@dataclass(frozen=True)
class Standardised:
    """Features (stimulus, ...), flattened, minus `mean`, over `scale`, both (feature,)."""

    values: np.ndarray | Features
    mean: np.ndarray
    scale: np.ndarray

    def read(self, rows: np.ndarray) -> Tensor:
        """Rows by position, (b, feature) float32."""
        values = self.values.read(rows) if isinstance(self.values, Features) else self.values[rows]
        return torch.from_numpy((values.reshape(len(rows), -1) - self.mean) / self.scale)


@dataclass(frozen=True)
class Targets:
    """What is decoded, of the same stimuli in the same order."""

    embedding: Standardised
    latents: Standardised | None


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
