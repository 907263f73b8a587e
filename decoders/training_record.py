"""What a decoder was fitted on, kept with it, and what it may therefore be asked: its space, and unseen stimuli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from encoders import Features
from recordings import Recording
from recordings.artifacts import recording_fields, restored_fields
from recordings.errors import ArtifactError, LeakageError

RECORD = ("feature_fingerprint", "features", "feature_shape", "stimulus_ids")


def training_record(recording: Recording, features: Features, stimulus_ids: Iterable[str]) -> dict[str, Any]:
    """JSON values: neuroids, and by the names of `RECORD` feature space and the stimuli that were fitted."""
    return {
        **recording_fields(recording),
        "feature_fingerprint": features.fingerprint(),
        "features": {name: str(value) for name, value in features.attrs.items() if value is not None},
        "feature_shape": list(features.shape[1:]),
        "stimulus_ids": sorted(stimulus_ids),
    }


def restored_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `training_record` gave, from a saved configuration that holds it among other values."""
    return restored_fields(config) | {name: config[name] for name in RECORD}


def check_features(record: Mapping[str, Any], features: Features) -> None:
    """Raise `ArtifactError` for features of another model, weights, layer or read-out than in the fit."""
    if features.fingerprint() == record["feature_fingerprint"]:
        return
    names = ("uri", "layer", "readout")
    fitted, given = (", ".join(f"{k} {a.get(k, '-')}" for k in names) for a in (record["features"], features.attrs))
    raise ArtifactError(
        f"features of another space ({given}, shape {features.shape[1:]}) than in the fit ({fitted}, "
        f"shape {tuple(record['feature_shape'])})",
        remedy="Give features of the same model, weights, layer and read-out",
    )


def check_unseen(record: Mapping[str, Any], recording: Recording) -> None:
    """Raise `LeakageError` for presentations of a stimulus that was in the fit."""
    seen = set(record["stimulus_ids"]).intersection(map(str, recording.stimulus_ids))
    if seen:
        raise LeakageError(
            f"stimulus {min(seen)!r} was in the fit ({len(seen)} in all)",
            where="recording",
            remedy="Identify stimuli held out by split_by_stimulus",
        )


def add_stimuli(record: Mapping[str, Any], recording: Recording) -> dict[str, Any]:
    """The record once the stimuli of a recording were fitted too."""
    return {**record, "stimulus_ids": sorted({*record["stimulus_ids"], *map(str, recording.stimulus_ids)})}
