"""Attention maps: where queries look, how much of it depends on the picture, and on what it falls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats

from recordings.errors import RepetitionError, ShapeError, UnknownNameError

from .gaussian import fit_gaussians, map_moments
from .position import token_centres


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """How much each query weighs each place of each picture.

    Places are rows and columns of the token grid; "space" leaves frames out by adding them up. Coordinates are those of
    receptive fields: x right, y up, in units of half the image.

    Attributes
    ----------
    weights : float32 (n, query, [head,] [frame,] row, column), summing to 1 over the grid.
    stimulus_ids : str (n,). queries : names of regions, or ids of neuroids.
    per_head : whether there is an axis of heads.

    Raises
    ------
    ShapeError : another number of stimuli, queries or axes.
    """

    weights: np.ndarray
    stimulus_ids: Sequence[str]
    queries: tuple[str, ...]
    per_head: bool = False

    def __post_init__(self) -> None:
        shape, axes = self.weights.shape, self.weights.ndim - 2 - self.per_head
        if axes not in (2, 3) or shape[:2] != (len(self.stimulus_ids), len(self.queries)):
            heads = "head, " if self.per_head else ""
            raise ShapeError(
                f"weights of shape {shape} for {len(self.stimulus_ids)} stimuli and {len(self.queries)} queries",
                where="attention maps",
                remedy=f"Give (stimulus, query, {heads}[frame,] row, column)",
            )

    def __len__(self) -> int:
        return len(self.stimulus_ids)

    @property
    def grid(self) -> tuple[int, ...]:
        """([frames,] rows, columns) of the tokens."""
        return self.weights.shape[2 + self.per_head :]

    @cached_property
    def in_space(self) -> np.ndarray:
        """Weights averaged over heads and added up over frames, (n, query, row, column) float32."""
        weights = self.weights.mean(2) if self.per_head else self.weights
        return weights.sum(2) if weights.ndim == 5 else weights

    @property
    def _places(self) -> np.ndarray:
        return self.weights.reshape(*self.weights.shape[: 2 + self.per_head], -1)

    def select(self, stimulus_ids: Sequence[str] | None = None, queries: Sequence[str] | None = None) -> AttentionMaps:
        """The maps of some stimuli and queries, in that order; `UnknownNameError` names the first that is missing."""
        rows = _positions(self.stimulus_ids, stimulus_ids, "stimulus")
        columns = _positions(self.queries, queries, "query")
        return replace(
            self,
            weights=self.weights[np.ix_(rows, columns)],
            stimulus_ids=[self.stimulus_ids[i] for i in rows],
            queries=tuple(self.queries[i] for i in columns),
        )

    # Place -------------------------------------------------------------------------------------------------------

    def mean(self) -> np.ndarray:
        """Mean map over pictures, the static receptive field, (query, [head,] [frame,] row, column) float32."""
        self._need(1)
        return self.weights.mean(0)

    def centre_and_spread(self, baseline: Literal["uniform"] | None = "uniform") -> pd.DataFrame:
        """Centre and s.d. of each query's mean map in space.

        Parameters
        ----------
        baseline : "uniform" fits a Gaussian on a floor (`fit_gaussians`), so that attention spread evenly over the
            picture, or a second bump, does not move the centre; None takes the first two moments of the whole map.

        Returns
        -------
        One row a query: x, y, sigma in units of half the image; for "uniform" also floor, the share of attention that
        is spread evenly, and r2, the share of the map's variance that the Gaussian explains. NaN for a flat map.
        """
        self._need(1)
        maps = self.in_space.mean(0, dtype=np.float64)
        table = fit_gaussians(maps) if baseline == "uniform" else map_moments(maps)
        return table.set_index(pd.Index(self.queries, name="query"))

    def peak(self) -> tuple[np.ndarray, np.ndarray]:
        """Where attention is greatest: (row, column), int (n, query, 2), and their x and y, float32 (n, query, 2)."""
        rows, columns = self.in_space.shape[-2:]
        place = self.in_space.reshape(len(self), len(self.queries), -1).argmax(-1)
        return np.stack([place // columns, place % columns], -1), token_centres((rows, columns))[place]

    # Dependence on the picture -----------------------------------------------------------------------------------

    def content_index(self) -> np.ndarray:
        """Share of a map's variance that its mean map does not explain, (query, [head]) float64: 0 static, 1 content.

        Over places t and n pictures i, within = sum_it (w_it - mean_t)^2 / (n - 1), static = sum_t (mean_t - 1/T)^2 -
        within / n, which takes off what the mean owes to chance, and the index is within / (within + static). NaN
        where attention is uniform in all pictures.

        Raises
        ------
        RepetitionError : fewer than two pictures.
        """
        self._need(2)
        weights, mean = self._places, self._places.mean(0, dtype=np.float64)
        within = sum(((picture - mean) ** 2).sum(-1) for picture in weights) / (len(self) - 1)
        static = (((mean - 1 / mean.shape[-1]) ** 2).sum(-1) - within / len(self)).clip(0)
        # Rounding alone leaves a variance of about this in a uniform float32 map.
        uniform = within + static < 1e-12 / mean.shape[-1]
        return np.where(uniform, np.nan, within / np.where(uniform, 1, within + static))

    def entropy(self, *, relative: bool = False) -> np.ndarray:
        """Entropy over the grid, (n, query, [head]) float64: nats, or `relative` to the log of the number of tokens."""
        weights = self._places
        entropy = np.stack([stats.entropy(picture.astype(np.float64), axis=-1) for picture in weights])
        return entropy / math.log(weights.shape[-1]) if relative else entropy

    def selectivity(self, labels: Sequence[str], *, measure: Literal["entropy", "peak"] = "entropy") -> pd.DataFrame:
        """Whether attention is more focused in pictures of a category than in all others.

        Focus is minus the entropy, or with "peak" the greatest weight, of attention in space. One row a query, head
        (where kept apart: one may look at what another looks away from) and category: n_with, n_without; ``auc``,
        the chance that focus is greater in a picture with the category than in one without, ties counted half
        (Mann-Whitney U / (n_with n_without)), and its two-sided ``p``; ``d_prime`` = (mean_with - mean_without) /
        sqrt((var_with + var_without) / 2).

        Parameters
        ----------
        labels : (n,) category of each picture.

        Raises
        ------
        ShapeError : another number of labels. RepetitionError : fewer than two pictures with, or without, a category.
        """
        if measure not in ("entropy", "peak"):
            raise UnknownNameError(f"no measure {measure!r} of focus", remedy="There are: entropy, peak")
        shown = np.asarray(labels).astype(str)
        if shown.shape != (len(self),):
            raise ShapeError(f"{shown.size} labels for {len(self)} pictures", where="selectivity")
        places = self._places.reshape(*self._places.shape[:-1], -1, math.prod(self.grid[-2:])).sum(-2, dtype=np.float64)
        focus = -stats.entropy(places, axis=-1) if measure == "entropy" else places.max(-1)
        columns = [self.queries, range(places.shape[2])] if self.per_head else [self.queries]
        names = pd.MultiIndex.from_product(columns, names=["query", "head"][: len(columns)]).to_frame(index=False)
        focus = focus.reshape(len(self), -1)
        rows = []
        for category in np.unique(shown):
            inside, outside = focus[shown == category], focus[shown != category]
            if min(len(inside), len(outside)) < 2:
                raise RepetitionError(
                    f"{len(inside)} pictures with {category!r} and {len(outside)} without",
                    where="selectivity",
                    remedy="Give at least two of each",
                )
            test = stats.mannwhitneyu(inside, outside, axis=0)
            spread = np.sqrt((inside.var(0, ddof=1) + outside.var(0, ddof=1)) / 2)
            distance = inside.mean(0) - outside.mean(0)
            rows.append(
                names.assign(
                    category=category,
                    n_with=len(inside),
                    n_without=len(outside),
                    auc=test.statistic / (len(inside) * len(outside)),
                    d_prime=distance / np.where(spread > 0, spread, np.nan),
                    p=test.pvalue,
                )
            )
        return pd.concat(rows, ignore_index=True)

    # On an object ------------------------------------------------------------------------------------------------

    def mass_on(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Attention on an object, (n, query) float64, and the share of the picture that it covers, (n,) float64.

        Attention that ignores the object has a mass equal to its area on average.

        Parameters
        ----------
        masks : (n, height, width), True on the object, of the pictures as the model sees them (after cropping). A place
            that the object covers in part counts in part.
        """
        covered = self._covered(masks)
        return np.einsum("nqrc,nrc->nq", self.in_space.astype(np.float64), covered), covered.mean((1, 2))

    def peak_on(self, masks: np.ndarray) -> tuple[np.ndarray, float]:
        """Share of pictures whose peak lies on the object, (query,) float64, and the share for a peak put by chance.

        A peak lies on the object if its cell overlaps with it. Pictures without the object (empty masks) do not count.

        Raises
        ------
        RepetitionError : no picture has the object.
        """
        touched = self._covered(masks) > 0
        present = touched.any((1, 2))
        if not present.any():
            raise RepetitionError("all masks are empty", where="masks", remedy="Give pictures that show the object")
        cells, _ = self.peak()
        rows = np.arange(len(self))[:, None]
        hit = touched[rows, cells[..., 0], cells[..., 1]]
        return hit[present].mean(0), float(touched[present].mean())

    def _covered(self, masks: np.ndarray) -> np.ndarray:
        """Share of each place that is covered, (n, row, column) float64."""
        if np.ndim(masks) != 3 or len(masks) != len(self):
            raise ShapeError(
                f"masks of shape {np.shape(masks)} for {len(self)} pictures", remedy="Give (picture, height, width)"
            )
        images = torch.as_tensor(np.asarray(masks, np.float64))[:, None]
        return F.adaptive_avg_pool2d(images, (self.grid[-2], self.grid[-1]))[:, 0].numpy()

    # On the picture ----------------------------------------------------------------------------------------------

    def upsampled(self, size: tuple[int, int]) -> np.ndarray:
        """Maps in space at (height, width) pixels, bilinear, (n, query, height, width) float32, summing to 1.

        Choose pictures and queries with `select` first: it takes 4 bytes a picture, query and pixel.
        """
        found = F.interpolate(torch.as_tensor(self.in_space), size, mode="bilinear", align_corners=False)
        return (found / found.sum((-2, -1), keepdim=True)).numpy()

    def _need(self, n: int) -> None:
        if len(self) < n:
            raise RepetitionError(f"{len(self)} pictures where {n} are needed", where="attention maps")


