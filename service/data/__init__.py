"""Brain data and other inputs on the server: uploads, their terms, and their end."""

from __future__ import annotations

from .store import DataStore, Header, Kind, Stored
from .terms import Terms, strictest

__all__ = ["DataStore", "Header", "Kind", "Stored", "Terms", "strictest"]
