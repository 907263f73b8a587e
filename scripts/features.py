"""``penfield features``: what a model computes from stimuli, layer by layer, into a store."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

app = typer.Typer()


class Readout(StrEnum):
    """How a layer's activation becomes a row of features."""

    pooled = "pooled"
    tokens = "tokens"
    cls = "cls"
    flat = "flat"
    projected = "projected"


class StoreType(StrEnum):
    """Number format of a store."""

    float32 = "float32"
    float16 = "float16"


class Precision(StrEnum):
    """Number format of the arithmetic."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@console.verb(
    app,
    "features",
    "penfield features world/subject-01 --model miniature:backbone --layer blocks.3 --out features.zarr",
    panel=console.METHODS,
)
def features(
    run: console.Run,
    stimuli: Annotated[Path, typer.Argument(help="Folder of images or clips, table, HDF5 file or subject folder.")],
    model: Annotated[str, typer.Option(help="Model URI, such as timm:NAME or baseline:gabor; see penfield models.")],
    out: Annotated[Path | None, typer.Option(help="Store to write (.zarr) or to go on with.")] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Layer, by module path; give it once a layer.")] = None,
    list_layers: Annotated[bool, typer.Option("--list-layers", help="Show the model's layers and stop.")] = False,
    readout: Annotated[Readout, typer.Option(help="How an activation becomes a row.")] = Readout.pooled,
    reduce: Annotated[str | None, typer.Option(help="To K features: srp:K (random projection) or pca:K.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames that an image model takes of each clip.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Stimuli a batch.")] = 32,
    precision: Annotated[Precision, typer.Option(help="Number format of the arithmetic.")] = Precision.float32,
    store_dtype: Annotated[StoreType, typer.Option(help="Number format on disk.")] = StoreType.float32,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Extract features of stimuli with a model. Stopped or killed, the same command goes on where it was."""
    from encoders import FeatureExtractor, extract
    from studies.sources import open_stimuli

    extractor = FeatureExtractor.from_uri(model, device=run.device, dtype=precision.value)
    if list_layers:
        shapes = extractor.layer_shapes()
        return {"model": model, "layers": [{"layer": name, "shape": list(shape)} for name, shape in shapes.items()]}
    shown = open_stimuli(stimuli)
    how: dict[str, Any] = {
        "layers": layer or None,
        "readout": readout.value,
        "batch_size": batch_size,
        "store_dtype": store_dtype.value,
        "reduction": reduce,
        "n_frames": frames,
    }
    if dry_run:
        from studies.plan import plan_extraction

        return plan_extraction(extractor, shown, **how).to_dict()
    if out is None:
        raise typer.BadParameter("needs --out; --list-layers and --dry-run do without")
    stored = extract(extractor, shown, out, overwrite=overwrite, on_event=run.on_event, stop=run.stop, **how)
    return {
        "out": out,
        "model": model,
        "stimuli": len(shown),
        "layers": [{"layer": name, "shape": list(f.shape)} for name, f in stored.items()],
    }


if __name__ == "__main__":
    from .penfield import main

    main("features")
