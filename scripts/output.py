"""What a command prints: tables for people, or one JSON object."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

MAX_COLUMNS = 9


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a command's result on standard output."""
    values = plain(result)
    if as_json:
        sys.stdout.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
        return
    console = Console(soft_wrap=True)
    scalars = {k: v for k, v in values.items() if not _nested(v)}
    if scalars:
        console.print(_facts(scalars))
    for name, value in _beside_each_other({k: v for k, v in values.items() if _nested(v) and v}).items():
        for table in _tables(name, value):
            console.print(table)


def plain(value: Any) -> Any:
    """JSON values of NumPy numbers, paths and the like; numbers that JSON cannot hold become None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PathLike) else value


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _beside_each_other(nested: dict[str, Any]) -> dict[str, Any]:
    """Facts of the same things, such as regions, as the columns of one table under the first one's name."""
    found: dict[str, Any] = {}
    columns: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for name, value in nested.items():
        flat = isinstance(value, dict) and not any(_nested(v) for v in value.values())
        known = columns.setdefault(tuple(value), {}) if flat else {}
        first = next(iter(known), name)
        known[name] = value
        found[first] = value
    for same in columns.values():
        if len(same) > 1:
            first, things = next(iter(same.items()))
            short = {name: name.removeprefix(f"{first}_") for name in same}
            found[first] = {thing: {short[name]: same[name][thing] for name in same} for thing in things}
    return found


def _facts(values: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        table.add_row(f"[bold]{name}", _text(value))
    return table


def _tables(title: str, value: Any) -> list[Table]:
    """One table of rows, and one more for each column that is a dict itself; facts where there are no rows."""
    rows = value if isinstance(value, list) else _rows(value)
    inner = {name for row in rows for name, cell in row.items() if isinstance(cell, dict)}
    columns = [c for c in dict.fromkeys(name for row in rows for name in row) if c not in inner]
    if not rows or len(columns) > MAX_COLUMNS:
        table = _facts(value if isinstance(value, dict) else {str(row.get("", i)): row for i, row in enumerate(rows)})
        table.title, table.title_justify = title, "left"
        return [table]
    table = Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(row.get(c, "")) for c in columns))
    parts = [_tables(f"{title}: {name}", _part(rows, name)) for name in sorted(inner)]
    return [table, *(t for part in parts for t in part)]


def _part(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """A column of dicts as rows; turned on its side where it is wider than long."""
    part = {str(row.get("", i)): row[name] for i, row in enumerate(rows) if isinstance(row.get(name), dict)}
    keys = dict.fromkeys(key for cells in part.values() for key in cells)
    if len(keys) > len(part):
        return [{"": key, **{label: cells.get(key, "") for label, cells in part.items()}} for key in keys]
    return [{"": label, **cells} for label, cells in part.items()]


def _rows(value: dict[str, Any]) -> list[dict[str, Any]]:
    if not all(isinstance(v, dict) for v in value.values()):
        return []
    return [{"": name, **row} for name, row in value.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return _shorten([_text(v) for v in value])
    if isinstance(value, dict):
        return _shorten([f"{k} {_text(v)}" for k, v in value.items()])
    return str(value).replace("[", r"\[")


def _shorten(items: list[str], limit: int = 12) -> str:
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
