"""The report: results on one self-contained page, readable on a telephone, in the dark and without seeing it."""

from __future__ import annotations

from .page import Headline, Section, write_report

__all__ = ["Headline", "Section", "write_report"]
