"""``penfield encode fit`` and ``ensemble``: encoding models, alone and weighed against each other."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .encode_options import (
    Haemodynamics,
    Layers,
    Model,
    Nuisance,
    Position,
    Precision,
    Routing,
    Schedule,
    Stores,
    encode,
)

if TYPE_CHECKING:
    from encoders import Encoder

RIDGE, NETWORK, TRAINING = "Ridge", "Transformer", "Training of the transformer"


@console.verb(
    encode,
    "fit",
    "penfield encode fit -f tokens.zarr -r world/subject-01 --model transformer --routing roi --epochs 10 --out model",
)
def fit(
    run: console.Run,
    features: Stores,
    recording: console.Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write the fitted model to.")],
    layer: Layers = None,
    model: Annotated[Model, typer.Option(help="Kind of model; banded_ridge weighs layers against each other.")] = (
        Model.ridge
    ),
    routing: Annotated[
        Routing | None,
        typer.Option(
            help="Way from tokens to responses: of ridge cls, pooled or flattened, else of the transformer "
            "[default: all features side by side; roi]."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,... or none.")
    ] = "stimulus:0.2",
    roi: console.Rois = None,
    standardise: console.Standardise = None,
    delays: Annotated[str | None, typer.Option(help="Delays in samples for time series, such as 0,1,2.")] = None,
    keep_constant: Annotated[
        bool,
        typer.Option("--keep-constant", help="Predict the mean of neuroids that do not vary; else they are refused."),
    ] = False,
    alphas: Annotated[
        str | None, typer.Option(help="Penalties to choose from, such as 1,10,100.", rich_help_panel=RIDGE)
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validation folds that choose the penalty [default: 5].", rich_help_panel=RIDGE),
    ] = None,
    nuisance: Nuisance = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.", rich_help_panel=NETWORK)] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, help="Size of queries, keys and values.", rich_help_panel=NETWORK)
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Decoder layers.", rich_help_panel=NETWORK)] = None,
    self_attention: Annotated[
        int | None, typer.Option(min=0, help="Layers of self-attention over tokens.", rich_help_panel=NETWORK)
    ] = None,
    feedforward: Annotated[
        int | None, typer.Option(min=0, help="Feed-forward size; 0 for none.", rich_help_panel=NETWORK)
    ] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.99, help="Dropout.", rich_help_panel=NETWORK)] = None,
    attention_dropout: Annotated[
        float | None,
        typer.Option(min=0, max=0.99, help="Dropout of attention weights; slower.", rich_help_panel=NETWORK),
    ] = None,
    position: Annotated[
        Position | None,
        typer.Option(help="Code of places: fourier tells neighbours apart, sine is DETR's.", rich_help_panel=NETWORK),
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Average tokens to ROWSxCOLUMNS, such as 16x16.", rich_help_panel=NETWORK)
    ] = None,
    fold_keys: Annotated[
        bool, typer.Option("--fold-keys", help="Fold the key projection into the queries.", rich_help_panel=NETWORK)
    ] = False,
    haemodynamics: Annotated[
        Haemodynamics | None,
        typer.Option(help="With delays: a weight each (fir), or attention over them.", rich_help_panel=NETWORK),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the stimuli.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Stimuli a step.", rich_help_panel=TRAINING)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.", rich_help_panel=TRAINING)] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="Of AdamW.", rich_help_panel=TRAINING)] = None,
    schedule: Annotated[
        Schedule | None, typer.Option(help="How the learning rate falls.", rich_help_panel=TRAINING)
    ] = None,
    step_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs between halvings of the schedule step.", rich_help_panel=TRAINING)
    ] = None,
    clip: Annotated[float | None, typer.Option(min=0, help="Largest gradient norm.", rich_help_panel=TRAINING)] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without gain.", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Number format; auto takes bf16 where CUDA has it.", rich_help_panel=TRAINING),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Fraction of the training stimuli that choose the epoch.", rich_help_panel=TRAINING),
    ] = None,
    no_refit: Annotated[
        bool, typer.Option("--no-refit", help="Keep the read-out that training ends with.", rich_help_panel=TRAINING)
    ] = False,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder in which a fit that was stopped goes on.", rich_help_panel=TRAINING),
    ] = None,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Fit an encoding model on a part of a recording; what is held out stays unseen for encode evaluate.

    The transformer and all routings but cls need features of the read-out tokens. Stopped with Ctrl-C, the same command
    with --checkpoints goes on where it was.
    """
    from encoders.routings import check_readout
    from studies.encoding import fit_encoder, make_encoder
    from studies.sources import open_recording, open_stores, stimuli_shown
    from studies.standardise import standardise_sessions
    from studies.study import training_part

    console.check_absent(out, overwrite)
    encoder = make_encoder(
        model.value,
        routing and routing.value,
        alphas=console.numbers(alphas, float),
        folds=folds,
        delays=console.numbers(delays, int),
        device=run.device,
        seed=run.seed,
        n_heads=heads,
        hidden=hidden,
        n_layers=layers,
        n_self_attention=self_attention,
        feedforward=feedforward,
        dropout=dropout,
        attention_dropout=attention_dropout,
        position=position and position.value,
        grid=_grid(grid),
        fold_keys=fold_keys or None,
        haemodynamics=haemodynamics and haemodynamics.value,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=schedule and schedule.value,
        step_epochs=step_epochs,
        clip=clip,
        patience=patience,
        precision=precision and precision.value,
        validation=validation,
        refit=False if no_refit else None,
    )
    spaces = open_stores(features, layer or ())
    if routing:
        check_readout(routing.value, spaces)
    whole = open_recording(recording, tuple(roi or ()))
    train = training_part(whole, split, run.seed, stimuli_shown(recording))
    if dry_run:
        from studies.plan import plan_encoder

        return plan_encoder(encoder, spaces, train).to_dict()
    with tempfile.TemporaryDirectory() as scratch:
        if standardise:
            train = standardise_sessions(train, whole, Path(scratch) / "standardised.zarr")
        fit_encoder(
            encoder,
            spaces,
            train,
            nuisance=nuisance or (),
            keep_constant=keep_constant,
            scratch=Path(scratch),
            checkpoints=checkpoints,
            on_event=run.on_event,
            stop=run.stop,
        )
    encoder.save_pretrained(out, overwrite=overwrite)
    return {"out": out, "model": model.value, **fit_summary(encoder)}


