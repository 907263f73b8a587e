"""``penfield decode``: from brain responses back to what was seen."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console

decode = console.group("Decoders: tell from a brain's responses what was seen.")
app = typer.Typer()
app.add_typer(decode, name="decode", rich_help_panel=console.METHODS)


class Question(StrEnum):
    """What is decoded."""

    category = "category"
    patterns = "patterns"


Store = Annotated[Path, typer.Option("--features", "-f", help="Feature store (.zarr).")]
Layer = Annotated[str | None, typer.Option(help="Layer of the store, if it has several.")]
Label = Annotated[str, typer.Option(help="Presentation coordinate that names the category.")]
Group = Annotated[str, typer.Option(help="Presentation coordinate that is left out in turn.")]
Ways = Annotated[int | None, typer.Option(min=2, help="Candidates to choose from; all by default.")]


@console.verb(decode, "fit", "penfield decode fit -r world/subject-01 -f features.zarr --layer blocks.3 --out decoder")
def fit(
    run: console.Run,
    recording: console.Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write the fitted decoder to.")],
    features: Annotated[
        Path | None, typer.Option("--features", "-f", help="Feature store to decode into; without it, categories.")
    ] = None,
    layer: Layer = None,
    split: Annotated[
        str, typer.Option(help="What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,... or none.")
    ] = "stimulus:0.2",
    roi: console.Rois = None,
    reliability: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest noise ceiling of a neuroid that is read (with features).")
    ] = 0.05,
    all_neuroids: Annotated[
        bool, typer.Option("--all-neuroids", help="Read neuroids whatever their reliability, for unrepeated stimuli.")
    ] = False,
    max_neuroids: Annotated[int | None, typer.Option(min=1, help="Read at most so many, the most reliable.")] = None,
    label: Label = "category",
    group: Group = "run",
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Fit a decoder on a part of a recording: into a feature space, or of the category that was shown."""
    from decoders import CategoryDecoder, LatentDecoder
    from encoders import Features
    from studies.encoding import solver_device
    from studies.plan import plan_decoder
    from studies.sources import open_recording
    from studies.study import training_part

    console.check_absent(out, overwrite)
    train = training_part(open_recording(recording, tuple(roi or ())), split, run.seed)
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    latent = LatentDecoder(
        reliability=None if all_neuroids else reliability,
        max_neuroids=max_neuroids,
        device=solver_device(run.device),
        seed=run.seed,
    )
    if dry_run:
        if features is None:
            raise typer.BadParameter("--dry-run goes with --features; categories take a moment")
        return plan_decoder(latent, Features.load(features, layer), train).to_dict()
    decoder: CategoryDecoder | LatentDecoder
    if features is None:
        decoder = CategoryDecoder(label=label, group=group).fit(train, **watched)
    else:
        decoder = latent.fit(train, Features.load(features, layer), **watched)
    decoder.save_pretrained(out, overwrite=overwrite)
    return {
        "out": out,
        "kind": type(decoder).__name__,
        "stimuli": len(set(train.stimulus_ids)),
        "neuroids": len(decoder.map_[0]),
        "cross_validated_accuracy": decoder.cv_accuracy_,
    }


@console.verb(decode, "identify", "penfield decode identify -m decoder -r world/subject-01 -f features.zarr")
def identify(
    run: console.Run,
    model: console.Fitted,
    recording: console.Recorded,
    features: Store,
    layer: Layer = None,
    roi: console.Rois = None,
    ways: Ways = None,
) -> dict[str, Any]:
    """Identify each held-out stimulus among all held-out ones: the answer and how sure it is, for each."""
    from encoders import Features
    from studies.decoding import held_out_average, load_latent_decoder
    from studies.sources import open_recording

    decoder, space = load_latent_decoder(model), Features.load(features, layer)
    test = held_out_average(decoder, open_recording(recording, tuple(roi or ())))
    found = decoder.identify(test, space.select(list(test.stimulus_ids)), n_way=ways, seed=run.seed)
    rows = zip(found.shown, found.answers, found.confidence, found.rank, strict=True)
    names = ("shown", "answer", "confidence", "rank")
    return {"model": model, **found.to_dict(), "answers": [dict(zip(names, row, strict=True)) for row in rows]}


@console.verb(decode, "retrieve", "penfield decode retrieve -m decoder -r new.zarr -f gallery.zarr -k 3")
def retrieve(
    run: console.Run,
    model: console.Fitted,
    recording: console.Recorded,
    features: Annotated[Path, typer.Option("--features", "-f", help="Feature store of the gallery.")],
    layer: Layer = None,
    roi: console.Rois = None,
    k: Annotated[int, typer.Option("-k", "--nearest", min=1, help="Stimuli of the gallery for each answer.")] = 5,
) -> dict[str, Any]:
    """Retrieve the stimuli of a gallery that each held-out response resembles most, with their probabilities."""
    from encoders import Features
    from studies.decoding import held_out_average, load_latent_decoder
    from studies.sources import open_recording

    decoder = load_latent_decoder(model)
    test = held_out_average(decoder, open_recording(recording, tuple(roi or ())))
    found = decoder.retrieve(test, Features.load(features, layer), k)
    rows = zip(test.stimulus_ids, found.stimulus_ids, found.confidence, strict=True)
    answers = [{"shown": s, "retrieved": list(r), "confidence": list(map(float, c))} for s, r, c in rows]
    return {"model": model, "n_gallery": found.n_gallery, "chance": found.chance, "answers": answers}


@console.verb(decode, "evaluate", "penfield decode evaluate -r blocks.zarr --group run --shuffles 100")
def evaluate(
    run: console.Run,
    recording: console.Recorded,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Fitted decoder to evaluate on stimuli it has not seen.")
    ] = None,
    features: Annotated[Path | None, typer.Option("--features", "-f", help="Feature store, with --model.")] = None,
    layer: Layer = None,
    roi: console.Rois = None,
    what: Annotated[
        Question, typer.Option(help="Without a model: categories, or single presentations by their patterns.")
    ] = Question.category,
    label: Label = "category",
    group: Group = "run",
    ways: Ways = None,
    shuffles: Annotated[int, typer.Option(min=1, help="Shuffles for the null.")] = 100,
) -> dict[str, Any]:
    """Cross-validated accuracy, chance, shuffled accuracy and p-value of decoding.

    Without a model, categories are decoded from groups of presentations (runs) that are left out in turn.
    """
    from encoders import Features
    from studies.decoding import evaluate_decoder, evaluate_recording
    from studies.sources import open_recording

    given = open_recording(recording, tuple(roi or ()))
    watched: dict[str, Any] = {"seed": run.seed, "on_event": run.on_event, "stop": run.stop}
    if model is None:
        return evaluate_recording(
            given, what.value, label=label, group=group, n_way=ways, n_permutations=shuffles, **watched
        )
    space = None if features is None else Features.load(features, layer)
    return evaluate_decoder(model, given, space, n_way=ways, n_permutations=shuffles, seed=run.seed)


if __name__ == "__main__":
    from .penfield import main

    main("decode")
