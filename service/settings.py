"""Everything a server can be told, from one TOML file and the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recordings.errors import FormatError

from .security.exposure import is_loopback

PREFIX = "PENFIELD_SERVE_"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class ServerSettings(BaseModel):
    """Settings of a server.

    `load` reads them from a TOML file of the same names and from the environment, where ``PENFIELD_SERVE_PORT`` is
    `port`; the environment goes before the file, and what the caller gives before both.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    models: Path
    """Folder of the models."""
    data: Path | None = None
    """Folder for uploads and jobs; without it there are neither."""
    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; others than loopback need TLS and tokens."""
    port: Port = 50051
    """Port; 0 for any that is free."""

    tls_certificate: Path | None = None
    """Certificate chain, PEM. Read again when it changes."""
    tls_key: Path | None = None
    """Its private key, PEM."""
    tls_client_ca: Path | None = None
    """Authorities of client certificates, PEM: mutual TLS."""
    tokens: Path | None = None
    """File of tokens, TOML. Read again when it changes."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    on: Literal["local", "ray"] = "local"
    """Where models run: in this process, or on Ray Serve."""
    replicas: Count = 1
    """On Ray: workers a model."""
    max_replicas: Count | None = None
    """On Ray: workers a model that it may have under load; as many as `replicas` by default."""
    memory_budget_gb: Seconds | None = None
    """GiB for models in memory, in this process; by default most of it."""
    warm_up: tuple[str, ...] = ()
    """Models to load at the start, as NAME or NAME@VERSION."""
    batch_size: Count = 16
    """Most rows that are computed together."""
    batch_wait_ms: float = Field(5, ge=0, le=1000)
    """Longest wait for a batch to fill, while others are in flight; a lone request never waits."""
    queue_size: Count = 64
    """Most requests that wait for one model."""
    max_decode_seconds: Seconds = 3600
    """Longest that one request to a decoder may be estimated to take; beyond it is refused before it starts."""
    max_decode_gib: Seconds = 8
    """Most memory, beside the model's own, that it may be estimated to take."""
    threads: Count = 4
    """Threads that read and write pictures."""

    max_receive_mib: Count = Field(16, le=2047)
    """Largest message that is taken, MiB."""
    max_send_mib: Count = Field(64, le=2047)
    """Largest message that is sent, MiB."""
    max_pixels: Count = 4096**2
    """Most pixels of a picture or of a frame of a clip."""
    max_frames: Count = 512
    """Most frames of a clip."""
    max_connections: Count = 512
    """Most connections at once; a process has file descriptors for 1024 on many machines."""
    max_rpcs: Count = 256
    """Most calls at once."""
    client_rpcs: Count = 64
    """Most calls at once of one client."""
    client_rate: Seconds | None = None
    """Calls a second of one client, on average; no limit by default."""
    deadline: Seconds = 30
    """Seconds for a call whose client sets no deadline."""
    max_deadline: Seconds = 300
    """Most seconds that a client can ask for."""
    stream_deadline: Seconds = 3600
    """Most seconds for a call that streams."""
    handshake_timeout: Seconds = 10
    """Seconds for a client to finish its connection."""
    max_connection_age: Seconds = 3600
    """Seconds after which a client is asked to connect anew."""

    retention_days: Seconds = 30
    """Longest time that uploads and results stay."""
    upload_max_gib: Seconds = 2
    """Largest upload."""
    quota_gib: Seconds = 20
    """Most that one client's uploads take together."""
    job_slots: Count = 1
    """Jobs, and scores, at work at once."""

    health: bool = True
    """Answer grpc.health.v1."""
    reflection: bool = True
    """Answer server reflection."""
    drain_pause: float = Field(1.5, ge=0)
    """Seconds between saying that no more calls are wanted and refusing them, so that load balancers hear of it."""
    grace: float = Field(20, ge=0)
    """Seconds for calls in flight to end when the server stops."""

    metrics_port: Port | None = None
    """Port of Prometheus metrics, on loopback; 0 for any."""
    playground_port: Port | None = None
    """Port of the playground, a web page to try models by hand, on loopback; 0 for any."""
    log_format: Literal["text", "json"] = "text"
    """How log lines look."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged."""
    audit_log: Path | None = None
    """File to which every call is noted, without its content."""
    traces: str | None = None
    """OTLP endpoint of OpenTelemetry traces, such as http://127.0.0.1:4317."""

    @model_validator(mode="after")
    def _fits(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.deadline > self.max_deadline:
            raise ValueError("deadline is longer than max_deadline")
        if self.on == "ray" and self.memory_budget_gb is not None:
            raise ValueError("memory_budget_gb is of models in this process, and they run on Ray")
        if self.on == "local" and (self.replicas > 1 or self.max_replicas is not None):
            raise ValueError("replicas are of models on Ray; set on = 'ray'")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("max_replicas is smaller than replicas")
        guarded = [name for name in ("tokens", "tls_client_ca", "audit_log") if getattr(self, name) is not None]
        if self.playground_port is not None and guarded:
            raise ValueError(
                f"the playground lets in everybody on this machine, past {' and '.join(guarded)}: leave out "
                "playground_port, or start a second server for it"
            )
        missing = [name for name in ("tls_certificate", "tls_key", "tokens") if getattr(self, name) is None]
        if missing and not is_loopback(self.host):
            raise ValueError(
                f"{self.host} can be reached from elsewhere: set {', '.join(missing)} too, or listen on 127.0.0.1"
            )
        return self

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | None = None, *, environment: Mapping[str, str] = os.environ, **given: Any
    ) -> ServerSettings:
        """Settings of a file, the environment and the caller, the later ones first.

        Relative paths in the file are relative to the file; all others to the working directory.

        Parameters
        ----------
        path : TOML file; None for none.
        environment : where variables PENFIELD_SERVE_NAME are looked up; tuples are separated by commas.
        given : settings by name; None means not given.

        Raises
        ------
        FormatError : not TOML, an unknown name, or a value that does not fit; names the file or variable.
        """
        values, places = ({}, {}) if path is None else _from_file(Path(path))
        for name, value in environment.items():
            if name.startswith(PREFIX):
                key = name.removeprefix(PREFIX).lower()
                values[key] = [v for v in value.split(",") if v] if key == "warm_up" else value
                places[key] = name
        for key, value in given.items():
            if value is not None:
                values[key] = value
                places[key] = key
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            what = first["msg"].removeprefix("Value error, ")
            remedy = f"Give it in a settings file, as {PREFIX}{key.upper()}, or on the command line" if key else None
            raise FormatError(what, where=places.get(key, key or path or "settings"), remedy=remedy) from error


def _from_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"not a readable TOML file ({error})", where=path) from error
    folder = path.resolve().parent
    for key, field in ServerSettings.model_fields.items():
        if "Path" in str(field.annotation) and isinstance(values.get(key), str):
            values[key] = folder / values[key]
    return values, {key: f"{path}: {key}" for key in values}
