"""What the verbs of ``penfield decode`` share: their group and their options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console

decode = console.group("Decoders: tell from a brain's responses what was seen, and draw it.")


class Question(StrEnum):
    """What is decoded."""

    category = "category"
    patterns = "patterns"


class Target(StrEnum):
    """What a picture, a caption or a depth map is made from."""

    z = "z"
    c = "c"
    depth = "depth"
    embedding = "embedding"
    tokens = "tokens"
    features = "features"


Store = Annotated[Path, typer.Option("--features", "-f", help="Feature store (.zarr).")]
Layer = Annotated[str | None, typer.Option(help="Layer of the store, if it has several.")]
Label = Annotated[str, typer.Option(help="Presentation coordinate that names the category.")]
Group = Annotated[str, typer.Option(help="Presentation coordinate that is left out in turn.")]
Ways = Annotated[int | None, typer.Option(min=2, help="Candidates to choose from; all by default.")]
Shown = Annotated[
    Path | None, typer.Option("--stimuli", help="What was shown; a subject folder brings its own.", show_default=False)
]
Held = Annotated[
    list[str] | None, typer.Option("--stimulus", help="Held-out stimulus; give it once each. All by default.")
]
Preset = Annotated[str, typer.Option(help="penfield, takagi-cvpr, takagi-text, takagi-gan or takagi-depth.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Pictures a stimulus, by default the preset's.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps, by default the preset's.")]
