"""``penfield describe``: what is in a recording, features, a model or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


@console.verb(app, "describe", "penfield describe subject-01", panel=console.DATA)
def describe(
    run: console.Run, path: Annotated[Path, typer.Argument(help="Recording, subject, RDMs, features, model or study.")]
) -> dict[str, Any]:
    """Say what is in a recording, features, a fitted model or a study file."""
    if path.suffix == ".toml":
        return describe_study(path)
    if (path / "config.json").is_file():
        return describe_model(path)
    return describe_data(path)


def describe_study(path: Path) -> dict[str, Any]:
    """The resolved study."""
    from studies.study import Study

    return {"kind": "study", "path": path, **Study.load(path).model_dump(mode="json", exclude_none=True)}


def describe_model(path: Path) -> dict[str, Any]:
    """A fitted model's configuration, long lists as their length."""
    from recordings.artifacts import read_config

    config = read_config(path)
    short = {name: len(value) if _long(value) else value for name, value in config.items()}
    return {"kind": config.get("kind", "model"), "path": path, **short}


def describe_data(path: Path) -> dict[str, Any]:
    """Whatever the recordings' readers know, or a feature store."""
    from recordings.errors import FormatError
    from recordings.readers.describe import describe as describe_recording

    try:
        return describe_recording(path)
    except FormatError as not_a_recording:
        try:
            return describe_features(path)
        except FormatError:
            raise not_a_recording from None


def describe_features(path: Path) -> dict[str, Any]:
    """The layers of a feature store and where they come from."""
    from encoders import Features, layers_of

    layers = {name: Features.load(path, name) for name in layers_of(path)}
    rows = [{"layer": name, "shape": list(features.shape), **features.attrs} for name, features in layers.items()]
    return {"kind": "features", "path": path, "layers": rows}


def _long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 20


if __name__ == "__main__":
    from .penfield import main

    main("describe")
