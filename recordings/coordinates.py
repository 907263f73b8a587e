"""Tables of presentations and neuroids, and how they become coordinates of a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from .errors import DuplicateIdError, InputError, ShapeError

Table: TypeAlias = pd.DataFrame | Mapping[str, Any]
ROI_SEPARATOR = "|"


def presentation_table(table: Table) -> pd.DataFrame:
    """One row a presentation, with stimulus_id, repetition, session and run filled in and checked."""
    rows = _named(pd.DataFrame(table).reset_index(drop=True))
    if "stimulus_id" not in rows:
        raise InputError("presentations lack the column 'stimulus_id'", remedy=f"There are: {', '.join(rows)}")
    rows["stimulus_id"] = rows["stimulus_id"].astype(str)
    if "repetition" not in rows:
        rows["repetition"] = rows.groupby("stimulus_id").cumcount()
    for name in ("session", "run"):
        if name not in rows:
            rows[name] = 0
    twice = rows.duplicated(["stimulus_id", "repetition"])
    if twice.any():
        first = rows[twice].iloc[0]
        raise DuplicateIdError(
            f"stimulus {first['stimulus_id']!r} has repetition {first['repetition']} twice",
            remedy="Leave out the column 'repetition' to have repetitions counted",
        )
    return rows


def neuroid_table(table: Table | None, n: int) -> pd.DataFrame:
    """One row a neuroid, with unique ids; `n` rows named n0, n1, ... where there is no table."""
    given = {"neuroid_id": [f"n{i}" for i in range(n)]} if table is None else table
    rows = _named(pd.DataFrame(given).reset_index(drop=True))
    if "neuroid_id" not in rows:
        rows.insert(0, "neuroid_id", [f"n{i}" for i in range(len(rows))])
    rows["neuroid_id"] = rows["neuroid_id"].astype(str)
    twice = rows["neuroid_id"].duplicated()
    if twice.any():
        raise DuplicateIdError(
            f"neuroid id {rows.loc[twice, 'neuroid_id'].iloc[0]!r} occurs twice",
            remedy="Every neuroid needs an id of its own",
        )
    return rows


def _named(table: pd.DataFrame) -> pd.DataFrame:
    # Zarr lists coordinates by names set apart by spaces, so that a name with a space in it would be lost.
    return table.rename(columns={c: "_".join(str(c).split()) for c in table})


def check_names(presentations: pd.DataFrame, neuroids: pd.DataFrame) -> None:
    """Raise `DuplicateIdError` if both tables have a column of one name, since one would hide the other."""
    both = [c for c in presentations if c in neuroids]
    if both:
        raise DuplicateIdError(
            f"coordinate {both[0]!r} describes presentations and neuroids alike", remedy="Rename one of the columns"
        )


def check_shape(shape: tuple[int, ...], presentations: pd.DataFrame, neuroids: pd.DataFrame, time: Any) -> None:
    """Raise `ShapeError` if values of `shape` do not fit the tables."""
    expected = (len(presentations), *(() if time is None else (len(np.asarray(time)),)), len(neuroids))
    if shape != expected:
        raise ShapeError(
            f"values of shape {shape} for {len(presentations)} presentations and {len(neuroids)} neuroids",
            remedy=f"Expected shape {expected}" + ("" if len(shape) != 3 or time is not None else "; give `time`"),
        )


def data_array(
    values: np.ndarray,
    presentations: pd.DataFrame | None,
    neuroids: pd.DataFrame | None,
    time: Any,
    attrs: dict[str, Any],
) -> xr.DataArray:
    """The `xarray.DataArray` of a recording, tables as coordinates."""
    dims = ("presentation", "neuroid") if values.ndim == 2 else ("presentation", "time", "neuroid")
    coords: dict[str, Any] = {}
    for dim, table in (("presentation", presentations), ("neuroid", neuroids)):
        if table is not None:
            coords |= {column: (dim, plain(table[column])) for column in table}
    if time is not None:
        coords["time"] = ("time", np.asarray(time, np.float64))
    return xr.DataArray(values, dims=dims, coords=coords, attrs=attrs, name="responses")


def plain(column: pd.Series) -> np.ndarray:
    """A column as NumPy numbers or Python strings."""
    # Strings as NumPy objects: Zarr stores these at their own length, and no pandas type leaks into xarray.
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy()
    return column.astype(str).to_numpy(dtype=object)


def coordinate_table(data: xr.DataArray, dim: str) -> pd.DataFrame:
    """The coordinates along one dim as a table."""
    return pd.DataFrame({str(n): c.values for n, c in data.coords.items() if c.dims == (dim,)})


def constant_columns(table: pd.DataFrame, codes: np.ndarray) -> pd.DataFrame:
    """First row of each group, with the columns that do not vary within groups."""
    groups = table.groupby(codes, sort=True)
    keep = [c for c in table if c == "stimulus_id" or groups[c].nunique(dropna=False).max() == 1]
    first = groups[keep].first().reset_index(drop=True)
    return first.drop(columns="repetition", errors="ignore")


def memberships(labels: pd.Series) -> dict[str, np.ndarray]:
    """Boolean membership (neuroid,) by region name, from labels that may hold several names."""
    # Labels are few, neuroids many: 40,000 would take a second each time.
    codes, distinct = pd.factorize(labels.astype(str))
    dummies = pd.Series(distinct).str.get_dummies(sep=ROI_SEPARATOR)
    return {str(name): dummies[name].to_numpy(bool)[codes] for name in dummies}


def roi_names(neuroids: Table) -> tuple[str, ...]:
    """Names of the regions in the column ``roi``, in the order of first appearance."""
    if "roi" not in neuroids:
        return ()
    names = dict.fromkeys(n for label in pd.unique(neuroids["roi"]) for n in str(label).split(ROI_SEPARATOR))
    return tuple(n for n in names if n)
