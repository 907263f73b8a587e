"""What a reader of a public format is, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from ..errors import InputError
from ..rdms import RDMs
from ..recording import Recording
from ..space import Space
from ..stimuli import Stimuli


class Options(BaseModel):
    """Options of a format; each reader adds fields of its own, with a description."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass
class Contents:
    """What a source holds, responses not yet read.

    Attributes
    ----------
    presentations, neuroids : tables as in `Recording`.
    blocks : float32 arrays (rows, [time,] neuroid), consecutive presentations; read while they are iterated over.
    space, time, rois, attrs : as in `Recording`.
    stimuli : what was shown, if the source holds it.
    allow_nan : NaN has a meaning in this format (bins after the end of a clip, say).
    """

    presentations: pd.DataFrame
    neuroids: pd.DataFrame
    blocks: Iterable[np.ndarray]
    space: Space = field(default_factory=Space)
    time: np.ndarray | None = None
    rois: list[str] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    stimuli: Stimuli | None = None
    allow_nan: bool = False


@dataclass(frozen=True)
class Reader:
    """A public format.

    Attributes
    ----------
    name : what `penfield import` calls it.
    read : maps a source and options to its `Contents`, or to a set of RDMs.
    options : pydantic model of the options that `read` takes.
    summary : one line: what the source is.
    tried_on_real_files : False where only files made in the published layout were read so far.
    """

    name: str
    read: Callable[[Path, Any], Contents | RDMs]
    options: type[Options]
    summary: str
    tried_on_real_files: bool = False


class Imported(NamedTuple):
    """What an import wrote, opened lazily, and the stimuli that the source holds, still in the source."""

    data: Recording | RDMs
    stimuli: Stimuli | None

    @property
    def recording(self) -> Recording:
        """The recording; `InputError` if the source is a set of RDMs."""
        if isinstance(self.data, RDMs):
            raise InputError("a set of RDMs is not a recording", remedy="Take `data` instead of `recording`")
        return self.data
