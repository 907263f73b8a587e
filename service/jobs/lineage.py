"""Where a job's inputs come from, and under what terms its result stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.data import Terms, strictest
from service.verbs.publish import TERMS

if TYPE_CHECKING:
    from .store import JobStore


@dataclass(frozen=True)
class Lineage:
    """The strictest terms of all inputs.

    Attributes
    ----------
    sources : ids of the uploads behind them. latest : when the first of these expires, seconds since 1970; None
        without uploads.
    """

    terms: Terms
    sources: list[str]
    latest: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as they stand in the file of terms beside a result."""
        return {**self.terms.to_dict(), "sources": self.sources, "expires": self.latest}


def lineage_of(paths: Mapping[str, Path], owner: str, store: JobStore) -> Lineage:
    """Lineage of what references name; results and published models carry that of their own inputs.

    Raises
    ------
    ModelNotFoundError : data or a job that the caller does not have.
    """
    found = [_one(reference, path, owner, store) for reference, path in paths.items()]
    sources = sorted({source for part in found for source in part.sources})
    times = [part.latest for part in found if part.latest is not None]
    return Lineage(strictest(part.terms for part in found), sources, min(times, default=None))


def _one(reference: str, path: Path, owner: str, store: JobStore) -> Lineage:
    if reference.startswith("data:"):
        data = store.data.find(reference.partition("/")[0], owner)
        return Lineage(data.header.terms, [data.id], data.expires)
    if reference.startswith("job:"):
        path = store.place(reference.partition("/")[0].removeprefix("job:")) / "result"
    try:
        values = json.loads((path / TERMS).read_text())
    except FileNotFoundError:
        # A model that nobody published, but its keeper put there.
        return Lineage(Terms(), [], None)
    return Lineage(Terms.from_dict(values), values["sources"], values["expires"])
