"""``penfield remote models`` and ``encode``: what a server has, and responses that its encoders predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .remote_options import Served, remote, verb

if TYPE_CHECKING:
    from encoders import Features
    from service.client import Client, ModelDescription

models = console.group("The models of a server.")
remote.add_typer(models, name="models")

Named = Annotated[str, typer.Argument(help="Model of the server, NAME or NAME@VERSION.")]
COLUMNS = ("name", "version", "kind", "verbs", "state", "memory_bytes")


@verb(models, "list", "penfield remote models list")
def list_models(
    client: Client,
    run: console.Run,
    answers: Annotated[
        str, typer.Option("--verb", help="Only models that encode, or decode.", show_default=False)
    ] = "",
) -> dict[str, Any]:
    """List a server's models, with what they answer and whether they are in its memory."""
    found = [model.to_dict() for model in client.models(answers)]
    return {"models": [{name: model[name] for name in COLUMNS} for model in found]}


@verb(models, "describe", "penfield remote models describe subject-01/decoder")
def describe(client: Client, run: console.Run, model: Named) -> dict[str, Any]:
    """Say what a model takes and gives: units, regions, feature spaces or decoded targets, presets, and its card."""
    described = client.describe(model).to_dict()
    return {**described.pop("model"), "units": len(described.pop("unit_ids")), **described}


@verb(models, "load", "penfield remote models load ridge")
def load(client: Client, run: console.Run, model: Named) -> dict[str, Any]:
    """Bring a model into the server's memory."""
    return client.load(model).to_dict()


@verb(models, "unload", "penfield remote models unload ridge")
def unload(client: Client, run: console.Run, model: Named) -> dict[str, Any]:
    """Take a model out of the server's memory when its running requests are done."""
    return client.unload(model).to_dict()


@verb(remote, "encode", "penfield remote encode -m ridge --stimuli pictures --out predicted.zarr")
def encode(
    client: Client,
    run: console.Run,
    model: Served,
    out: Annotated[Path, typer.Option(help="Recording of predicted responses to write (.zarr).")],
    stimuli: Annotated[
        Path | None, typer.Option(help="What is shown: folder of images, table, HDF5 file or subject.")
    ] = None,
    features: Annotated[
        list[Path] | None, typer.Option("--features", "-f", help="Feature store (.zarr) instead; once a store.")
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Layer of the stores; once a layer. All by default.")] = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Predict the responses to pictures, or to features, on a server; writes what encode predict writes."""
    from recordings import Space, write_recording
    from studies.sources import open_stimuli, open_stores

    if (stimuli is None) == (not features):
        raise typer.BadParameter("needs one of --stimuli and --features")
    console.check_absent(out, overwrite)
    described = client.describe(model)
    if stimuli is not None:
        shown = open_stimuli(stimuli)
        ids, uri = shown.ids, next((space.uri for space in described.features), "")
        asked: dict[str, Any] = {"clips" if len(shown) and shown.load(0).ndim == 4 else "images": shown}
        values = client.encode(model, **asked, on_event=run.on_event)
    else:
        given = open_stores(features or [], layer or ())
        first = next(iter(given.values()))
        ids, uri = [str(i) for i in first.stimulus_ids], first.attrs.get("uri", "")
        wanted = {name: space.select(ids) for name, space in _wanted(described, given).items()}
        values = client.encode(model, features=wanted, on_event=run.on_event)
    predicted = write_recording(
        out,
        [values],
        {"stimulus_id": ids},
        {"neuroid_id": list(described.unit_ids)},
        space=Space.from_dict(dict(described.space)),
        attrs={"predicted_by": described.model.kind, "features": uri},
        overwrite=overwrite,
    )
    return {"out": out, "stimuli": len(predicted), "neuroids": predicted.n_neuroids}


def _wanted(described: ModelDescription, given: Mapping[str, Features]) -> dict[str, Features]:
    """What the model reads, out of features by any name; told by fingerprint, as `studies.encoding` tells them."""
    from recordings.errors import ArtifactError

    found = {}
    for space in described.features:
        alike = {name: one for name, one in given.items() if one.fingerprint() == space.fingerprint}
        if not alike:
            raise ArtifactError(
                f"none of the features ({', '.join(given)}) are those of the fit ({space.uri} {space.layer})",
                where="features",
                remedy="Extract them with the same model, layer, read-out and preprocessing",
            )
        found[space.name] = alike.get(space.name, next(iter(alike.values())))
    return found
