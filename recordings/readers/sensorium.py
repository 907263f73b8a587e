"""Sensorium 2022 (images) and 2023 (videos): two-photon responses of mouse visual cortex, one folder a recording.

Never tried on real files.

Layout, ``<trial>`` being 0, 1, 2, ...:

- ``data/images/<trial>.npy`` (channel, H, W) and ``data/responses/<trial>.npy`` (neuron,); or
  ``data/videos/<trial>.npy`` (H, W, frame) and responses (neuron, frame), padded with NaN where a clip is shorter;
- ``data/behavior/<trial>.npy`` and ``data/pupil_center/<trial>.npy``, which become the coordinates behavior_0, ...
  (means over frames);
- ``meta/trials/{tiers,frame_image_id}.npy``: tiers (train, validation, test, ...) become the coordinate split;
- ``meta/neurons/{unit_ids,area,layer,cell_motor_coordinates}.npy``; x, y and z are micrometres of the microscope.

Trials without a response file, as in the held-back tiers, are left out and counted in ``attrs``. Images keep their ids;
videos have none, and equal videos are given one id by their content. Frames are shown at `frame_rate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import FormatError, NotFiniteError, ShapeError
from ..stimuli import Stimuli
from .files import need, open_array
from .registry import Contents, Options, Reader


class SensoriumOptions(Options):
    """Options of the format sensorium."""

    tiers: tuple[str, ...] = ()
    """Tiers to read; by default all that have responses."""
    frame_rate: float = 30.0
    """Frames a second of videos."""


def read_sensorium(source: Path, options: SensoriumOptions) -> Contents:
    """Trials of one recording; see the module for the layout.

    Raises
    ------
    FormatError, TruncatedFileError : a file is missing, broken or cut. ShapeError : a trial has other neurons or
    frames. NotFiniteError : NaN that is no padding.
    """
    kind = "videos" if (need(source) / "data" / "videos").is_dir() else "images"
    tiers = _text(source / "meta" / "trials" / "tiers.npy")
    wanted = np.isin(tiers, options.tiers) if options.tiers else np.ones(len(tiers), bool)
    responses = source / "data" / "responses"
    trials = [int(i) for i in np.flatnonzero(wanted) if (responses / f"{i}.npy").exists()]
    if not trials:
        raise FormatError("no trial with responses in these tiers", where=responses, remedy=f"Tiers: {set(tiers)}")
    first = open_array(responses / f"{trials[0]}.npy", (1, 2))
    neuroids = _neurons(source / "meta" / "neurons", len(first))
    files = [source / "data" / kind / f"{i}.npy" for i in trials]
    ids = _video_ids(files) if kind == "videos" else _image_ids(source, trials)
    table = pd.DataFrame({"stimulus_id": ids, "trial": trials, "split": tiers[trials]})
    for name in ("behavior", "pupil_center"):
        _add_covariate(table, source / "data" / name, name)
    return Contents(
        presentations=table,
        neuroids=neuroids,
        blocks=_blocks([responses / f"{i}.npy" for i in trials], first.shape),
        time=np.arange(first.shape[1]) / options.frame_rate if first.ndim == 2 else None,
        attrs={"trials_without_responses": int(wanted.sum()) - len(trials), "subject": source.name},
        stimuli=_stimuli(ids, files),
        allow_nan=first.ndim == 2,
    )


def _text(path: Path) -> np.ndarray:
    try:
        return np.load(need(path), allow_pickle=False).astype(str)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"not an array of text ({error})", where=path) from error


def _image_ids(source: Path, trials: list[int]) -> list[str]:
    ids = open_array(source / "meta" / "trials" / "frame_image_id.npy", (1,))
    return [str(int(ids[i])) for i in trials]


def _video_ids(files: list[Path]) -> list[str]:
    return [f"video-{hashlib.sha256(need(f).read_bytes()).hexdigest()[:12]}" for f in files]


def _neurons(folder: Path, n: int) -> pd.DataFrame:
    units = open_array(folder / "unit_ids.npy", (1,))
    if len(units) != n:
        raise ShapeError(f"{len(units)} units, the responses have {n}", where=folder / "unit_ids.npy")
    table = pd.DataFrame({"neuroid_id": [f"unit{int(u)}" for u in units]})
    for name, column in (("area", "roi"), ("layer", "layer")):
        if (folder / f"{name}.npy").exists():
            table[column] = _text(folder / f"{name}.npy")
    place = folder / "cell_motor_coordinates.npy"
    if place.exists():
        xyz = open_array(place, (2,))
        if xyz.shape != (n, 3):
            raise ShapeError(f"coordinates of shape {xyz.shape} for {n} neurons", where=place)
        table[["x", "y", "z"]] = np.asarray(xyz, float)
    return table


def _add_covariate(table: pd.DataFrame, folder: Path, name: str) -> None:
    if not folder.is_dir():
        return
    means = [np.nanmean(np.asarray(v).reshape(len(v), -1), axis=1) for v in _each(folder, table["trial"])]
    if len({len(m) for m in means}) > 1:
        raise ShapeError("trials with different numbers of variables", where=folder)
    for k, column in enumerate(np.stack(means).T):
        table[f"{name}_{k}"] = column


def _each(folder: Path, trials: pd.Series) -> Iterator[np.ndarray]:
    return (open_array(folder / f"{i}.npy", (1, 2)) for i in trials)


def _blocks(files: list[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    step = max(1, min(512, 2**25 // int(np.prod(shape))))
    for start in range(0, len(files), step):
        yield np.stack([_trial(path, shape) for path in files[start : start + step]])


def _trial(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    values = open_array(path, (len(shape),))
    if values.shape != shape:
        raise ShapeError(f"responses of shape {values.shape}, other trials have {shape}", where=path)
    values = np.asarray(values, np.float32)
    bad = ~np.isfinite(values)
    # NaN is padding only where it reaches to the end, for all neurons alike.
    ended = np.logical_and.accumulate(bad.all(0)[::-1])[::-1] if values.ndim == 2 else np.zeros(1, bool)
    if (bad & ~ended).any() if values.ndim == 2 else bad.any():
        raise NotFiniteError(f"neuron {int(np.argwhere(bad)[0][0])} has NaN within the trial", where=path)
    return values.T if values.ndim == 2 else values


class TrialFiles:
    """Images (channel, H, W) or videos (H, W, frame) of trials, read one at a time as uint8 RGB."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.files[index]
        pixels = np.asarray(open_array(path, (2, 3)), np.float32)
        if path.parent.name == "videos":
            pixels = pixels[..., np.isfinite(pixels).all((0, 1))]
            pixels = np.moveaxis(pixels, -1, 0)[..., None]
        else:
            pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels[..., None]
        if not (pixels.min() >= 0 and pixels.max() <= 255):
            raise FormatError("pixels outside of 0 to 255", where=path)
        pixels = np.round(pixels).astype(np.uint8)
        return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3]


def _stimuli(ids: list[str], files: list[Path]) -> Stimuli | None:
    first = dict(zip(reversed(ids), reversed(files), strict=True))
    shown = list(dict.fromkeys(ids))
    if not all(first[i].exists() for i in shown):
        return None
    return Stimuli(
        pd.DataFrame({"stimulus_id": shown, "index": range(len(shown))}), TrialFiles([first[i] for i in shown])
    )


SENSORIUM = Reader("sensorium", read_sensorium, SensoriumOptions, "Sensorium 2022 or 2023: one recording's folder")
