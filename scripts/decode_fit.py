"""``penfield decode fit``: decoders of features, of categories, and of what pictures are made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .decode_options import Group, Label, Layer, Shown, Target, decode

if TYPE_CHECKING:
    from decoders import CategoryDecoder, LatentDecoder

PICTURES, MODELS = "Pictures, captions and depth", "Models whose states are decoded"


@console.verb(
    decode, "fit", "penfield decode fit -r world/subject-01 --preset penfield --target tokens --rois z=V1,V2 --out d"
)
def fit(
    run: console.Run,
    recording: console.Recorded,
    out: Annotated[Path, typer.Option(help="Folder to write the fitted decoder to.")],
    features: Annotated[
        Path | None, typer.Option("--features", "-f", help="Feature store to decode into; without it, categories.")
    ] = None,
    layer: Layer = None,
    split: Annotated[
        str,
        typer.Option(
            help="What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,..., COLUMN:VALUE,... or "
            "COLUMN:NUMBER of the stimuli, such as category:3 for three of them, or none."
        ),
    ] = "stimulus:0.2",
    roi: console.Rois = None,
    standardise: console.Standardise = None,
    reliability: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest noise ceiling of a neuroid that is read.")
    ] = 0.05,
    all_neuroids: Annotated[
        bool, typer.Option("--all-neuroids", help="Read neuroids whatever their reliability, for unrepeated stimuli.")
    ] = False,
    max_neuroids: Annotated[int | None, typer.Option(min=1, help="Read at most so many, the most reliable.")] = None,
    components: Annotated[
        int | None, typer.Option(min=1, help="Decode so many principal components of larger targets.")
    ] = None,
    label: Label = "category",
    group: Group = "run",
    target: Annotated[
        list[Target] | None,
        typer.Option(
            help="Decode latents (z), text (c), depth, image embedding, caption tokens or deep features; once each.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Decode what this preset of decode image needs, from its regions.", rich_help_panel=PICTURES),
    ] = None,
    rois: Annotated[
        list[str] | None,
        typer.Option(
            help="Regions of a target, TARGET=ROI,ROI; once a target. The preset's, or all, by default.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    stimuli: Shown = None,
    no_rescale: Annotated[
        bool,
        typer.Option("--no-rescale", help="Leave the small spread of ridge predictions.", rich_help_panel=PICTURES),
    ] = False,
    generator: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of z and c, by default miniature:diffusion.", rich_help_panel=MODELS),
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="Of the generator, for presets with depth.", rich_help_panel=MODELS)
    ] = None,
    ip_adapter: Annotated[
        str | None, typer.Option(help="Of the generator, for presets with an embedding.", rich_help_panel=MODELS)
    ] = None,
    captioner: Annotated[
        str | None, typer.Option(help="Of tokens, by default miniature:captioner.", rich_help_panel=MODELS)
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option(help="Extractor URI of the embedding, by default miniature:backbone.", rich_help_panel=MODELS),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(help="truth, or a DPT, by default truth for miniature scenes.", rich_help_panel=MODELS),
    ] = None,
    invert: Annotated[
        str | None,
        typer.Option(help="Extractor URI of features, by default miniature:backbone.", rich_help_panel=MODELS),
    ] = None,
    invert_layer: Annotated[
        list[str] | None, typer.Option(help="Layer of features; once each.", rich_help_panel=MODELS)
    ] = None,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Fit a decoder on a part of a recording: into a feature space, of categories, or of what pictures are made from.

    --target or --preset fit all that decode image, caption and depth need, and write it to one folder.
    """
    from recordings.errors import InputError
    from studies.sources import open_recording, stimuli_shown
    from studies.standardise import standardise_sessions
    from studies.study import training_part

    console.check_absent(out, overwrite)
    shown = stimuli_shown(recording, stimuli)
    whole = open_recording(recording, tuple(roi or ()))
    train = training_part(whole, split, run.seed, shown)
    if standardise:
        if not (features or target or preset):
            raise typer.BadParameter("categories are not standardised: their groups are left out in turn")
        train = standardise_sessions(train, whole)
    selection: dict[str, Any] = {"reliability": None if all_neuroids else reliability, "max_neuroids": max_neuroids}
    models: dict[str, Any] = {
        "generator": generator,
        "controlnet": controlnet,
        "ip_adapter": ip_adapter,
        "captioner": captioner,
        "embedding": embedding,
        "depth": depth,
        "features": invert,
        "layers": tuple(invert_layer) if invert_layer else None,
    }
    named = {name: value for name, value in models.items() if value is not None}
    if not target and not preset:
        if rois or no_rescale or stimuli or named:
            raise typer.BadParameter("options of pictures, captions and depth go with --target or --preset")
        return _fit_one(run, train, out, features, layer, selection, components, (label, group), overwrite, dry_run)
    if features is not None:
        raise typer.BadParameter("--features goes without --target and --preset")
    if shown is None:
        raise InputError("targets are made from what was shown", where=recording, remedy="Give --stimuli")
    from decoders.pictures.presets import find_preset
    from studies.pictures.fitting import fit_brain_decoder, plan_brain_decoder
    from studies.pictures.targets import Sources, check_targets, find_rois, targets_of

    wanted = find_preset(preset) if preset else None
    targets = check_targets([*(targets_of(wanted) if wanted else ()), *(t.value for t in target or ())])
    regions, notes = find_rois(train, targets, _regions(rois or []), wanted)
    how: dict[str, Any] = {**selection, "components": components, "rescale": not no_rescale}
    given = (train, shown, regions, Sources(**named))
    how |= {"device": run.device, "seed": run.seed}
    if dry_run:
        return plan_brain_decoder(*given, **how).to_dict()
    found = fit_brain_decoder(*given, out, overwrite=overwrite, **how, on_event=run.on_event, stop=run.stop)
    return {"out": out, "kind": "BrainDecoder", **found, **({"notes": notes} if notes else {})}


def _fit_one(
    run: console.Run,
    train: Any,
    out: Path,
    features: Path | None,
    layer: str | None,
    selection: dict[str, Any],
    components: int | None,
    categories: tuple[str, str],
    overwrite: bool,
    dry_run: bool,
) -> dict[str, Any]:
    from decoders import CategoryDecoder, LatentDecoder
    from encoders import Features
    from studies.encoding import solver_device
    from studies.plan import plan_decoder

    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    latent = LatentDecoder(**selection, components=components, device=solver_device(run.device), seed=run.seed)
    if dry_run:
        if features is None:
            raise typer.BadParameter("--dry-run goes with --features or --target; categories take a moment")
        return plan_decoder(latent, Features.load(features, layer), train).to_dict()
    decoder: CategoryDecoder | LatentDecoder
    if features is None:
        label, group = categories
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


def _regions(texts: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        target, _, names = text.partition("=")
        regions = [name for name in names.split(",") if name]
        if not regions:
            raise typer.BadParameter(f"{text!r} is no TARGET=ROI,ROI such as z=V1,V2", param_hint="--rois")
        if target in found:
            raise typer.BadParameter(f"regions of {target} twice; write {target}=ROI,ROI", param_hint="--rois")
        found[target] = regions
    return found


if __name__ == "__main__":
    from .penfield import main

    main("decode")
