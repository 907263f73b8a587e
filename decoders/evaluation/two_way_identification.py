"""Two-way identification: is a reconstruction more like its own original than like another one?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recordings.errors import RepetitionError, ShapeError, UnknownNameError

from .measures import Measure, Resampling

DIRECTIONS = ("reconstruction_fixed", "original_fixed")
COMPETITORS = ("all", "within", "across")
# Correlations of float32 features carry no finer difference.
TIE = 1e-6


def two_way(
    similarity: np.ndarray,
    direction: str = "reconstruction_fixed",
    *,
    categories: Sequence[str] | None = None,
    against: str = "all",
    resampling: Resampling | None = None,
) -> Measure:
    """Share of the comparisons of each true pair with a false one that the true pair wins; chance .5, ties fail.

    With the reconstruction fixed, it is compared with its original and the others' originals (Scotti et al. 2023, 2024;
    Ozcelik & VanRullen 2023): mean of C_ij < C_jj over i != j. With the original fixed, its own and the others'
    reconstructions are compared with it (Takagi & Nishimoto 2023): mean of C_ij < C_ii over j != i.

    A picture whose own similarity is undefined, or that ties with all it is compared with, has no value and is counted;
    an undefined competitor is left out. The null permutes which original belongs to which reconstruction.

    Parameters
    ----------
    similarity : (n original, n reconstruction), as from `picture_correlations`; samples averaged.
    direction : one of `DIRECTIONS`.
    categories : (n,) of the originals. against : compare with "all", or only "within" or "across" categories, to tell a
        picture from its category (Shirakawa et al. 2024).

    Raises
    ------
    ShapeError : not square, or another number of categories. RepetitionError : fewer than two pictures.
    UnknownNameError : no such direction or competitors.
    """
    _check(similarity, direction, categories, against)
    columns = similarity if direction == "reconstruction_fixed" else similarity.T
    share, tied = _shares(columns, categories, against)
    own = np.arange(len(share))
    return (resampling or Resampling()).mean(share[own, own], share, chance=0.5, n_tied=int(tied[own, own].sum()))


def _check(similarity: np.ndarray, direction: str, categories: Sequence[str] | None, against: str) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ShapeError(
            f"similarity of shape {similarity.shape}",
            remedy="Give (original, reconstruction), as many of one as of the other",
        )
    if len(similarity) < 2:
        raise RepetitionError(f"{len(similarity)} picture; two-way identification needs at least two")
    for name, known in ((direction, DIRECTIONS), (against, COMPETITORS)):
        if name not in known:
            raise UnknownNameError(f"no {name!r}", remedy=f"There are: {', '.join(known)}")
    if against != "all" and (categories is None or len(categories) != len(similarity)):
        raise ShapeError(f"{0 if categories is None else len(categories)} categories for {len(similarity)} pictures")


def _shares(columns: np.ndarray, categories: Sequence[str] | None, against: str) -> tuple[np.ndarray, np.ndarray]:
    # Entry (i, j): what row i would win in column j if the two were a pair.
    below, tied, others = _compare(columns)
    if against != "all":
        inside = [np.empty_like(part) for part in (below, tied, others)]
        names = np.asarray(categories, object).astype(str)
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            for whole, part in zip(inside, _compare(columns[rows]), strict=True):
                whole[rows] = part
        outside = [whole - part for whole, part in zip((below, tied, others), inside, strict=True)]
        below, tied, others = inside if against == "within" else outside
    defined = np.isfinite(columns) & (others > tied)
    return np.where(defined, below / np.where(defined, others, 1), np.nan), np.where(defined, tied, 0)


def _compare(block: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # For each entry, how many others of its column are below it, level with it, and defined at all.
    below, tied = np.zeros(block.shape, int), np.zeros(block.shape, int)
    for j, column in enumerate(block.T):
        ordered = np.sort(column[np.isfinite(column)])
        below[:, j] = np.searchsorted(ordered, column - TIE, "left")
        tied[:, j] = np.searchsorted(ordered, column + TIE, "right") - below[:, j] - 1
    return below, tied, np.broadcast_to(np.isfinite(block).sum(0) - 1, block.shape)
