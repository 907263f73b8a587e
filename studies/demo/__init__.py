"""The demo: one command that runs the whole chain on the miniature world and says what came out."""

from __future__ import annotations

from .chain import run

__all__ = ["run"]
