"""A plain CSV table of responses: one row a presentation, one column a neuroid.

Never tried on real files.

Layout: a header; coordinates of the presentation (stimulus_id, and repetition, session, run, category or any other that
`coordinates` names) in some columns, one number a neuroid in all others; the column's name is the neuroid's id. Read in
blocks of rows. ``neuroids`` may be a second table with the column neuroid_id and anything known about each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import DuplicateIdError, FormatError, MismatchedIdsError
from .files import need, read_table
from .registry import Contents, Options, Reader

COORDINATES = ("stimulus_id", "repetition", "session", "run", "category", "caption", "subject", "onset")


class CsvOptions(Options):
    """Options of the format csv."""

    coordinates: tuple[str, ...] = ()
    """More columns that describe the presentation and are no neuroids."""
    neuroids: Path | None = None
    """CSV with the column neuroid_id, matched by id."""


def read_csv(source: Path, options: CsvOptions) -> Contents:
    """A table of responses; see the module for the layout.

    Raises
    ------
    FormatError : not a table, no column stimulus_id, or a response that is not a number (named by line and column).
    DuplicateIdError : two columns of one name. MismatchedIdsError : the second table lacks a neuroid.
    """
    names = _header(source)
    columns = [c for c in names if c in (*COORDINATES, *options.coordinates)]
    neuroids = [c for c in names if c not in columns]
    if not neuroids:
        raise FormatError("no column of responses in it", where=source)
    presentations = read_table(source, ("stimulus_id",), usecols=columns, dtype={"stimulus_id": str})
    return Contents(presentations, _neuroids(neuroids, options), _blocks(source, neuroids))


def _header(source: Path) -> list[str]:
    with need(source).open(encoding="utf-8-sig") as file:
        separator = "\t" if source.suffix == ".tsv" else ","
        names = [name.strip().strip('"') for name in file.readline().rstrip("\r\n").split(separator)]
    twice = pd.Index(names).duplicated()
    if twice.any():
        raise DuplicateIdError(f"column {names[int(np.flatnonzero(twice)[0])]!r} occurs twice", where=source)
    return names


def _neuroids(ids: list[str], options: CsvOptions) -> pd.DataFrame:
    if options.neuroids is None:
        return pd.DataFrame({"neuroid_id": ids})
    table = read_table(options.neuroids, ("neuroid_id",), dtype={"neuroid_id": str})
    missing = [i for i in ids if i not in set(table["neuroid_id"])]
    if missing:
        raise MismatchedIdsError(
            f"neuroid {missing[0]!r} is not in the table ({len(missing)} in all)",
            where=options.neuroids,
            remedy="Add a row for each column of responses; they are matched by id",
        )
    if table["neuroid_id"].duplicated().any():
        raise DuplicateIdError("a neuroid id occurs twice", where=options.neuroids)
    return table.set_index("neuroid_id").loc[ids].reset_index()


def _blocks(source: Path, neuroids: list[str]) -> Iterator[np.ndarray]:
    rows = max(1, min(512, 2**22 // len(neuroids)))
    separator = "\t" if source.suffix == ".tsv" else ","
    with pd.read_csv(source, sep=separator, usecols=neuroids, chunksize=rows, dtype=str) as reader:
        for block in reader:
            numbers = block[neuroids].apply(pd.to_numeric, errors="coerce")
            bad = numbers.isna() & ~block[neuroids].isna()
            if bad.to_numpy().any():
                row, column = np.argwhere(bad.to_numpy())[0]
                raise FormatError(
                    f"line {block.index[row] + 2}: {block[neuroids].iat[row, column]!r} in column "
                    f"{neuroids[column]!r} is not a number",
                    where=source,
                )
            yield numbers.to_numpy(np.float32)


CSV = Reader("csv", read_csv, CsvOptions, "plain CSV table, a row a presentation and a column a neuroid")
