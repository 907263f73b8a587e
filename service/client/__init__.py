"""The client: a server's verbs on arrays, pictures, files and recordings, with or without an event loop."""

from __future__ import annotations

from .asynchronous import AsyncClient
from .jobs import AsyncRemoteJob
from .synchronous import Client, RemoteJob
from .values import Decoded, FeatureSpace, JobStatus, ModelDescription, ModelInfo, StoredData

__all__ = [
    "AsyncClient",
    "AsyncRemoteJob",
    "Client",
    "Decoded",
    "FeatureSpace",
    "JobStatus",
    "ModelDescription",
    "ModelInfo",
    "RemoteJob",
    "StoredData",
]
