"""What a model takes and gives, as `ModelDescription` of the protocol has it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recordings.artifacts import ROI
from recordings.coordinates import memberships
from recordings.errors import ShapeError, UnknownNameError

from ..errors import WrongUnitsError
from ..items import DecodeItem
from ..repository import ModelEntry

CARD = "README.md"
CARD_BYTES = 64 * 2**10
_LICENSE = re.compile(r"^license:\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Units:
    """Units that a model predicts or reads: their names in order, their space as JSON, and a hash of both.

    Attributes
    ----------
    rois : regions of each unit, as a recording has them; empty where the model remembers none.
    """

    unit_ids: tuple[str, ...]
    space_json: str
    fingerprint: str
    rois: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Units:
        """From what `recordings.artifacts.recording_fields` remembers."""
        rois = tuple(fields.get(ROI, ()))
        return cls(tuple(fields["neuroid_ids"]), json.dumps(fields["space"]), fields["neuroid_fingerprint"], rois)

    def members(self) -> dict[str, np.ndarray]:
        """Units of each region, bool (unit,)."""
        return memberships(pd.Series(self.rois)) if self.rois else {}

    def sizes(self) -> dict[str, int]:
        """Number of units of each region."""
        return {name: int(mask.sum()) for name, mask in self.members().items()}

    def columns(self, rois: Sequence[str]) -> np.ndarray:
        """Numbers of the units of some regions, in order, all for none; `UnknownNameError` for another region."""
        if not rois:
            return np.arange(len(self.unit_ids))
        members = self.members()
        for name in rois:
            if name not in members:
                known = ", ".join(members) or "none, since the model was saved without regions"
                raise UnknownNameError(f"no region {name!r}", where="rois", remedy=f"There are: {known}")
        return np.flatnonzero(np.any([members[name] for name in rois], axis=0))


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space that an encoder reads.

    Attributes
    ----------
    name : under which features are given; "" for a model of one space.
    uri, layer, readout : how the features are computed from pictures; "" where this is not known.
    shape : of one stimulus' features. fingerprint : of the space.
    reason : why the server cannot compute them from pictures; "" if it can.
    """

    name: str
    uri: str
    layer: str
    readout: str
    shape: tuple[int, ...]
    fingerprint: str
    reason: str = ""


@dataclass(frozen=True)
class DecodedTarget:
    """A target that a decoder gives, and the shape of one row of it."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What a model takes and gives.

    Attributes
    ----------
    memory_bytes : of its weights and networks. features : of an encoder. targets, presets : of a decoder.
    rois : number of units by region, as far as the model knows regions.
    delays : of an encoder of time series, in rows; every request is then one run of its own.
    card : Markdown. license : as the card names it, "" if it does not.
    """

    entry: ModelEntry
    units: Units
    memory_bytes: int
    features: tuple[FeatureSpace, ...] = ()
    targets: tuple[DecodedTarget, ...] = ()
    presets: tuple[str, ...] = ()
    rois: Mapping[str, int] = field(default_factory=dict)
    card: str = ""
    license: str = ""
    delays: tuple[int, ...] = ()

    @property
    def modified(self) -> float:
        """Seconds since 1970 when its files were last changed."""
        return self.entry.modified


def read_card(folder: Path) -> tuple[str, str]:
    """The model card and the licence that its head names, "" for what is not there."""
    try:
        with (folder / CARD).open(encoding="utf-8", errors="replace") as file:
            card = file.read(CARD_BYTES)
    except OSError:
        return "", ""
    found = _LICENSE.search(card.partition("\n---")[0]) if card.startswith("---") else None
    return card, found[1] if found else ""


def check_units(units: Units, item: DecodeItem) -> None:
    """Raise `WrongUnitsError` or `ShapeError` for responses of other units."""
    if item.units_fingerprint and item.units_fingerprint != units.fingerprint:
        raise WrongUnitsError(
            "responses of other units, another order or another space than the model's",
            where="units_fingerprint",
            remedy="Use the recording of the same subject and the same mask",
        )
    if item.responses.shape[1] != len(units.unit_ids):
        raise ShapeError(
            f"{item.responses.shape[1]} units, the model reads {len(units.unit_ids)}",
            where="responses",
            remedy="DescribeModel names them in order",
        )
