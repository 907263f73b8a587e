"""Scenes as stimuli."""

from __future__ import annotations

from recordings.events import OnEvent, Stop
from recordings.stimuli import Stimuli

from .captions import caption
from .render import Rendered, render
from .scenes import Scenes


def make_stimuli(
    scenes: Scenes,
    size: int = 64,
    *,
    rendered: Rendered | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Stimuli:
    """Scenes as stimuli, with their captions and every parameter as columns.

    ``Scenes.from_frame(stimuli.table)`` gives the scenes back. They are rendered at `size` pixels unless `rendered`
    holds their pictures. Raises `Cancelled` if `stop` answers True.
    """
    pictures = rendered or render(scenes, size, on_event=on_event, stop=stop)
    columns = {name: values.to_numpy() for name, values in scenes.to_frame().items()}
    ids = columns.pop("stimulus_id")
    return Stimuli.from_arrays(pictures.image, stimulus_id=ids, caption=caption(scenes), **columns)
