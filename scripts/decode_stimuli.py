"""``penfield decode identify``, ``retrieve`` and ``evaluate``: which stimulus was seen, and how well it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .decode_options import Group, Label, Layer, Question, Shown, Store, Ways, decode

PICTURES = "Reconstructed pictures"


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
    recording: Annotated[
        Path | None, typer.Option("--recording", "-r", help="Recording (.zarr) or subject folder.")
    ] = None,
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
    pictures: Annotated[
        Path | None,
        typer.Option(help="Instead, score what decode image wrote; needs --stimuli.", rich_help_panel=PICTURES),
    ] = None,
    stimuli: Shown = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            help="Extractor URI or name of a published network, once each; published for all of these "
            "by default miniature:backbone.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    text_network: Annotated[
        list[str] | None,
        typer.Option(
            help="Extractor URI of a text model that compares decoded and true captions, once each; URI#text for the "
            "text tower of two.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Column of the stimuli, to tell scores within and across it.", rich_help_panel=PICTURES),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Add published rows, others' numbers.", rich_help_panel=PICTURES)
    ] = False,
    shuffles: Annotated[int, typer.Option(min=1, help="Shuffles for the null.")] = 100,
) -> dict[str, Any]:
    """Accuracy, chance, shuffled accuracy and p-value of decoding, or the scores of reconstructed pictures.

    Without a model, categories are decoded from groups of presentations (runs) that are left out in turn.

    With --pictures: pixel correlation, SSIM, two-way identification by each network, and what the nearest training
    pictures reach in the same, beside each other; networks says which were used.
    """
    watched: dict[str, Any] = {"seed": run.seed, "on_event": run.on_event, "stop": run.stop}
    if pictures is not None:
        from studies.pictures.scores import evaluate_reconstructions
        from studies.sources import open_stimuli

        if stimuli is None or recording or model or features:
            raise typer.BadParameter("--pictures goes with --stimuli, and not with a recording, a model or features")
        how: dict[str, Any] = {
            "networks": network or (),
            "text_networks": text_network or (),
            "by": by,
            "published": published,
            "n_permutations": shuffles,
        }
        scores = evaluate_reconstructions(pictures, open_stimuli(stimuli), **how, device=run.device, **watched)
        return {"pictures": pictures, **scores}
    from encoders import Features
    from studies.decoding import evaluate_decoder, evaluate_recording
    from studies.sources import open_recording

    if recording is None or stimuli or network or text_network or by or published:
        raise typer.BadParameter("give --recording, or --pictures with --stimuli and options of pictures")
    given = open_recording(recording, tuple(roi or ()))
    if model is None:
        return evaluate_recording(
            given, what.value, label=label, group=group, n_way=ways, n_permutations=shuffles, **watched
        )
    space = None if features is None else Features.load(features, layer)
    return evaluate_decoder(model, given, space, n_way=ways, n_permutations=shuffles, seed=run.seed)


if __name__ == "__main__":
    from .penfield import main

    main("decode")
