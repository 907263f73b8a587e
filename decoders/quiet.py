"""Loading models without a word on standard error, which belongs to the caller's own progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers


@contextmanager
def quietly() -> Iterator[None]:
    """Neither progress bars nor warnings of diffusers and transformers while models are loaded or saved."""
    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
