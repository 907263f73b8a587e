"""`RDMs`: a set of representational dissimilarity matrices over the same stimuli."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import squareform

from .errors import (
    DuplicateIdError,
    FormatError,
    NotFiniteError,
    ShapeError,
    TruncatedFileError,
    UnknownNameError,
)
from .storage import atomic_path

FORMAT_VERSION = 1
# "hIT | BE | Session: 2", "subj01-ses2", "sub-03_ses-1"
NAME_PATTERN = (
    r"^(?:(?P<roi>[^|]+?)\s*\|\s*)?(?:subject\s*:?\s*)?(?P<subject>[^|]+?)"
    r"(?:\s*\|\s*session\s*:?\s*|[-_ ]ses(?:sion)?-?)(?P<session>\w+)$"
)


class RDMs:
    """Representational dissimilarity matrices of several people, sessions or regions over the same stimuli.

    Parameters
    ----------
    values : (rdm, pair) condensed as by `scipy.spatial.distance.squareform`, or (rdm, stimulus, stimulus) symmetric
        with a zero diagonal; kept condensed, float32.
    stimulus_ids : (stimulus,) unique names; "stim00000", ... by default.
    names : (rdm,) what each one is.
    factors : columns (rdm,) such as subject, session, roi; by default parsed from the names with `NAME_PATTERN`.
    attrs : provenance, JSON values.

    Raises
    ------
    ShapeError : not a set of square or condensed matrices; not symmetric; the diagonal is not zero.
    NotFiniteError, DuplicateIdError : NaN or infinity; a stimulus id occurs twice.
    """

    def __init__(
        self,
        values: Any,
        stimulus_ids: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        factors: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ):
        self.values = _condensed(np.asarray(values, np.float32))
        n = _n_stimuli(self.values.shape[1])
        self.stimulus_ids = _ids(stimulus_ids, n)
        self.names = [f"rdm{i}" for i in range(len(self.values))] if names is None else [str(name) for name in names]
        self.factors = pd.DataFrame(parse_names(self.names) if factors is None else dict(factors))
        self.attrs = dict(attrs or {})
        if len(self.names) != len(self.values) or len(self.factors) not in (0, len(self.values)):
            raise ShapeError(f"{len(self.names)} names and {len(self.factors)} factors for {len(self.values)} RDMs")
        _check_finite(self.values, self.names, self.stimulus_ids)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"RDMs({len(self)} of {self.n_stimuli} stimuli; factors: {', '.join(self.factors) or '-'})"

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return len(self.stimulus_ids)

    def square(self) -> np.ndarray:
        """(rdm, stimulus, stimulus) float32, symmetric."""
        return np.stack([squareform(v) for v in self.values])

    def take(self, rows: Any) -> RDMs:
        """The RDMs at the given rows (slice, index or boolean array)."""
        rows = np.arange(len(self))[rows]
        return RDMs(
            self.values[rows],
            self.stimulus_ids,
            [self.names[i] for i in rows],
            {str(c): self.factors[c].to_numpy()[rows] for c in self.factors},
            self.attrs,
        )

    def select(self, stimulus_ids: Sequence[str]) -> RDMs:
        """The same RDMs over the given stimuli, in that order; `UnknownNameError` names the first that is missing."""
        wanted = [str(i) for i in stimulus_ids]
        rows = pd.Index(self.stimulus_ids).get_indexer(pd.Index(wanted))
        if (rows < 0).any():
            missing = wanted[int(np.flatnonzero(rows < 0)[0])]
            raise UnknownNameError(f"no stimulus {missing!r} among the {self.n_stimuli} of these RDMs")
        first, second = np.triu_indices(len(rows), 1)
        a, b = rows[first], rows[second]
        pairs = _pair_index(np.minimum(a, b), np.maximum(a, b), self.n_stimuli)
        factors = {str(c): self.factors[c].to_numpy() for c in self.factors}
        return RDMs(self.values[:, pairs], wanted, self.names, factors, self.attrs)

    def average(self, factor: str) -> RDMs:
        """Mean over all RDMs that share a factor (sessions of one subject, say), in order of first appearance."""
        if factor not in self.factors:
            raise UnknownNameError(
                f"these RDMs have no factor {factor!r}", remedy=f"There are: {', '.join(self.factors) or 'none'}"
            )
        codes, levels = pd.factorize(self.factors[factor])
        means = np.stack([self.values[codes == k].mean(0, dtype=np.float64) for k in range(len(levels))])
        names = [str(level) for level in levels]
        return RDMs(means, self.stimulus_ids, names, {factor: names}, {**self.attrs, "averaged_by": factor})

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> RDMs:
        """Write an ``.npz`` file without pickles, whole or not at all, and return what `load` reads from there."""
        path = Path(path)
        meta = json.dumps({"format_version": FORMAT_VERSION, "kind": "rdms", "attrs": self.attrs})
        factors = {f"factor_{c}": self.factors[c].astype(str).to_numpy(dtype=str) for c in self.factors}
        with atomic_path(path, overwrite=overwrite) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                allow_pickle=False,
                rdms=self.values,
                names=np.array(self.names, str),
                stimulus_ids=np.array(self.stimulus_ids, str),
                penfield=np.array(meta),
                **factors,
            )
        return RDMs.load(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RDMs:
        """RDMs that `save` wrote. For files from elsewhere see `recordings.readers.rdm_sets`.

        Raises
        ------
        FormatError, TruncatedFileError : not such a file, or cut short.
        """
        arrays = load_npz(path)
        if "penfield" not in arrays:
            raise FormatError(
                "not an RDM set that Penfield wrote", where=path, remedy="Import it first: penfield import rdms"
            )
        meta = json.loads(str(arrays["penfield"]))
        if meta.get("format_version") != FORMAT_VERSION or meta.get("kind") != "rdms":
            raise FormatError(f"RDM format {meta.get('format_version')}, expected {FORMAT_VERSION}", where=path)
        factors = {k.removeprefix("factor_"): v for k, v in arrays.items() if k.startswith("factor_")}
        ids = [str(i) for i in arrays["stimulus_ids"]]
        return cls(arrays["rdms"], ids, list(arrays["names"]), factors, meta["attrs"])


def load_npz(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz`` file; pickled objects are refused."""
    path = Path(path)
    if not path.is_file():
        raise FormatError("does not exist", where=path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, AttributeError, TypeError) as error:
        raise FormatError(f"not an archive of plain arrays ({error})", where=path) from error
    except Exception as error:
        # zipfile and zlib have error classes of their own for a file that is cut.
        raise TruncatedFileError(f"cannot be read to its end ({error})", where=path) from error


