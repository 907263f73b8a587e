"""The linear map inside a `LatentDecoder`, and its fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import numpy as np

from encoders import Features
from encoders.solvers import AlphaEdgeWarning, ridge_cv
from recordings import Recording
from recordings.errors import RepetitionError
from recordings.events import OnEvent, Stop

from .columns import Matrix, Rows, moments, read_targets
from .components import Components, fit_components, gram_matrix


class Targets(NamedTuple):
    """Values (n, feature) and ids (n,) of stimuli; the Gram matrix (n, n) of the rows where components are wanted."""

    values: Matrix
    stimulus_ids: list[str]
    gram: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        features: Features,
        recording: Recording,
        components: int | None = None,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> Self:
        """Features of the stimuli that a recording shows; see `read_targets`."""
        shown = np.unique(recording.stimulus_ids.astype(str)).tolist()
        values, ids = read_targets(features, shown, on_event, stop)
        if components is None or components >= values.shape[1]:
            return cls(values, ids)
        return cls(values, ids, gram_matrix(values, moments(values)[0], on_event, stop))


class LatentMap(NamedTuple):
    """From responses to features, by way of principal components of the features or directly.

    Selected neuroids (s,), their mean and scale (s,), weights (s, q) and intercept (q,) of q features or components.
    """

    neuroids: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    components: Components | None = None

    @property
    def n_features(self) -> int:
        return len(self.intercept if self.components is None else self.components.mean)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Responses (n, s) of the selected neuroids in units of their spread in the fit."""
        return (values - self.mean) / self.scale

    def predict(self, values: np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """Some of the features, (n, columns) float32, of responses (n, s) of the selected neuroids."""
        design = self.standardise(values)
        if self.components is None:
            return design @ self.weights[:, columns] + self.intercept[columns]
        scores = design @ self.weights + self.intercept
        return scores @ self.components.basis[:, columns] + self.components.mean[columns]

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name, for storage."""
        found = {f"map.{name}": value for name, value in self._asdict().items() if name != "components"}
        parts = {} if self.components is None else self.components._asdict()
        return found | {f"components.{name}": value for name, value in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Self:
        parts: dict[str, Any] = {
            name.removeprefix("map."): value for name, value in tensors.items() if name.startswith("map.")
        }
        if "components.basis" in tensors:
            parts["components"] = Components(*(tensors[f"components.{name}"] for name in Components._fields))
        return cls(**parts)


def fit_map(
    average: Recording,
    neuroids: np.ndarray,
    targets: Targets,
    alphas: Sequence[float],
    cv: int,
    *,
    components: int | None = None,
    device: str = "cpu",
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> tuple[LatentMap, np.ndarray]:
    """Ridge from responses to targets, streamed by columns, and the alpha of each target or component.

    Parameters
    ----------
    average : (stimulus, s), one presentation a stimulus, of the neuroids (s,) of another recording.
    targets : of at least these stimuli, with their Gram matrix where components are wanted.

    Raises
    ------
    RepetitionError : no neuroid varies. NotFiniteError : a NaN or infinite target.
    """
    values = average.values
    # Not the s.d.: in single precision that of a constant is not always 0.
    varies = np.ptp(values, 0) > 0
    if not varies.any():
        raise RepetitionError("no neuroid varies over the training stimuli")
    values = values[:, varies]
    mean = values.mean(0, dtype=np.float64).astype(np.float32)
    scale = values.std(0, dtype=np.float64).astype(np.float32)
    design = (values - mean) / scale
    rows = average.match(targets.stimulus_ids)
    part = Rows(targets.values, rows)
    source: Rows | np.ndarray = part
    reduced = None
    with ExitStack() as quiet:
        if components is not None and targets.gram is not None:
            reduced, source = fit_components(part, targets.gram[np.ix_(rows, rows)], components, on_event, stop)
            # Components behind the signal take the largest alpha, as they should.
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", AlphaEdgeWarning)
        groups = average.stimulus_ids.astype(str)
        fit = ridge_cv(design, source, alphas, cv, groups=groups, device=device, on_event=on_event, stop=stop)
    weights = fit.coefficients(design).astype(np.float32, copy=False)
    return LatentMap(neuroids[varies], mean, scale, weights, fit.intercept.astype(np.float32), reduced), fit.alphas
