"""Whole questions over all rooms: study files (`Study`, `run`), the demo, and the report."""

from __future__ import annotations

from .run import run
from .study import Study

__all__ = ["Study", "run"]
