"""``penfield models``: which models are on this machine, and getting others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import console

models = console.group("Which models are on this machine, and getting others.")
app = typer.Typer()
app.add_typer(models, name="models", rich_help_panel=console.METHODS)

ALWAYS_LISTED = (
    "baseline:pixels",
    "baseline:gabor",
    "miniature:backbone",
    "timm:resnet50.a1_in1k",
    "timm:vit_base_patch14_dinov2.lvd142m",
    "open_clip:ViT-B-32/laion2b_s34b_b79k",
)
Uri = Annotated[str, typer.Argument(help="Model URI, such as timm:resnet50.a1_in1k.")]


@console.verb(models, "list", "penfield models list")
def list_models(run: console.Run) -> dict[str, Any]:
    """List models that come with Penfield, a few to begin with, and what is in the hub's cache."""
    from encoders.features.weights import weights_status

    uris = dict.fromkeys([*ALWAYS_LISTED, *cached_uris()])
    columns = ("uri", "present", "licence", "origin")
    return {"models": [{c: status[c] for c in columns} for status in (weights_status(u).to_dict() for u in uris)]}


@console.verb(models, "fetch", "penfield models fetch timm:resnet50.a1_in1k")
def fetch_model(run: console.Run, uri: Uri) -> dict[str, Any]:
    """Download a model's weights from the hub and verify them."""
    from encoders.features.weights import fetch

    return fetch(uri, on_event=run.on_event, stop=run.stop).to_dict()


@console.verb(models, "verify", "penfield models verify miniature:backbone")
def verify_model(run: console.Run, uri: Uri) -> dict[str, Any]:
    """Compare a model's weights with the hashes that their origin gave."""
    from encoders.features.weights import verify

    return verify(uri, on_event=run.on_event, stop=run.stop).to_dict()


def cached_uris() -> list[str]:
    """URIs of the models in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = scan_cache_dir().repos
    except CacheNotFound:
        return []
    names = sorted(repository.repo_id for repository in cached if repository.repo_type == "model")
    return [f"timm:{n.removeprefix('timm/')}" if n.startswith("timm/") else f"transformers:{n}" for n in names]


if __name__ == "__main__":
    from .penfield import main

    main("models")