def overlay(image: np.ndarray, weights: np.ndarray, *, colours: str = "inferno", opacity: float = 0.7) -> np.ndarray:
    """A picture with a map laid over it, uint8 (height, width, 3): the greater the weight, the less shows through.

    Parameters
    ----------
    image : uint8 (height, width, 3). weights : (row, column), brought to the picture's size (bilinear).
    colours : a colour map of matplotlib. opacity : at the greatest weight.
    """
    from matplotlib import colormaps

    if image.ndim != 3 or image.shape[-1] != 3 or weights.ndim != 2:
        raise ShapeError(
            f"a picture of shape {image.shape} and a map of shape {weights.shape}",
            remedy="Give (height, width, 3) and (row, column)",
        )
    grid = torch.as_tensor(np.asarray(weights, np.float32))[None, None]
    level = F.interpolate(grid, image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy().clip(0)
    level /= level.max() or 1
    alpha = opacity * level[..., None]
    mixed = (1 - alpha) * image + alpha * 255 * colormaps[colours](level)[..., :3]
    return mixed.round().astype(np.uint8)


def _positions(names: Sequence[str], wanted: Sequence[str] | None, kind: str) -> np.ndarray:
    if wanted is None:
        return np.arange(len(names))
    found = pd.Index(names).get_indexer(pd.Index(list(map(str, wanted))))
    if (found < 0).any():
        raise UnknownNameError(f"no map of {kind} {wanted[int(np.argmax(found < 0))]!r}", where="attention maps")
    return found