def parse_names(names: Sequence[str], pattern: str = NAME_PATTERN) -> dict[str, list[str]]:
    """Factors from the named groups of a pattern; none at all unless it fits every name."""
    found = [re.search(pattern, str(name).strip(), re.IGNORECASE) for name in names]
    if not all(found):
        return {}
    groups = [match.groupdict() for match in found if match]
    return {key: [g[key].strip() for g in groups] for key in groups[0] if all(g[key] for g in groups)} if groups else {}


def _condensed(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2 and values.shape[0] == values.shape[1] and np.allclose(values, values.T, equal_nan=True):
        values = values[None]
    if values.ndim == 2:
        return values
    if values.ndim != 3 or values.shape[1] != values.shape[2]:
        raise ShapeError(f"RDMs of shape {values.shape}", remedy="Give (rdm, pair) or (rdm, stimulus, stimulus)")
    if not np.allclose(values, values.transpose(0, 2, 1), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ShapeError("an RDM is not symmetric", remedy="Average it with its transpose if that is what you mean")
    diagonal = np.abs(np.diagonal(values, axis1=1, axis2=2))
    if (diagonal > 1e-4 * max(float(np.nanmax(np.abs(values))), 1e-30)).any():
        raise ShapeError("the diagonal of an RDM is not zero", remedy="Give dissimilarities, not similarities")
    rows, columns = np.triu_indices(values.shape[1], 1)
    return np.ascontiguousarray(values[:, rows, columns])


def _n_stimuli(n_pairs: int) -> int:
    n = round(float((1 + np.sqrt(1 + 8 * n_pairs)) / 2))
    if n * (n - 1) // 2 != n_pairs or n < 2:
        raise ShapeError(f"{n_pairs} pairs are not the pairs of any number of stimuli")
    return n


def _ids(stimulus_ids: Sequence[str] | None, n: int) -> list[str]:
    ids = [f"stim{i:05d}" for i in range(n)] if stimulus_ids is None else [str(i) for i in stimulus_ids]
    if len(ids) != n:
        raise ShapeError(f"{len(ids)} stimulus ids for RDMs of {n} stimuli")
    twice = pd.Index(ids).duplicated()
    if twice.any():
        raise DuplicateIdError(f"stimulus id {ids[int(np.flatnonzero(twice)[0])]!r} occurs twice")
    return ids


def _check_finite(values: np.ndarray, names: Sequence[str], ids: Sequence[str]) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        rdm, pair = np.argwhere(bad)[0]
        rows, columns = np.triu_indices(len(ids), 1)
        raise NotFiniteError(
            f"RDM {names[rdm]!r} has NaN or infinity between stimuli {ids[rows[pair]]!r} and {ids[columns[pair]]!r}",
            remedy="Leave these stimuli out of all RDMs",
        )


def _pair_index(i: np.ndarray, j: np.ndarray, n: int) -> np.ndarray:
    # Position of pair i < j in the condensed order.
    return n * i - i * (i + 1) // 2 + j - i - 1
