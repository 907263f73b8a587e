"""``penfield score``: how well a model and a brain agree."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .features import Readout

app = typer.Typer()


class Metric(StrEnum):
    """What agreement means."""

    rsa = "rsa"
    predictivity = "predictivity"


class Compare(StrEnum):
    """How RDMs are compared."""

    spearman = "spearman"
    pearson = "pearson"
    cosine = "cosine"


@console.verb(
    app,
    "score",
    "penfield score --model miniature:backbone --recording world/subject-01 --metric rsa --baselines",
    panel=console.METHODS,
)
def score(
    run: console.Run,
    metric: Annotated[Metric, typer.Option(help="Representational similarity, or cross-validated prediction.")],
    features: Annotated[Path | None, typer.Option(help="Feature store to score.")] = None,
    model: Annotated[str | None, typer.Option(help="Model URI to score instead of a feature store.")] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Layer; give it once a layer. By default all of a store; of a model its top-level layers, and if it "
            "has one stack of blocks, as a vision transformer does, each block in place of the stack."
        ),
    ] = None,
    readout: Annotated[Readout, typer.Option(help="How a model's activation becomes a row.")] = Readout.flat,
    stimuli: Annotated[
        Path | None, typer.Option(help="What the model is shown; by default beside the recording or RDMs.")
    ] = None,
    recording: Annotated[Path | None, typer.Option(help="Recording or subject folder to score against.")] = None,
    rdms: Annotated[Path | None, typer.Option(help="RDMs to score against, a file or folder.")] = None,
    roi: Annotated[list[str] | None, typer.Option(help="Regions of the recording; all by default.")] = None,
    compare: Annotated[Compare, typer.Option(help="How RDMs are compared.")] = Compare.spearman,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Score pixels, Gabor energies and the untrained model as well.")
    ] = False,
) -> dict[str, Any]:
    """Score every layer of a model against a recording or against RDMs."""
    if (features is None) == (model is None) or (recording is None) == (rdms is None):
        raise typer.BadParameter("needs one of --features and --model, and one of --recording and --rdms")
    from recordings.readers.rdm_sets import read_rdms
    from studies.agreement import score_layers
    from studies.sources import extract_baselines, extract_layers, open_layers, open_recording, open_stimuli

    target = open_recording(recording, tuple(roi or ())) if recording else read_rdms(Path(rdms or ""))
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    how: dict[str, Any] = {"readout": readout.value, "device": run.device, **watched}
    asked: dict[str, Any] = {"metric": metric.value, "compare": compare.value, "device": run.device, "seed": run.seed}
    with tempfile.TemporaryDirectory() as folder:
        if features:
            layers = open_layers(features, layer or ())
        if model or baselines:
            shown = open_stimuli(Path(stimuli or recording or rdms or ""))
        if model:
            layers = extract_layers(model, shown, Path(folder) / "model.zarr", layer or (), **how)
        answer = score_layers(layers, target, **asked, **watched)
        if baselines:
            uri = model or next(iter(layers.values())).attrs.get("uri")
            beside = extract_baselines(uri, shown, Path(folder), **how)
            answer["baselines"] = score_layers(beside, target, **asked, **watched)["layers"]
    return answer


if __name__ == "__main__":
    from .penfield import main

    main("score")
