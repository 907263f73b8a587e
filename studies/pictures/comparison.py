"""Reconstructions beside what was shown, what single inputs give, and the training picture most like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from decoders import DecodedInputs, Generator, ImageReconstructor, Reconstructions
from decoders.evaluation import PictureFeatures, nearest_training_pictures
from decoders.evaluation.features import Network
from decoders.pictures import Preset
from decoders.pictures.pixels import resize
from recordings import Recording, Stimuli
from recordings.errors import InputError
from recordings.events import OnEvent, Stop

from ..report import Headline, Section, write_report
from ..report.images import photograph

COMPARED, REPORT = "compared", "report.html"
NETWORK = "miniature:backbone"
N_SHOWN = 16
# Published scores are of pictures of this size.
LARGEST = 256
CELL = 96
TITLES = {
    "z": "decoded z",
    "image": "inverted features",
    "text": "text only",
    "start": "start and text",
    "depth": "and depth",
    "drawn": "all of the preset",
    "nearest": "nearest training picture",
}


def load_pictures(
    stimuli: Stimuli, stimulus_ids: Sequence[str], size: int | tuple[int, int] | None = None
) -> np.ndarray:
    """Pictures of stimuli, uint8 (n, H, W, 3), by default square, of the size of the first and at most `LARGEST`.

    Raises
    ------
    MismatchedIdsError : no such stimulus. InputError : a clip.
    """
    chosen, found = stimuli.select(list(stimulus_ids)), []
    for position in range(len(chosen)):
        picture = chosen.load(position)
        if picture.ndim != 3:
            raise InputError(f"stimulus {chosen.ids[position]!r} is a clip", remedy="Pictures are drawn of pictures")
        size = size or min(max(picture.shape[:2]), LARGEST)
        found.append(resize(picture[None], size)[0])
    return np.stack(found)


def compare(
    made: Reconstructions,
    inputs: DecodedInputs,
    reconstructor: ImageReconstructor,
    stimuli: Stimuli | None,
    *,
    seed: int = 0,
    batch_size: int = 8,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Reconstructions]:
    """The first `N_SHOWN` pictures by other means: "shown", and those of `TITLES` that the inputs allow.

    A UNet that sees depth draws nothing without it.
    """
    generator, preset = reconstructor.generator, reconstructor.preset
    ids = made.stimulus_ids[:N_SHOWN]
    order = [list(map(str, inputs.stimulus_ids)).index(i) for i in ids]
    some, found = inputs.select(order), dict[str, Reconstructions]()
    if stimuli is not None:
        known = dict(zip(ids, stimuli.select(ids).captions, strict=True)) if "caption" in stimuli.table else {}
        found["shown"] = _plain(ids, load_pictures(stimuli, ids, generator.image_size), captions=known)
    if preset.start == "z":
        assert some.z is not None
        found["z"] = _plain(ids, resize(generator.decode_latents(some.z), generator.image_size))
    elif preset.start == "image":
        assert some.image is not None
        found["image"] = _plain(ids, resize(some.image, generator.image_size))
    for name, other in _less(preset, generator).items():
        alone = ImageReconstructor(generator, other)
        found[name] = alone.reconstruct(some, seed=seed, batch_size=batch_size, on_event=on_event, stop=stop)
    return found


def _less(preset: Preset, generator: Generator) -> dict[str, Preset]:
    """Presets that use less of the inputs."""
    if preset.text is None or generator.takes_depth == "depth2img":
        return {}
    base = replace(preset, name="start and text", depth=None, embedding=False, samples=1)
    found = {"text": replace(base, name="text", start=None, reproject=False, strength=1.0)}
    if preset.start and (preset.depth or preset.embedding):
        found["start"] = base
    if preset.depth and preset.embedding:
        found["depth"] = replace(base, name="depth", depth=preset.depth)
    return found


def nearest_training(
    made: Reconstructions,
    stimuli: Stimuli,
    training: Sequence[str],
    network: Network,
    *,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Reconstructions]:
    """By "nearest", the training picture most like each of the first `N_SHOWN` pictures; nothing if there is none."""
    known = set(stimuli.ids)
    candidates = [i for i in training if i in known]
    if not candidates:
        return {}
    (height, width), ids = made.images.shape[2:4], made.stimulus_ids[:N_SHOWN]
    pictures = load_pictures(stimuli, candidates, (min(height, LARGEST), min(width, LARGEST)))
    drawn, others = (
        PictureFeatures(p, network, on_event=on_event, stop=stop) for p in (made.images[:N_SHOWN, 0], pictures)
    )
    rows = nearest_training_pictures(drawn, others)
    names = {i: candidates[row] for i, row in zip(ids, rows, strict=True)}
    return {"nearest": _plain(ids, resize(pictures[rows], (height, width)), nearest=names)}


def _plain(ids: list[str], images: np.ndarray, **settings: Any) -> Reconstructions:
    return Reconstructions(ids, images[:, None], {}, settings)


# Page ------------------------------------------------------------------------------------------------------------


def write_picture_report(folder: Path, recording: Recording) -> None:
    """Write ``report.html`` to a folder of reconstructions."""
    made = Reconstructions.load(folder)
    preset = made.settings["preset"]
    simulated = recording.attrs.get("source") == "simulated"
    write_report(
        folder / REPORT,
        title="Pictures from responses",
        notice="These data are simulated. No brain was measured."
        if simulated
        else "Texture and outline come from the generator, not from the brain.",
        lead="Pictures drawn from responses to stimuli on which the decoder was not fitted.",
        headlines=[
            Headline(f"{len(made):,}", "pictures", f"{preset['samples']} each; {len(made.failed)} failed"),
            Headline(f"{preset['strength']:g}", "strength", "0 shows what was decoded, 1 starts from noise"),
            Headline(f"{preset['guidance']:g}", "guidance", "up to 1 there is none"),
        ],
        sections=[picture_section(folder)],
        facts={"Preset": preset["name"], "Generator": made.settings["generator"], "Seed": str(made.settings["seed"])},
    )


def picture_section(
    folder: Path, key: str = "drawn", title: str = "Shown and drawn", scores: Mapping[str, Any] | None = None
) -> Section:
    """A section with the first pictures of a folder of reconstructions, and scores where there are some.

    Parameters
    ----------
    folder : of `studies.pictures.drawing.reconstruct`.
    scores : of it, by `studies.pictures.scores.evaluate_reconstructions`.
    """
    made, scores = Reconstructions.load(folder), scores or {}
    metrics, gains = scores.get("metrics", {}), scores.get("over_nearest_training", {})
    others = {name: Reconstructions.load(folder / COMPARED / name) for name in ("shown", *TITLES) if _has(folder, name)}
    shown = others.pop("shown", None)
    columns = {name: others.get(name, made) for name in TITLES if name in others or name == "drawn"}
    captions = {} if shown is None else shown.settings["captions"]
    rows = [
        {
            "shown": None if shown is None else _cell(shown, i, f"Shown: {captions.get(i, i)}"),
            "drawn": [_cell(other, i, f"{TITLES[name]}, of {captions.get(i, i)}") for name, other in columns.items()],
            "words": made.settings["captions"].get(i, ""),
        }
        for i in made.stimulus_ids[:N_SHOWN]
    ]
    content = {
        "shown": shown is not None,
        "titles": [TITLES[name] for name in columns],
        "words": bool(made.settings["captions"]),
        "rows": rows,
        "n": len(made),
        "scores": [_score(name, score, gains.get(name)) for name, score in metrics.items() if "value" in score],
        "preset": made.settings["preset"],
        "chosen": bool(made.settings.get("tuning")),
    }
    return Section(key, title, content, template="reconstructions.html.j2")


def _has(folder: Path, name: str) -> bool:
    return (folder / COMPARED / name).is_dir()


def _cell(pictures: Reconstructions, stimulus_id: str, alt: str) -> Any:
    known = stimulus_id in pictures.stimulus_ids
    return photograph(pictures.of(stimulus_id)[0], alt, CELL) if known else None


def _score(name: str, score: Mapping[str, Any], gain: Mapping[str, Any] | None) -> list[str]:
    shuffled = f"{score['shuffled']:.3f}" if "shuffled" in score else ""
    return [name, f"{score['value']:.3f}", _interval(score), shuffled, _gain(gain)]


def _gain(gain: Mapping[str, Any] | None) -> str:
    if not gain or "value" not in gain:
        return ""
    return f"{gain['value']:+.3f}" + (f" ({gain['low']:+.3f} to {gain['high']:+.3f})" if "low" in gain else "")


def _interval(score: Mapping[str, Any]) -> str:
    return f"{score['low']:.3f} to {score['high']:.3f}" if "low" in score else ""
