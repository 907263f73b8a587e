"""One decoder for many subjects: a linear input layer each, and a network that they share."""

from __future__ import annotations

from .decoder import SharedSpaceDecoder
from .inputs import SubjectInput
from .network import SharedSpaceNetwork

__all__ = ["SharedSpaceDecoder", "SharedSpaceNetwork", "SubjectInput"]
