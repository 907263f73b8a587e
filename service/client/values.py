"""What a server answers, as plain values: models, data, jobs, and what was decoded."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from google.protobuf import json_format

from ..generated.penfield.v1 import data_pb2, decoding_pb2, job_pb2, media_pb2, model_pb2
from ..media import Limits, read_image
from ..status import error_of
from ..tensors import to_array
from .connection import enum_name

# What the server sends was asked for; it is held to what a decoder of pictures can hold.
LIMITS = Limits(max_bytes=2**30)


@dataclass(frozen=True)
class ModelInfo:
    """A model in one version.

    Attributes
    ----------
    kind : class of the artifact. state : "unloaded", "loading", "ready" or "failed", which `reason` explains.
    fingerprint : SHA-256 of its files. memory_bytes : in memory, or of its files. verbs : "encode", "decode".
    """

    name: str
    version: str
    kind: str
    state: str
    reason: str
    fingerprint: str
    memory_bytes: int
    verbs: tuple[str, ...]

    @property
    def reference(self) -> str:
        """How jobs name it: "model:NAME@VERSION"."""
        return f"model:{self.name}@{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return _plain(self)

    @classmethod
    def of(cls, message: model_pb2.Model) -> ModelInfo:
        """From its message."""
        return cls(
            message.reference.name,
            message.reference.version,
            message.kind,
            enum_name(model_pb2.ModelState, message.state, "MODEL_STATE_"),
            message.reason,
            message.fingerprint,
            message.memory_bytes,
            tuple(message.verbs),
        )


@dataclass(frozen=True)
class FeatureSpace:
    """A feature space that an encoder reads; `shape` is that of one stimulus."""

    name: str
    uri: str
    layer: str
    readout: str
    shape: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True)
class ModelDescription:
    """What a model takes and gives.

    Attributes
    ----------
    unit_ids : names of its units, in order. space : where they live, as `recordings.Space.to_dict` gives it.
    units_fingerprint : `Recording.fingerprint` of a recording that fits it.
    features : of an encoder. targets : of a decoder, shape of one row's values by name. presets : they suffice for.
    rois : number of units by region. card : Markdown. delays : of an encoder of time series, in rows.
    """

    model: ModelInfo
    unit_ids: tuple[str, ...]
    space: Mapping[str, Any]
    units_fingerprint: str
    features: tuple[FeatureSpace, ...]
    targets: Mapping[str, tuple[int, ...]]
    presets: tuple[str, ...]
    rois: Mapping[str, int]
    card: str
    license: str
    modified: datetime
    delays: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return _plain(self)

    @classmethod
    def of(cls, message: model_pb2.ModelDescription) -> ModelDescription:
        """From its message."""
        spaces = (
            FeatureSpace(f.name, f.uri, f.layer, f.readout, tuple(f.shape), f.fingerprint) for f in message.features
        )
        return cls(
            ModelInfo.of(message.model),
            tuple(message.units.unit_ids),
            json.loads(message.units.space_json or "{}"),
            message.units.fingerprint,
            tuple(spaces),
            {target.name: tuple(target.shape) for target in message.targets},
            tuple(message.presets),
            dict(message.rois),
            message.card,
            message.license,
            message.modified.ToDatetime(UTC),
            tuple(message.delays),
        )


@dataclass(frozen=True, eq=False)
class Decoded:
    """What was decoded of one row; what was not asked for is None.

    Attributes
    ----------
    images : uint8 (sample, height, width, 3). depth : float32 (height, width), larger is nearer.
    shape : `trimesh.Trimesh`. targets : float32 by name. failure : why there is nothing else.
    settings : how pictures were drawn.
    """

    stimulus_id: str
    caption: str | None = None
    images: np.ndarray | None = None
    depth: np.ndarray | None = None
    shape: Any = None
    targets: Mapping[str, np.ndarray] | None = None
    failure: Exception | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, message: decoding_pb2.DecodeResult, outputs: frozenset[str]) -> Decoded:
        """From its message and what was asked for; takes apart PNG files, so call it in a thread."""
        name = message.stimulus_id
        if message.HasField("failure"):
            return cls(name, failure=error_of(message.failure))
        depth = to_array(message.depth, name="depth", ndim=2).copy() if message.HasField("depth") else None
        targets = {t.name: to_array(t.tensor, name=t.name).copy() for t in message.targets}
        return cls(
            name,
            message.caption if "caption" in outputs else None,
            np.stack([pixels_of(image) for image in message.images]) if message.images else None,
            depth,
            _mesh(message.shape.glb) if message.HasField("shape") else None,
            targets if "targets" in outputs else None,
        )


@dataclass(frozen=True)
class StoredData:
    """Data on the server; where the command line takes a path, jobs take the `id`.

    Attributes
    ----------
    kind : "recording", "stimuli", "features", "rdms" or "file". size : bytes. retention : that was asked for.
    expires : when it will be deleted.
    """

    id: str
    name: str
    kind: str
    size: int
    sha256: str
    consent: str
    license: str
    retention: timedelta | None
    created: datetime
    expires: datetime

    def to_dict(self) -> dict[str, Any]:
        """JSON values; times as ISO 8601, retention in seconds."""
        return _plain(self)

    @classmethod
    def of(cls, message: data_pb2.StoredData) -> StoredData:
        """From its message."""
        return cls(
            message.id,
            message.name,
            enum_name(data_pb2.DataKind, message.kind, "DATA_KIND_"),
            message.size,
            message.sha256,
            *_terms(message.terms),
            message.created.ToDatetime(UTC),
            message.expires.ToDatetime(UTC),
        )


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands, or stood.

    Attributes
    ----------
    state : "queued", "running", "paused", "succeeded", "failed" or "cancelled". failure : why it failed.
    stage, done, total : how far it is. attempts : starts so far.
    consent, license, retention : the strictest terms of what it read. expires : when its result will be deleted.
    """

    id: str
    verb: str
    arguments: Mapping[str, Any]
    state: str
    failure: Exception | None
    stage: str
    done: int
    total: int
    attempts: int
    created: datetime
    ended: datetime | None
    expires: datetime | None
    consent: str
    license: str
    retention: timedelta | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("succeeded", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; times as ISO 8601, retention in seconds, the failure as its text."""
        return _plain(self)

    @classmethod
    def of(cls, message: job_pb2.Job) -> JobStatus:
        """From its message."""
        return cls(
            message.id,
            message.request.verb,
            json_format.MessageToDict(message.request.arguments),
            enum_name(job_pb2.JobState, message.state, "JOB_STATE_"),
            error_of(message.failure) if message.HasField("failure") else None,
            message.progress.stage,
            message.progress.done,
            message.progress.total,
            message.attempts,
            message.created.ToDatetime(UTC),
            message.ended.ToDatetime(UTC) if message.HasField("ended") else None,
            message.expires.ToDatetime(UTC) if message.HasField("expires") else None,
            *_terms(message.terms),
        )


def pixels_of(image: media_pb2.Image) -> np.ndarray:
    """Pixels of a picture that the server sent, uint8 (height, width, 3)."""
    return read_image(image, LIMITS)


def _terms(message: data_pb2.DataTerms) -> tuple[str, str, timedelta | None]:
    retention = message.retention.ToTimedelta() if message.HasField("retention") else None
    return message.consent, message.license, retention


def _mesh(glb: bytes) -> Any:
    import trimesh

    return trimesh.load_mesh(io.BytesIO(glb), file_type="glb")


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value) if isinstance(value, Exception) else value