@console.verb(
    encode, "ensemble", "penfield encode ensemble -m early -m late -f tokens.zarr -r world/subject-01 --out ensemble"
)
def ensemble(
    run: console.Run,
    member: Annotated[list[Path], typer.Option("--model", "-m", help="Fitted model; give it once a member.")],
    features: Stores,
    recording: console.Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write the ensemble to, its members included.")],
    layer: Layers = None,
    temperature: Annotated[float, typer.Option(min=0, help="How much better members count more; 0 for alike.")] = 40.0,
    split: Annotated[
        str, typer.Option(help="What to hold out of the stimuli that no member has seen, see encode fit.")
    ] = "stimulus:0.5",
    roi: console.Rois = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Weigh the predictions of several fitted models, for each neuroid by how well each does there.

    There are three sets of stimuli: those that members have seen, in training or to choose an epoch; of the others,
    those that weights are learnt from here; and what --split holds out of these, which stays unseen for encode
    evaluate.
    """
    from encoders import Ensemble, load_encoder
    from studies.encoding import select_features
    from studies.evaluation import split_by_fit
    from studies.sources import open_recording, open_stores, stimuli_shown
    from studies.standardise import standardise_as_fitted
    from studies.study import training_part

    console.check_absent(out, overwrite)
    members = {name: load_encoder(path) for name, path in _names(member).items()}
    spaces = open_stores(features, layer or ())
    fitted_on = {i for encoder in members.values() for i in encoder.stimulus_ids_}
    first = next(iter(members.values()))
    whole = standardise_as_fitted(first.recording_, open_recording(recording, tuple(roi or ())), fitted_on)
    _, unseen = split_by_fit(list(members.values()), whole)
    part = training_part(unseen, split, run.seed, stimuli_shown(recording))
    fitted = Ensemble(members, temperature)
    fitted.fit(select_features(fitted, spaces), part, on_event=run.on_event, stop=run.stop)
    fitted.save_pretrained(out, overwrite=overwrite)
    return {"out": out, **fit_summary(fitted), "stimuli_for_weights": len(set(part.stimulus_ids))}


def fit_summary(encoder: Encoder) -> dict[str, Any]:
    """What the fit found, as JSON values."""
    import numpy as np

    from encoders import Ensemble, TransformerEncoder
    from encoders.linear import LinearEncoder

    common = {"stimuli": len(encoder.stimulus_ids_), "neuroids": len(encoder.recording_["neuroid_ids"])}
    if isinstance(encoder, TransformerEncoder):
        best = encoder.history_.best
        return common | {
            "routing": encoder.routing,
            "regions": len(encoder.regions_.names),
            "parameters": sum(p.numel() for p in encoder.module_.parameters()),
            "epochs": len(encoder.history_.epochs),
            "best_epoch": best.epoch + 1,
            "validation_r": best.validation,
        }
    if isinstance(encoder, Ensemble):
        weights = zip(encoder.members, encoder.weights_.mean(1), strict=True)
        return common | {"weights": {name: float(weight) for name, weight in weights}}
    assert isinstance(encoder, LinearEncoder)
    alphas, counts = np.unique(encoder.alphas_[np.isfinite(encoder.alphas_)], return_counts=True)
    return common | {
        "solver": encoder.solver_,
        "cross_validated_r2": float(np.nanmean(encoder.cv_scores_)),
        "constant_neuroids": int(encoder.constant_.sum()),
        "alphas": {f"{alpha:g}": int(count) for alpha, count in zip(alphas, counts, strict=True)},
    }


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, _, columns = text.partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        raise typer.BadParameter(f"{text!r} is no grid such as 16x16", param_hint="--grid")
    return int(rows), int(columns)


def _names(paths: list[Path]) -> dict[str, Path]:
    """A name for each member: its folder's, with the folder above where several have the same."""
    from recordings.errors import InputError

    last = [path.resolve().name for path in paths]
    names = [n if last.count(n) == 1 else f"{p.resolve().parent.name}-{n}" for n, p in zip(last, paths, strict=True)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two members are called {min(twice)!r}", remedy="Rename one of their folders")
    return dict(zip(names, paths, strict=True))
