"""What the verbs of ``penfield encode`` share: their group and their options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console

encode = console.group("Encoding models: predict a brain's responses from features of what it was shown.")


class Model(StrEnum):
    """Kinds of encoding model."""

    ridge = "ridge"
    banded_ridge = "banded_ridge"
    kernel_ridge = "kernel_ridge"
    transformer = "transformer"


class Routing(StrEnum):
    """Ways from tokens to a neuroid's response."""

    cls = "cls"
    pooled = "pooled"
    flattened = "flattened"
    gaussian = "gaussian"
    spatial_roi = "spatial_roi"
    spatial = "spatial"
    roi = "roi"
    vertex = "vertex"


class Schedule(StrEnum):
    """How the learning rate falls."""

    constant = "constant"
    step = "step"
    cosine = "cosine"


class Position(StrEnum):
    """Codes of places."""

    fourier = "fourier"
    sine = "sine"


class Precision(StrEnum):
    """Number format of training."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Haemodynamics(StrEnum):
    """What is made of delays."""

    fir = "fir"
    query = "query"


class Scale(StrEnum):
    """What a score is."""

    r = "r"
    r2 = "r2"


class Attribution(StrEnum):
    """Methods that tell where a prediction comes from."""

    integrated_gradients = "integrated_gradients"
    grad_cam = "grad_cam"
    hires_cam = "hires_cam"


Stores = Annotated[list[Path], typer.Option("--features", "-f", help="Feature store (.zarr); give it once a store.")]
Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="Layer of the stores; give it once a layer. All by default.")
]
Nuisance = Annotated[
    list[str] | None, typer.Option(help="Presentation coordinate to fit without penalty (motion, drift).")
]
Pictures = Annotated[
    list[str] | None, typer.Option("--stimulus", help="Stimulus id; give it once a stimulus. All by default.")
]
Shown = Annotated[
    Path | None, typer.Option("--stimuli", help="What was shown: folder of images, table, HDF5 file or subject.")
]
