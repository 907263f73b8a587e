"""``penfield encode``: from features to predicted brain responses."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

encode = console.group("Encoding models: predict a brain's responses from features of what it was shown.")
app = typer.Typer()
app.add_typer(encode, name="encode", rich_help_panel=console.METHODS)


class Model(StrEnum):
    """Kinds of encoding model."""

    ridge = "ridge"
    banded_ridge = "banded_ridge"
    kernel_ridge = "kernel_ridge"


class Scale(StrEnum):
    """What a score is."""

    r = "r"
    r2 = "r2"


Store = Annotated[Path, typer.Option("--features", "-f", help="Feature store (.zarr).")]
Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="Layer of the store; give it once a layer. All by default.")
]
Nuisance = Annotated[
    list[str] | None, typer.Option(help="Presentation coordinate to fit without penalty (motion, drift).")
]


@console.verb(encode, "fit", "penfield encode fit -f features.zarr --layer blocks.3 -r world/subject-01 --out model")
def fit(
    run: console.Run,
    features: Store,
    recording: console.Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write the fitted model to.")],
    layer: Layers = None,
    model: Annotated[Model, typer.Option(help="Kind of model; banded_ridge weighs layers against each other.")] = (
        Model.ridge
    ),
    split: Annotated[
        str, typer.Option(help="What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,... or none.")
    ] = "stimulus:0.2",
    roi: console.Rois = None,
    alphas: Annotated[str | None, typer.Option(help="Penalties to choose from, such as 1,10,100.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Cross-validation folds that choose the penalty.")] = 5,
    delays: Annotated[str | None, typer.Option(help="Delays in samples for time series, such as 0,1,2.")] = None,
    nuisance: Nuisance = None,
    keep_constant: Annotated[
        bool,
        typer.Option("--keep-constant", help="Predict the mean of neuroids that do not vary; else they are refused."),
    ] = False,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Fit an encoding model on a part of a recording; what is held out stays unseen for encode evaluate."""
    from studies.encoding import fit_encoder, make_encoder
    from studies.sources import open_layers, open_recording
    from studies.study import training_part

    console.check_absent(out, overwrite)
    spaces = open_layers(features, layer or ())
    train = training_part(open_recording(recording, tuple(roi or ())), split, run.seed)
    given: dict[str, Any] = {"alphas": console.numbers(alphas, float), "delays": console.numbers(delays, int)}
    encoder = make_encoder(model.value, folds=folds, device=run.device, seed=run.seed, **given)
    if dry_run:
        from studies.plan import plan_encoder

        return plan_encoder(encoder, spaces, train).to_dict()
    with tempfile.TemporaryDirectory() as scratch:
        fit_encoder(
            encoder,
            spaces,
            train,
            nuisance=nuisance or (),
            keep_constant=keep_constant,
            scratch=Path(scratch),
            on_event=run.on_event,
            stop=run.stop,
        )
    encoder.save_pretrained(out, overwrite=overwrite)
    return {"out": out, "model": model.value, **fit_summary(encoder)}


@console.verb(encode, "predict", "penfield encode predict -m model -f features.zarr --out predicted.zarr")
def predict(
    run: console.Run,
    model: console.Fitted,
    features: Store,
    out: Annotated[Path, typer.Option(help="Recording of predicted responses to write (.zarr).")],
    layer: Layers = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Predict the responses to every stimulus of a feature store, as a recording."""
    from studies.encoding import load_encoder, predict_recording
    from studies.sources import open_layers

    console.check_absent(out, overwrite)
    encoder = load_encoder(model)
    predicted = predict_recording(
        encoder, open_layers(features, layer or ()), out, overwrite=overwrite, on_event=run.on_event, stop=run.stop
    )
    return {"out": out, "stimuli": len(predicted), "neuroids": predicted.n_neuroids}


@console.verb(encode, "evaluate", "penfield encode evaluate -m model -f features.zarr -r world/subject-01 --baselines")
def evaluate(
    run: console.Run,
    model: console.Fitted,
    features: Store,
    recording: console.Recorded,
    layer: Layers = None,
    roi: console.Rois = None,
    metric: Annotated[
        Scale, typer.Option(help="Pearson r or R2, over the noise ceiling where there is one.")
    ] = Scale.r,
    nuisance: Nuisance = None,
    shuffles: Annotated[int, typer.Option(min=0, help="Shuffles of the stimuli for the null; 0 leaves it out.")] = 100,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also fit pixels, Gabor energies and the untrained model.")
    ] = False,
    stimuli: Annotated[
        Path | None, typer.Option(help="What was shown, for --baselines; by default beside the recording.")
    ] = None,
) -> dict[str, Any]:
    """Score a fitted model on the stimuli that it has not seen: by region, against the noise ceiling, with a null."""
    from studies.encoding import ceiling_of, load_encoder, score_against_baselines, score_encoder, split_by_fit
    from studies.sources import extract_baselines, open_layers, open_recording, open_stimuli

    encoder, spaces = load_encoder(model), open_layers(features, layer or ())
    whole = open_recording(recording, tuple(roi or ()))
    train, test = split_by_fit(encoder, whole)
    ceiling = ceiling_of(encoder, whole, test, nuisance or ())
    how: dict[str, Any] = {"ceiling": ceiling, "metric": metric.value, "nuisance": nuisance or (), "seed": run.seed}
    answer = score_encoder(encoder, spaces, test, shuffles=shuffles, **how)
    if baselines:
        watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
        source = next(iter(spaces.values())).attrs
        same = {"layer": source.get("layer"), "readout": source.get("readout", "pooled"), "device": run.device}
        with tempfile.TemporaryDirectory() as folder:
            shown = open_stimuli(stimuli or recording)
            beside = extract_baselines(source.get("uri"), shown, Path(folder), **same, **watched)
            answer["baselines"] = score_against_baselines(encoder, beside, train, test, **how, **watched)
    return {"model": model, "n_train": len(set(train.stimulus_ids)), "n_test": len(set(test.stimulus_ids)), **answer}


def fit_summary(encoder: Any) -> dict[str, Any]:
    """What the fit found, as JSON values."""
    import numpy as np

    alphas, counts = np.unique(encoder.alphas_[np.isfinite(encoder.alphas_)], return_counts=True)
    return {
        "stimuli": len(encoder.stimulus_ids_),
        "neuroids": len(encoder.intercept_),
        "solver": encoder.solver_,
        "cross_validated_r2": float(np.nanmean(encoder.cv_scores_)),
        "constant_neuroids": int(encoder.constant_.sum()),
        "alphas": {f"{alpha:g}": int(count) for alpha, count in zip(alphas, counts, strict=True)},
    }


if __name__ == "__main__":
    from .penfield import main

    main("encode")
