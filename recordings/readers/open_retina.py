"""open-retina's generic HDF5 layout: one file a session, stimuli in a folder beside it.

Never tried on real files.

Layout: ``<session>.h5`` with ``responses_<name>`` (neuron, frame), or (trial, neuron, frame) where single trials are
kept, one a stimulus; perhaps ``stimulus_<name>`` (channel, frame, H, W); and a group ``session_info`` whose arrays of
one value a neuron become coordinates, its single values ``attrs``. Otherwise the stimuli are ``stimuli/<name>.npy``
beside the file.

Stimuli differ in length: bins after the end of one are NaN. One channel becomes grey, two (green and ultraviolet on
mouse screens) become green and blue, and each clip is scaled linearly, its minimum to 0 and its maximum to 255.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ..errors import FormatError, NotFiniteError, ShapeError
from ..stimuli import Stimuli
from .files import need, open_array, open_hdf5
from .registry import Contents, Options, Reader

_RESPONSES, _STIMULUS = "responses_", "stimulus_"


class OpenRetinaOptions(Options):
    """Options of the format open_retina."""

    frame_rate: float = 30.0
    """Frames a second."""
    test_names: tuple[str, ...] = ()
    """Stimuli that were held out; they get the value test in the coordinate split, all others train."""


def read_open_retina(source: Path, options: OpenRetinaOptions) -> Contents:
    """Responses of one session, (presentation, time, neuroid); see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : not such a file, or cut. ShapeError : stimuli with different numbers of neurons,
    or another number of frames than their responses.
    """
    with open_hdf5(need(source)) as file:
        shapes = _shapes(file)
        coordinates, attrs = _session_info(file, next(iter(shapes.values()))[1])
        clips = {name: _clip(file, source, name, shape[2]) for name, shape in shapes.items()}
    rows = [(name, trial) for name, shape in shapes.items() for trial in range(shape[0])]
    table = pd.DataFrame(rows, columns=["stimulus_id", "repetition"])
    table["split"] = np.where(table["stimulus_id"].isin(options.test_names), "test", "train")
    longest = max(shape[2] for shape in shapes.values())
    return Contents(
        presentations=table,
        neuroids=coordinates,
        blocks=_blocks(source, shapes, longest),
        time=np.arange(longest) / options.frame_rate,
        attrs={**attrs, "session": source.stem},
        stimuli=_stimuli(clips),
        allow_nan=True,
    )


def _shapes(file: h5py.File) -> dict[str, tuple[int, int, int]]:
    # (trial, neuron, frame) of each stimulus.
    shapes = {}
    for key in sorted(k for k in file if k.startswith(_RESPONSES)):
        shape = file[key].shape
        if len(shape) not in (2, 3):
            raise ShapeError(f"{key} of shape {shape}", where=file.filename, remedy="Expected (neuron, frame)")
        shapes[key.removeprefix(_RESPONSES)] = (shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1])
    if not shapes:
        raise FormatError("no responses_<name> in it", where=file.filename, remedy=f"There are: {', '.join(file)}")
    neurons = {shape[1] for shape in shapes.values()}
    if len(neurons) > 1:
        raise ShapeError(f"stimuli with {sorted(neurons)} neurons", where=file.filename)
    return shapes


def _session_info(file: h5py.File, n: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    table, attrs = pd.DataFrame({"neuroid_id": [f"n{i}" for i in range(n)]}), {}
    for name, node in file["session_info"].items() if "session_info" in file else ():
        values = node[()] if isinstance(node, h5py.Dataset) else None
        if values is None:
            continue
        if np.ndim(values) == 0:
            attrs[name] = values.decode() if isinstance(values, bytes) else np.asarray(values).item()
        elif np.shape(values) == (n,):
            texts = values.dtype.kind in "OS"
            table[name] = [v.decode() if isinstance(v, bytes) else str(v) for v in values] if texts else values
    return table, attrs


def _blocks(source: Path, shapes: dict[str, tuple[int, int, int]], longest: int) -> Iterator[np.ndarray]:
    with open_hdf5(source) as file:
        for name, (trials, neurons, frames) in shapes.items():
            responses = file[_RESPONSES + name]
            for trial in range(trials):
                values = np.asarray(responses[trial] if responses.ndim == 3 else responses[()], np.float32)
                bad = ~np.isfinite(values)
                if bad.any():
                    neuron, frame = np.argwhere(bad)[0]
                    raise NotFiniteError(f"{name}: neuron {neuron} has NaN in frame {frame}", where=source)
                block = np.full((1, longest, neurons), np.nan, np.float32)
                block[0, :frames] = values.T
                yield block


def _clip(file: h5py.File, source: Path, name: str, frames: int) -> tuple[Path, str | None] | None:
    beside = source.parent / "stimuli" / f"{name}.npy"
    place: tuple[Path, str | None] = (source, _STIMULUS + name) if _STIMULUS + name in file else (beside, None)
    if place[1] is None and not beside.exists():
        return None
    shape = open_array(beside, (4,)).shape if place[1] is None else file[place[1]].shape
    if len(shape) != 4 or shape[0] not in (1, 2, 3) or shape[1] != frames:
        raise ShapeError(
            f"stimulus {name!r} of shape {shape} for {frames} frames of responses",
            where=place[0],
            remedy="Expected (channel, frame, height, width)",
        )
    return place


class Clips:
    """Clips (channel, frame, H, W) in files, read one at a time as (frame, H, W, 3) uint8."""

    def __init__(self, places: list[tuple[Path, str | None]]):
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        path, name = self.places[index]
        if name is None:
            pixels = np.asarray(open_array(path, (4,)), np.float32)
        else:
            with open_hdf5(path) as file:
                pixels = np.asarray(file[name][()], np.float32)
        low, high = pixels.min(), pixels.max()
        if not np.isfinite([low, high]).all():
            raise NotFiniteError("a clip has NaN or infinite pixels", where=path)
        scaled = np.round((pixels - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
        return _rgb(np.moveaxis(scaled, 0, -1))


def _rgb(clip: np.ndarray) -> np.ndarray:
    if clip.shape[-1] == 1:
        return np.repeat(clip, 3, axis=-1)
    return clip if clip.shape[-1] == 3 else np.concatenate([np.zeros_like(clip[..., :1]), clip], axis=-1)


def _stimuli(clips: dict[str, tuple[Path, str | None] | None]) -> Stimuli | None:
    places = [place for place in clips.values() if place is not None]
    if len(places) != len(clips):
        return None
    return Stimuli(pd.DataFrame({"stimulus_id": list(clips), "index": range(len(clips))}), Clips(places))


OPEN_RETINA = Reader(
    "open_retina", read_open_retina, OpenRetinaOptions, "open-retina: one session's HDF5 file, stimuli beside it"
)
