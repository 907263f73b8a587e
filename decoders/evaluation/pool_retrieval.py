"""Retrieval of a brain's picture among 300, or of a picture's brain (Lin et al. 2022; Scotti et al. 2023)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recordings.errors import InputError, NotFiniteError, ShapeError

from .measures import Measure, Resampling
from .two_way_identification import TIE

_FEATURES = 1 << 15


def cosine_similarities(brain: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Cosine of each embedding decoded from a brain with each of a picture, (brain, image) float64.

    Parameters
    ----------
    brain, image : (n, ...) and (m, ...) flattened behind the first axis, and read in blocks of it.

    Raises
    ------
    ShapeError : embeddings of other widths. NotFiniteError : NaN or infinite numbers, or an embedding of zeros.
    """
    a, b = (np.asanyarray(side).reshape(len(side), -1) for side in (brain, image))
    if a.shape[1] != b.shape[1]:
        raise ShapeError(f"embeddings of {a.shape[1]} and of {b.shape[1]} numbers cannot be compared")
    products, squares = np.zeros((len(a), len(b))), [np.zeros(len(a)), np.zeros(len(b))]
    for start in range(0, a.shape[1], _FEATURES):
        left, right = (np.asarray(side[:, start : start + _FEATURES], np.float64) for side in (a, b))
        products += left @ right.T
        squares = [s + (part**2).sum(1) for s, part in zip(squares, (left, right), strict=True)]
    for name, square in zip(("brain", "image"), squares, strict=True):
        bad = ~(np.isfinite(square) & (square > 0))
        if bad.any():
            raise NotFiniteError(f"embedding {int(bad.argmax())} has no finite length above 0", where=name)
    return products / np.sqrt(squares[0][:, None] * squares[1])


def retrieval(
    similarity: np.ndarray,
    *,
    pool: int = 300,
    draws: int = 30,
    resampling: Resampling | None = None,
) -> dict[str, Measure]:
    """Top-1 accuracy among pools drawn without replacement, in both directions.

    Parameters
    ----------
    similarity : (n brain, n image); row i and column i belong together.
    pool : pictures in a pool. draws : how many pools; the score is the mean over them.

    Returns
    -------
    "image": the picture found by a brain (row by row); "brain": the brain found by a picture (column by column).
    Chance is 1 / pool, a tie fails.

    Raises
    ------
    ShapeError : not square. InputError : fewer than `pool` pictures, or a pool of less than two.
    """
    n = len(similarity)
    if similarity.shape != (n, n):
        raise ShapeError(f"similarity of shape {similarity.shape}", remedy="Give (brain, image) of the same stimuli")
    if not 2 <= pool <= n or draws < 1:
        raise InputError(f"{draws} pools of {pool} among {n} pictures", remedy=f"Take a pool of 2 to {n}")
    resampling = resampling or Resampling()
    rng = np.random.default_rng(resampling.seed)
    pools = [rng.choice(n, pool, replace=False) for _ in range(draws)]
    directions = {"image": similarity, "brain": similarity.T}
    return {name: _top1(matrix, pools, resampling) for name, matrix in directions.items()}


def _top1(rows: np.ndarray, pools: list[np.ndarray], resampling: Resampling) -> Measure:
    hits, drawn, tied = np.zeros(len(rows)), np.zeros(len(rows)), 0
    for members in pools:
        block = rows[np.ix_(members, members)]
        own = block.diagonal().copy()
        np.fill_diagonal(block, -np.inf)
        best = block.max(1)
        hits[members] += own > best + TIE
        drawn[members] += 1
        tied += int((np.abs(own - best) <= TIE).sum())
    chance = 1 / len(pools[0])
    measure = Measure(
        float(hits.sum() / drawn.sum()),
        values=hits / np.where(drawn > 0, drawn, np.nan),
        chance=chance,
        n_undefined=int((drawn == 0).sum()),
        n_tied=tied,
    )
    hits, drawn = hits[drawn > 0], drawn[drawn > 0]
    return replace(measure, interval=resampling.interval(lambda r: float(hits[r].sum() / drawn[r].sum()), len(hits)))
