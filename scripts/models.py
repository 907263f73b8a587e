"""``penfield models``: which models are on this machine, and getting others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import console

if TYPE_CHECKING:
    from encoders.features.weights import WeightsStatus

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
    "transformers:Salesforce/blip-image-captioning-base",
    "transformers:Intel/dpt-large",
    "diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5",
    "diffusers:stabilityai/stable-diffusion-2-depth",
)
Uri = Annotated[
    str,
    typer.Argument(
        help="Model URI, such as timm:resnet50.a1_in1k or diffusers:OWNER/NAME, or a network that scores pictures, "
        "such as SwAV."
    ),
]


@console.verb(models, "list", "penfield models list")
def list_models(run: console.Run) -> dict[str, Any]:
    """List models that come with Penfield, a few to begin with, and what is in the hub's cache."""
    from decoders.evaluation import PUBLISHED_NETWORKS
    from decoders.weights import cached_pipelines

    pipelines = cached_pipelines()
    single = [uri for uri in cached_uris() if f"diffusers:{uri.partition(':')[2]}" not in pipelines]
    uris = dict.fromkeys([*ALWAYS_LISTED, *PUBLISHED_NETWORKS, *single, *pipelines])
    columns = ("uri", "present", "licence", "origin")
    found = (_verbs(uri).status(uri).to_dict() for uri in uris)
    return {"models": [{c: status[c] for c in columns} for status in found]}


@console.verb(models, "fetch", "penfield models fetch timm:resnet50.a1_in1k")
def fetch_model(run: console.Run, uri: Uri) -> dict[str, Any]:
    """Download a model's weights from the hub, or from where they were published, and verify them."""
    return _verbs(uri).fetch(uri, on_event=run.on_event, stop=run.stop).to_dict()


@console.verb(models, "verify", "penfield models verify miniature:backbone")
def verify_model(run: console.Run, uri: Uri) -> dict[str, Any]:
    """Compare a model's weights with the hashes that their origin gave."""
    return _verbs(uri).verify(uri, on_event=run.on_event, stop=run.stop).to_dict()


class _Verbs(NamedTuple):
    status: Callable[[str], WeightsStatus]
    fetch: Callable[..., WeightsStatus]
    verify: Callable[..., WeightsStatus]


def _verbs(uri: str) -> _Verbs:
    """What looks after models of this kind: generators, networks that score pictures, and all that compute features."""
    from decoders import weights as generators
    from decoders.evaluation import weights as networks
    from encoders.features import weights as extractors

    if generators.is_pipeline(uri):
        return _Verbs(generators.pipeline_status, generators.fetch_pipeline, generators.verify_pipeline)
    if networks.is_network(uri):
        return _Verbs(networks.network_status, networks.fetch_network, networks.verify_network)
    return _Verbs(extractors.weights_status, extractors.fetch, extractors.verify)


def cached_uris() -> list[str]:
    """URIs of the models in the hub's cache."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    names = sorted(repository.repo_id for repository in cached if repository.repo_type == "model")
    return [f"timm:{n.removeprefix('timm/')}" if n.startswith("timm/") else f"transformers:{n}" for n in names]


if __name__ == "__main__":
    from .penfield import main

    main("models")
