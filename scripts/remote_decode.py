"""``penfield remote decode``: pictures, captions and depth maps from a server's decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .decode_options import Preset, Samples, Steps
from .decode_pictures import Format
from .remote_options import Held, Served, remote, verb

if TYPE_CHECKING:
    from recordings.events import Event
    from service.client import Client, Decoded

decode = console.group("What was seen, from responses that lie here and a decoder that lies there.")
remote.add_typer(decode, name="decode")


@verb(decode, "image", "penfield remote decode image -r world/subject-01 -m decoder --stimulus s007 --out pictures")
def image(
    client: Client,
    run: console.Run,
    recording: console.Recorded,
    model: Served,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    preset: Preset = "penfield",
    samples: Samples = None,
    steps: Steps = None,
    strength: Annotated[
        float | None, typer.Option(help="0 shows what was decoded, 1 starts from noise; by default the preset's.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, by default the preset's.")] = None,
    stimulus: Held = None,
    roi: console.Rois = None,
    preview_every: Annotated[
        int, typer.Option(min=0, help="Every so many steps, write what is foreseen to OUT-previews; 0 for never.")
    ] = 0,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Draw what was seen from the brain's responses to it, on a server.

    Writes PNG files and reconstructions.json as decode image does, without its report. All stimuli of the recording
    are drawn, also those that the decoder was fitted on, unless some are named: only who fitted it knows which.
    """
    from decoders import Reconstructions
    from recordings.storage import atomic_path
    from studies.sources import open_recording

    console.check_absent(out, overwrite)
    given = open_recording(recording, tuple(roi or ()))
    rows = client.decode(
        model,
        given,
        ("image",),
        stimulus_ids=stimulus,
        preset=preset,
        strength=strength,
        guidance=guidance,
        steps=steps,
        samples=samples,
        seed=run.seed,
        preview_every=preview_every,
        on_event=_with_previews(run, out, _names(given, stimulus)),
    )
    whole, failed = _apart(rows)
    settings = dict(whole[0].settings)
    names = [name for name in ("strength", "guidance", "steps", "samples") if name in settings]
    chosen: dict[str, Any] = {name: settings.pop(name) for name in names}
    described = {
        "preset": {"name": settings.pop("preset", preset), **chosen},
        **settings,
        "captions": {},
        "tuning": None,
    }
    made = Reconstructions([row.stimulus_id for row in whole], _stacked(whole, "images"), failed, described)
    with atomic_path(out, overwrite=overwrite) as part:
        made.save(part)
    summary = {"preset": described["preset"]["name"], "generator": settings.get("generator"), **chosen}
    return {"out": out, **summary, "pictures": len(made)} | ({"failed": failed} if failed else {})


@verb(decode, "caption", "penfield remote decode caption -r world/subject-01 -m decoder")
def caption(
    client: Client,
    run: console.Run,
    recording: console.Recorded,
    model: Served,
    stimulus: Held = None,
    roi: console.Rois = None,
) -> dict[str, Any]:
    """Say in words what was seen, on a server, for the stimuli of a recording or some of them."""
    from studies.sources import open_recording

    given = open_recording(recording, tuple(roi or ()))
    rows = client.decode(model, given, ("caption",), stimulus_ids=stimulus, seed=run.seed, on_event=run.on_event)
    whole, failed = _apart(rows)
    captions = [{"stimulus": row.stimulus_id, "caption": row.caption} for row in whole]
    return {"stimuli": len(whole), "captions": captions} | ({"failed": failed} if failed else {})


@verb(decode, "depth", "penfield remote decode depth -r world/subject-01 -m decoder --out depth")
def depth(
    client: Client,
    run: console.Run,
    recording: console.Recorded,
    model: Served,
    out: Annotated[Path, typer.Option(help="Folder for a depth map a stimulus and depth.json.")],
    form: Annotated[Format, typer.Option("--format", help="16-bit PNG, or float32 arrays.")] = Format.png,
    stimulus: Held = None,
    roi: console.Rois = None,
    overwrite: console.Overwrite = False,
) -> dict[str, Any]:
    """Write how near everything was, larger is nearer, for the stimuli of a recording or some of them, on a server."""
    from recordings.storage import atomic_path
    from studies.pictures.scores import write_maps
    from studies.sources import open_recording

    console.check_absent(out, overwrite)
    given = open_recording(recording, tuple(roi or ()))
    rows = client.decode(model, given, ("depth",), stimulus_ids=stimulus, seed=run.seed, on_event=run.on_event)
    whole, failed = _apart(rows)
    maps = _stacked(whole, "depth")
    with atomic_path(out, overwrite=overwrite) as part:
        part.mkdir()
        write_maps(part, maps, [row.stimulus_id for row in whole], form is Format.npy)
    answer = {"out": out, "stimuli": len(whole), "height": maps.shape[1], "width": maps.shape[2]}
    return answer | ({"failed": failed} if failed else {})


def _apart(rows: Sequence[Decoded]) -> tuple[list[Decoded], dict[str, str]]:
    """Rows that came out, and reasons of the others by name; the first error if nothing came out."""
    whole = [row for row in rows if row.failure is None]
    failed = {row.stimulus_id: row.failure for row in rows if row.failure is not None}
    if not whole:
        raise next(iter(failed.values()))
    return whole, {name: str(error) for name, error in failed.items()}


def _stacked(rows: Sequence[Decoded], what: str) -> Any:
    import numpy as np

    return np.stack([getattr(row, what) for row in rows])


def _names(recording: Any, stimulus: Sequence[str] | None) -> list[str]:
    return list(stimulus or dict.fromkeys(map(str, recording.stimulus_ids)))


def _with_previews(run: console.Run, out: Path, names: Sequence[str]) -> Callable[[Event], None]:
    """Events whose previews are written to the folder beside `out` first, as decode image writes them."""
    folder, rows = out.with_name(f"{out.name}-previews"), {name: row for row, name in enumerate(names)}

    def tell(event: Event) -> None:
        from PIL import Image

        from recordings.storage import atomic_path

        named = (event.payload.get(name, ()) for name in ("preview", "stimulus_ids", "samples"))
        for pixels, name, sample in zip(*named, strict=True):
            with atomic_path(folder / f"{rows[name]:06d}-{sample:02d}.png", overwrite=True) as part:
                Image.fromarray(pixels).save(part, format="PNG")
        run.on_event(event)

    return tell
