"""Features: what a model computes from stimuli, in memory or in a store on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike

from recordings.errors import DuplicateIdError, MismatchedIdsError, NotFiniteError, ShapeError, UnknownNameError
from recordings.storage import atomic_path

from .store import LayerStore, open_store, read_attrs

# What tells one feature space from another; the rest of `attrs` is for the reader.
_SPACE = (
    "uri", "layer", "readout", "preprocessing", "weights", "n_frames", "compute_dtype", "reduction", "grid"
)  # fmt: skip


class Features:
    """Features (stimulus, feature), (stimulus, token, channel) or (stimulus, time, feature), matched by stimulus id.

    Build them with `from_arrays`, `load` or `encoders.extract`.

    Attributes
    ----------
    stimulus_ids : str (n,).
    attrs : uri, layer, readout, preprocessing, weights (their fingerprint), grid (rows, columns of tokens) and others.
    shape : of the values.
    """

    def __init__(self, values: np.ndarray | LayerStore, stimulus_ids: Sequence[str], attrs: dict[str, Any]):
        self._values = values
        self._positions = np.arange(len(stimulus_ids))
        self.stimulus_ids = np.asarray([str(i) for i in stimulus_ids], dtype=object)
        self.attrs = attrs

    @classmethod
    def from_arrays(cls, values: np.ndarray, stimulus_ids: Sequence[str], **attrs: Any) -> Features:
        """Features from an array of 2 or 3 dimensions, whose first is the stimulus.

        Raises
        ------
        ShapeError : another number of dimensions or of ids. DuplicateIdError : an id occurs twice.
        NotFiniteError : NaN or infinite values.
        """
        values = np.asarray(values, np.float32)
        if values.ndim not in (2, 3) or len(values) != len(stimulus_ids):
            raise ShapeError(
                f"features of shape {values.shape} for {len(stimulus_ids)} stimulus ids",
                remedy="Give (stimulus, feature), (stimulus, token, channel) or (stimulus, time, feature)",
            )
        twice = pd.Index([str(i) for i in stimulus_ids]).duplicated()
        if twice.any():
            raise DuplicateIdError(f"stimulus id {stimulus_ids[int(np.argmax(twice))]!r} occurs twice in the features")
        check_finite(values, stimulus_ids)
        return cls(values, stimulus_ids, attrs)

    @classmethod
    def load(cls, path: str | PathLike[str], layer: str | None = None) -> Features:
        """Features of a layer in a store; values are read when asked for. A store of one layer needs no name.

        Raises
        ------
        FormatError : not a feature store. UnknownNameError : no such layer, or several and none named.
        """
        path = Path(path)
        attrs = read_attrs(path)
        layers = layers_of(path)
        if layer is None and len(layers) == 1:
            layer = layers[0]
        if layer not in layers:
            what = "several layers and none was named" if layer is None else f"no layer {layer!r}"
            raise UnknownNameError(what, where=path, remedy=f"There are: {', '.join(layers) or 'none'}")
        store = LayerStore(path, layer)
        shared = {name: value for name, value in attrs.items() if name not in ("format_version", "kind")}
        features = cls(store, store.stimulus_ids, {**shared, **store.attrs, "layer": layer})
        holes = set(store.holes)
        readable = [i for row, i in enumerate(features.stimulus_ids) if row not in holes]
        return features.select(readable) if holes else features

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> Features:
        """Write a store of this layer alone; return what reads from there."""
        layer = str(self.attrs.get("layer", "features"))
        with atomic_path(path, overwrite=overwrite) as part:
            open_store(part, {"uri": self.attrs.get("uri", "")})
            store = LayerStore(part, layer)
            batch = max(1, min(256, len(self)))
            attrs = {name: value for name, value in self.attrs.items() if name not in ("uri", "layer")}
            store.create(self.read([0] if len(self) else []), len(self), batch, "float32", attrs)
            for chunk, start in enumerate(range(0, len(self), batch)):
                values = self.read(slice(start, start + batch))
                store.write(chunk, values, [hashlib.sha256(row.tobytes()).hexdigest() for row in values])
            store.finish(list(self.stimulus_ids))
        return Features.load(path, layer)

    def __len__(self) -> int:
        return len(self.stimulus_ids)

    def __repr__(self) -> str:
        return f"Features{self.shape} of {self.attrs.get('uri', 'arrays')}, layer {self.attrs.get('layer', '')}"

    @property
    def shape(self) -> tuple[int, ...]:
        values = self._values.array if isinstance(self._values, LayerStore) else self._values
        return (len(self), *values.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Of the values as they are stored."""
        values = self._values.array if isinstance(self._values, LayerStore) else self._values
        return np.dtype(values.dtype)

    @property
    def chunks(self) -> np.ndarray | None:
        """(n,) int: which chunk of the store holds each row; None where the values are in memory."""
        return self._positions // self._values.batch_size if isinstance(self._values, LayerStore) else None

    def read(self, rows: Any = slice(None), dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """Values of the given rows (slice, index or boolean array); `dtype` None leaves them as stored."""
        positions = np.atleast_1d(self._positions[np.asarray(rows, int) if isinstance(rows, list) else rows])
        if isinstance(self._values, LayerStore):
            return self._values.read(positions, dtype)
        return np.asarray(self._values[positions], dtype)

    def rows(self, stimulus_ids: Sequence[str]) -> np.ndarray:
        """Row of each stimulus id, int (n,); ids may repeat.

        Raises
        ------
        MismatchedIdsError : an id has no features.
        """
        wanted = [str(i) for i in stimulus_ids]
        rows = pd.Index(self.stimulus_ids).get_indexer(pd.Index(wanted))
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise MismatchedIdsError(
                f"no features for stimulus {wanted[missing[0]]!r} ({len(missing)} of {len(wanted)} are missing)",
                where=self._values.folder if isinstance(self._values, LayerStore) else None,
                remedy="Extract features of all stimuli that the recording shows",
            )
        return rows

    def select(self, stimulus_ids: Sequence[str]) -> Features:
        """The features of the given stimuli, in that order; values stay where they are."""
        rows = self.rows(stimulus_ids)
        chosen = Features(self._values, list(self.stimulus_ids[rows]), self.attrs)
        chosen._positions = self._positions[rows]
        return chosen

    def space(self) -> dict[str, Any]:
        """What defines the feature space: model, weights, layer, read-out, preprocessing, row shape."""
        return {name: self.attrs.get(name) for name in _SPACE} | {"shape": self.shape[1:]}

    def fingerprint(self) -> str:
        """SHA-256 of `space`; features of other stimuli from the same model have the same."""
        return hashlib.sha256(json.dumps(self.space(), sort_keys=True, default=str).encode()).hexdigest()


def layers_of(path: str | PathLike[str]) -> list[str]:
    """Names of the layers that a store holds whole; `FormatError` if there is no store."""
    path = Path(path)
    read_attrs(path)
    folders = sorted((path / "layers").iterdir(), key=lambda folder: _natural(folder.name))
    return [f.name for f in folders if f.is_dir() and LayerStore(path, f.name).stimulus_ids]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def check_finite(values: np.ndarray, stimulus_ids: Sequence[str], where: str | None = None) -> None:
    """Raise `NotFiniteError` that names the first stimulus with a NaN or infinite feature."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if bad.any():
        raise NotFiniteError(
            f"stimulus {stimulus_ids[int(np.argmax(bad))]!r} has a NaN or infinite feature ({bad.sum()} of {len(bad)})",
            where=where,
            remedy="Take float32 for storing and computing, or leave the stimulus out",
        )
