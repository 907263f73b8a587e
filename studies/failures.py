"""Stimuli that cannot be read: left out of a study that allows it, and named with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encoders import FeatureExtractor, Features, extract, layers_of
from encoders.features.store import part_of
from recordings import Stimuli
from recordings.errors import CorruptImageError, FormatError, ImageTooLargeError


def extract_readable(extractor: FeatureExtractor, stimuli: Stimuli, path: Path, **how: Any) -> dict[str, Features]:
    """As `encoders.extract`, of the stimuli that can be read.

    Raises
    ------
    CorruptImageError, ImageTooLargeError : not one can be read.
    """
    try:
        return extract(extractor, stimuli, path, **how)
    except (CorruptImageError, ImageTooLargeError):
        readable = _readable(path, stimuli.ids)
        if not readable:
            raise
        # All of them are in the store by now: this gives it its name.
        return extract(extractor, stimuli.select(readable), path, **how)


def _readable(path: Path, ids: Sequence[str]) -> list[str]:
    work = path if path.exists() else part_of(path)
    try:
        held = [set(Features.load(work, layer).stimulus_ids) for layer in layers_of(work)]
    except FormatError:
        return []
    return [i for i in ids if held and all(i in layer for layer in held)]


def failures_of(
    stimulus_ids: Sequence[str], features: Mapping[str, Mapping[str, Features]], stimuli: Stimuli | None
) -> dict[str, str]:
    """Why a stimulus lacks features, by stimulus id; none for those that lack none.

    Parameters
    ----------
    features : by the names of feature set and layer. stimuli : what was shown, if it is known.
    """
    found: dict[str, str] = {}
    for name, layers in features.items():
        for layer in layers.values():
            held = set(layer.stimulus_ids)
            for stimulus_id in stimulus_ids:
                if stimulus_id not in held and stimulus_id not in found:
                    found[stimulus_id] = _unreadable(stimulus_id, stimuli) or f"it has no features in {name!r}"
    return found


def _unreadable(stimulus_id: str, stimuli: Stimuli | None) -> str | None:
    if stimuli is None or not stimuli.has_pixels:
        return None
    try:
        next(iter(stimuli.select([stimulus_id])))
    except (CorruptImageError, ImageTooLargeError) as error:
        return str(error)
    return None
