"""``penfield encode predict`` and ``evaluate``: what a fitted model says, and how well that holds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .encode_options import Layers, Nuisance, Scale, Shown, Stores, encode


@console.verb(encode, "predict", "penfield encode predict -m model -f features.zarr --out predicted.zarr")
def predict(
    run: console.Run,
    model: console.Fitted,
    features: Stores,
    out: Annotated[Path, typer.Option(help="Recording of predicted responses to write (.zarr).")],
    layer: Layers = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Predict the responses to every stimulus of a feature store, as a recording."""
    from encoders import load_encoder
    from studies.encoding import predict_recording
    from studies.sources import open_stores

    console.check_absent(out, overwrite)
    encoder, spaces = load_encoder(model), open_stores(features, layer or ())
    predicted = predict_recording(encoder, spaces, out, overwrite=overwrite, on_event=run.on_event, stop=run.stop)
    return {"out": out, "stimuli": len(predicted), "neuroids": predicted.n_neuroids}


@console.verb(encode, "evaluate", "penfield encode evaluate -m model -f features.zarr -r world/subject-01 --baselines")
def evaluate(
    run: console.Run,
    model: console.Fitted,
    features: Stores,
    recording: console.Recorded,
    layer: Layers = None,
    roi: console.Rois = None,
    metric: Annotated[
        Scale, typer.Option(help="Pearson r or R2, over the noise ceiling where there is one.")
    ] = Scale.r,
    nuisance: Nuisance = None,
    shuffles: Annotated[int, typer.Option(min=0, help="Shuffles of the stimuli for the null; 0 leaves it out.")] = 100,
    values: Annotated[
        Path | None, typer.Option(help="File (.npz) for the score of each neuroid, over its noise ceiling.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also fit pixels, Gabor energies and the untrained model.")
    ] = False,
    stimuli: Shown = None,
) -> dict[str, Any]:
    """Score a fitted model on the stimuli that it has not seen: by region, against the noise ceiling, with a null.

    The features may hold more layers than the model reads. --stimuli, for --baselines, lie beside the recording by
    default.
    """
    from encoders import load_encoder
    from studies.evaluation import ceiling_of, score_against_baselines, score_encoder, split_by_fit
    from studies.sources import extract_baselines, open_recording, open_stimuli, open_stores
    from studies.standardise import standardise_as_fitted

    encoder, spaces = load_encoder(model), open_stores(features, layer or ())
    given = open_recording(recording, tuple(roi or ()))
    whole = standardise_as_fitted(encoder.recording_, given, encoder.stimulus_ids_)
    train, test = split_by_fit(encoder, whole)
    ceiling = ceiling_of(encoder, whole, test, nuisance or ())
    how: dict[str, Any] = {"ceiling": ceiling, "metric": metric.value, "nuisance": nuisance or (), "seed": run.seed}
    answer = score_encoder(encoder, spaces, test, shuffles=shuffles, values=values, **how)
    if baselines:
        watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
        source = next(iter(spaces.values())).attrs
        same = {"layer": source.get("layer"), "readout": source.get("readout", "pooled"), "device": run.device}
        with tempfile.TemporaryDirectory() as folder:
            shown = open_stimuli(stimuli or recording)
            beside = extract_baselines(source.get("uri"), shown, Path(folder), **same, **watched)
            answer["baselines"] = score_against_baselines(encoder, beside, train, test, **how, **watched)
    return {"model": model, "n_train": len(set(train.stimulus_ids)), "n_test": len(set(test.stimulus_ids)), **answer}
