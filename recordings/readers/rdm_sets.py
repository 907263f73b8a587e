"""Sets of representational dissimilarity matrices.

Tried on real files: ``human_it_rdms.npz`` made from rsatoolbox's ``92_brainRDMs.mat`` (Kriegeskorte et al. 2008). The
``.mat`` layouts below were never tried on real files.

Layout: a file, or a folder with one such file and perhaps ``stimuli.csv`` (column stimulus_id), which then names the
stimuli in order.

- ``.npz``: array rdms (or the only array), (rdm, stimulus, stimulus) or (rdm, pair); names (rdm,) and stimulus_ids
  (stimulus,) if they are there.
- ``.mat``, version 5 or 7.3: struct array RDMs with the fields RDM and name (the RSA toolbox of Nili et al. 2014),
  taken in MATLAB's column order; or the only numeric array, (stimulus, stimulus, rdm) or (stimulus, stimulus).

The factors subject and session are read from the names ("hIT | BE | Session: 1"), so that people can be the unit of a
statistic and not their sessions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, MismatchedIdsError
from ..rdms import NAME_PATTERN, RDMs, load_npz, parse_names
from .files import need, read_mat, read_table
from .registry import Options, Reader


class RDMOptions(Options):
    """Options of the format rdms."""

    variable: str | None = None
    """Array or struct that holds the RDMs; by default rdms or RDMs, else the only one there is."""
    stimuli: Path | None = None
    """Table with the column stimulus_id, in the order of rows and columns; by default stimuli.csv beside the file."""
    pattern: str = NAME_PATTERN
    """Regular expression whose named groups (subject, session, ...) become factors."""


def read_rdms(source: Path, options: RDMOptions | None = None) -> RDMs:
    """RDMs of a public file or of one that Penfield wrote; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : not such a file, or cut short. ShapeError, NotFiniteError : not RDMs.
    MismatchedIdsError : the table of stimuli has another length.
    """
    options = options or RDMOptions()
    path = _file(source)
    if path.suffix == ".npz":
        arrays = load_npz(path)
        if "penfield" in arrays:
            return RDMs.load(path)
        values, names = _from_npz(arrays, options, path)
        ids = [str(i) for i in arrays["stimulus_ids"]] if "stimulus_ids" in arrays else _stimulus_ids(path, options)
    else:
        values, names = _from_mat(read_mat(path), options, path)
        ids = _stimulus_ids(path, options)
    try:
        factors = parse_names(names, options.pattern)
    except re.error as error:
        raise InputError(f"pattern is not a regular expression ({error})") from error
    try:
        return RDMs(values, ids, names, factors, {"file": path.name})
    except InputError as error:
        kind = MismatchedIdsError if "stimulus ids for" in error.what else type(error)
        raise kind(error.what, where=path, remedy=error.remedy) from error


def _file(source: Path) -> Path:
    if not need(source).is_dir():
        if source.suffix not in (".npz", ".mat"):
            raise FormatError("neither .npz nor .mat", where=source, remedy="Give a file of RDMs")
        return source
    found = sorted([*source.glob("*.npz"), *source.glob("*.mat")])
    if len(found) != 1:
        raise FormatError(f"{len(found)} files of RDMs in it", where=source, remedy="Name the one .npz or .mat file")
    return found[0]


def _from_npz(arrays: dict[str, np.ndarray], options: RDMOptions, path: Path) -> tuple[np.ndarray, list[str]]:
    numeric = {n: a for n, a in arrays.items() if a.dtype.kind in "fiu" and a.ndim >= 2}
    values = numeric[_choose(list(numeric), options, path)]
    names = arrays.get("names")
    return values, [f"rdm{i}" for i in range(len(values))] if names is None else [str(n) for n in names]


def _from_mat(variables: dict[str, Any], options: RDMOptions, path: Path) -> tuple[np.ndarray, list[str]]:
    usable = {n: v for n, v in variables.items() if isinstance(v, list | dict) or np.ndim(v) >= 2}
    found = usable[_choose(list(usable), options, path)]
    if isinstance(found, dict):
        found = [found]
    if isinstance(found, list):
        if not all(isinstance(item, dict) and "RDM" in item for item in found):
            raise FormatError("a struct without the field RDM", where=path, remedy="Expected fields RDM and name")
        values = np.stack([np.asarray(item["RDM"], np.float64) for item in found])
        return values.squeeze(), [str(item.get("name", f"rdm{i}")) for i, item in enumerate(found)]
    values = np.asarray(found, np.float64)
    values = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    return values, [f"rdm{i}" for i in range(len(values))]


def _choose(names: list[str], options: RDMOptions, path: Path) -> str:
    wanted = [options.variable] if options.variable else [n for n in ("rdms", "RDMs") if n in names] or names
    if len(wanted) != 1 or wanted[0] not in names:
        raise FormatError(
            f"no variable {options.variable!r}" if options.variable else "more than one variable could be the RDMs",
            where=path,
            remedy=f"Name one with the option variable: {', '.join(names) or 'there is none'}",
        )
    return wanted[0]


def _stimulus_ids(path: Path, options: RDMOptions) -> list[str] | None:
    table = options.stimuli or path.with_name("stimuli.csv")
    if options.stimuli is None and not table.exists():
        return None
    return list(read_table(table, ("stimulus_id",), dtype={"stimulus_id": str})["stimulus_id"])


RDM_SETS = Reader(
    "rdms",
    read_rdms,
    RDMOptions,
    "RDMs of several people or sessions in one .npz or .mat file; writes an .npz file",
    tried_on_real_files=True,
)
