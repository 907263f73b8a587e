"""``penfield decode image``, ``caption`` and ``depth``: what was seen, drawn, in words, and how near it was."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import console
from .decode_options import Held, Preset, Samples, Shown, Steps, decode


class Format(StrEnum):
    """Files of depth maps."""

    png = "png"
    npy = "npy"


Decoder = Annotated[Path, typer.Option("--model", "-m", help="Folder that decode fit --target wrote.")]


@console.verb(
    decode, "image", "penfield decode image -r world/subject-01 -m decoder --strength auto --samples 2 --out pictures"
)
def image(
    run: console.Run,
    recording: console.Recorded,
    model: Decoder,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and their report.html.")],
    preset: Preset = "penfield",
    samples: Samples = None,
    steps: Steps = None,
    strength: Annotated[
        str | None,
        typer.Option(
            help="0 shows what was decoded, 1 starts from noise; auto for what gains most on training stimuli decoded "
            "out of fold, by default the preset's."
        ),
    ] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance scale, or auto, by default the preset's.")] = None,
    tune_on: Annotated[int, typer.Option(min=2, help="Training stimuli that auto tries every setting on.")] = 50,
    generator: Annotated[
        str | None, typer.Option(help="Another generator, which shares the parts that were decoded.")
    ] = None,
    controlnet: Annotated[str | None, typer.Option(help="Another ControlNet, for presets with depth.")] = None,
    ip_adapter: Annotated[
        str | None, typer.Option("--ip-adapter", help="Another IP-Adapter, for presets with an embedding.")
    ] = None,
    stimuli: Shown = None,
    stimulus: Held = None,
    roi: console.Rois = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn together.")] = 8,
    preview_every: Annotated[
        int, typer.Option(min=0, help="Every so many steps, write what is foreseen to OUT-previews; 0 for never.")
    ] = 0,
    allow_long: Annotated[
        bool, typer.Option("--allow-long", help="Draw many large pictures without a GPU, which takes hours.")
    ] = False,
    overwrite: console.Overwrite = False,
    dry_run: console.DryRun = False,
) -> dict[str, Any]:
    """Draw the stimuli that a decoder has not seen from the brain's responses to them.

    Writes PNG files, reconstructions.json with all settings, and report.html: the first pictures beside what was
    shown, what single inputs give, and the nearest training picture.
    """
    from studies.pictures.drawing import Drawing, plan_reconstruction, reconstruct
    from studies.sources import open_recording, stimuli_shown

    console.check_absent(out, overwrite)
    drawing = Drawing(
        preset,
        strength=_choice(strength, "--strength"),
        guidance=_choice(guidance, "--guidance"),
        steps=steps,
        samples=samples,
        tuned=tune_on,
        batch_size=batch_size,
        preview_every=preview_every,
        allow_long=allow_long,
    )
    given = open_recording(recording, tuple(roi or ()))
    models = {"generator": generator, "controlnet": controlnet, "ip_adapter": ip_adapter}
    how: dict[str, Any] = {
        "models": {part: name for part, name in models.items() if name is not None},
        "stimulus_ids": stimulus or (),
        "device": run.device,
        "seed": run.seed,
    }
    if dry_run:
        return plan_reconstruction(model, given, drawing, **how).to_dict()
    shown = stimuli_shown(recording, stimuli)
    watched: dict[str, Any] = {"on_event": run.on_event, "stop": run.stop}
    found = reconstruct(model, given, shown, out, drawing, overwrite=overwrite, **how, **watched)
    return {"out": out, "report": out / "report.html", **found}


@console.verb(decode, "caption", "penfield decode caption -r world/subject-01 -m decoder")
def caption(
    run: console.Run,
    recording: console.Recorded,
    model: Decoder,
    captioner: Annotated[
        str | None, typer.Option(help="Another captioner, which reads the same tokens, by default that of the fit.")
    ] = None,
    stimuli: Shown = None,
    stimulus: Held = None,
    roi: console.Rois = None,
) -> dict[str, Any]:
    """Say in words what was seen, from decoded tokens, for the stimuli that a decoder has not seen."""
    from studies.pictures.scores import caption_recording
    from studies.sources import open_recording, stimuli_shown

    return caption_recording(
        model,
        open_recording(recording, tuple(roi or ())),
        stimuli_shown(recording, stimuli),
        captioner=captioner,
        stimulus_ids=stimulus or (),
        device=run.device,
        on_event=run.on_event,
        stop=run.stop,
    )


@console.verb(decode, "depth", "penfield decode depth -r world/subject-01 -m decoder --out depth")
def depth(
    run: console.Run,
    recording: console.Recorded,
    model: Decoder,
    out: Annotated[Path, typer.Option(help="Folder for a depth map a stimulus and depth.json.")],
    form: Annotated[Format, typer.Option("--format", help="16-bit PNG, or float32 arrays.")] = Format.png,
    stimuli: Shown = None,
    stimulus: Held = None,
    roi: console.Rois = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Write how near everything was, larger is nearer, for the stimuli that a decoder has not seen."""
    from studies.pictures.scores import decode_depth
    from studies.sources import open_recording, stimuli_shown

    console.check_absent(out, overwrite)
    return decode_depth(
        model,
        open_recording(recording, tuple(roi or ())),
        out,
        stimuli_shown(recording, stimuli),
        arrays=form is Format.npy,
        stimulus_ids=stimulus or (),
        overwrite=overwrite,
        device=run.device,
        on_event=run.on_event,
        stop=run.stop,
    )


def _choice(text: str | None, option: str) -> Any:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint=option) from error


if __name__ == "__main__":
    from .penfield import main

    main("decode")
