"""Extractor URIs: ``[untrained:]LIBRARY:NAME[@REVISION][#text]``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from recordings.errors import UnknownNameError

LIBRARIES = ("timm", "open_clip", "transformers", "miniature", "python", "baseline")


class ExtractorURI(NamedTuple):
    """A model by library and name; `text` asks for the text tower of a model that has two."""

    library: str
    name: str
    revision: str | None = None
    text: bool = False
    untrained: bool = False

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{'untrained:' * self.untrained}{self.library}:{self.name}{revision}{'#text' * self.text}"

    @property
    def trained(self) -> ExtractorURI:
        """The same model with its weights."""
        return self._replace(untrained=False)


def parse_uri(uri: str) -> ExtractorURI:
    """Take a URI apart.

    Raises
    ------
    UnknownNameError : no such library, or no name.
    """
    untrained = uri.startswith("untrained:")
    library, _, rest = uri.removeprefix("untrained:").partition(":")
    rest, _, fragment = rest.partition("#")
    name, _, revision = rest.partition("@")
    if library == "diffusers":
        raise UnknownNameError(
            f"{uri!r} names an image generator, which computes no features",
            remedy="Load it with decoders.pictures.Generator; features come from models of "
            f"{', '.join(LIBRARIES)}, for example miniature:backbone",
        )
    if library not in LIBRARIES or not name or fragment not in ("", "text"):
        raise UnknownNameError(
            f"not a model URI: {uri!r}",
            remedy=f"Write LIBRARY:NAME with a library of {', '.join(LIBRARIES)}, for example "
            "timm:vit_base_patch14_dinov2.lvd142m or miniature:backbone",
        )
    return ExtractorURI(library, name, revision or None, fragment == "text", untrained)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str | None = None) -> UnknownNameError:
    """An error that offers the nearest of the known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
    return UnknownNameError(f"no {kind} {name!r}", where=where, remedy=f"Near it: {', '.join(near)}" if near else None)
