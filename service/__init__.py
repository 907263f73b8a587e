"""Penfield over gRPC: models that encode, decode and score for many clients, and jobs that outlive their callers.

`Server` answers from a folder of models, as `ServerSettings` say; `ModelRepository` finds them by name and version.
`Client` and `AsyncClient` call it with arrays, pictures and recordings, and need neither torch nor the other rooms'
libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AsyncClient, Client
    from .repository import ModelRepository
    from .server import Server
    from .settings import ServerSettings

# A client machine has no use for what a server imports.
_LAZY = {
    "AsyncClient": "client",
    "Client": "client",
    "ModelRepository": "repository",
    "Server": "server",
    "ServerSettings": "settings",
}

__all__ = ["AsyncClient", "Client", "ModelRepository", "Server", "ServerSettings"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
