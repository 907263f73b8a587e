"""Pictures from a brain: what a decoder has not seen, drawn by a generator and set beside what was shown."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from decoders import Generator, ImageReconstructor, Reconstructions, choose_strength
from decoders.evaluation import load_network
from decoders.pictures.presets import find_preset
from decoders.pictures.tuning import GUIDANCES, STRENGTHS
from recordings import Recording, Stimuli
from recordings.errors import InputError, RepetitionError
from recordings.events import Event, OnEvent, Stop
from recordings.storage import atomic_path

from ..decoding import as_fitted, fitted_stimuli, held_out_average
from ..plan import Plan, extrapolate, resident_memory
from .comparison import COMPARED, NETWORK, compare, load_pictures, nearest_training, write_picture_report
from .fitting import PictureDecoder, Readers, chosen_stimuli, concatenate
from .scores import EMBEDDING
from .targets import check_generator, targets_of

AUTO: Literal["auto"] = "auto"
N_TUNED = 50

Choice = float | Literal["auto"] | None


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn; see `ImageReconstructor` and, for "auto", `choose_strength`.

    Attributes
    ----------
    preset : a name among `decoders.pictures.PRESETS`.
    strength, guidance : a number, "auto" for what gains most on training stimuli decoded out of fold, None for the
        preset's. steps, samples : None for the preset's.
    tuned : so many training stimuli, drawn with the seed, are reconstructed at every setting for "auto".
    batch_size : pictures drawn together. preview_every, allow_long : see `ImageReconstructor.reconstruct`.
    """

    preset: str = "penfield"
    strength: Choice = None
    guidance: Choice = None
    steps: int | None = None
    samples: int | None = None
    tuned: int = N_TUNED
    batch_size: int = 8
    preview_every: int = 0
    allow_long: bool = False

    @property
    def is_tuned(self) -> bool:
        """Whether strength or guidance is to be chosen."""
        return AUTO in (self.strength, self.guidance)

    def reconstructor(self, generator: Generator) -> ImageReconstructor:
        """With the preset's own values in place of "auto"."""
        given = {"strength": self.strength, "guidance": self.guidance}
        fixed: dict[str, Any] = {name: None if value == AUTO else value for name, value in given.items()}
        return ImageReconstructor(generator, self.preset, steps=self.steps, samples=self.samples, **fixed)


def reconstruct(
    model: Path,
    recording: Recording,
    stimuli: Stimuli | None,
    out: Path,
    drawing: Drawing | None = None,
    *,
    models: Mapping[str, str] | None = None,
    stimulus_ids: Sequence[str] = (),
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Draw the stimuli that a decoder was not fitted on from the responses to them, averaged over repetitions.

    `out` gets what `Reconstructions.save` writes, decoded embeddings, and, of the first pictures, a folder ``compared``
    with what was shown, what single inputs give, and the training picture most like the reconstruction. Previews go to
    the folder ``OUT-previews``, a file a picture that is replaced as it becomes clearer.

    Parameters
    ----------
    model : folder that `fit_brain_decoder` wrote. recording : of the same neuroids.
    stimuli : what was shown; None leaves out comparisons with it, and then nothing can be "auto".
    models : others than those of the fit: "generator", with the same autoencoder and text encoder, "controlnet" or
        "ip_adapter" to folder or hub name.
    stimulus_ids : draw only these of the held-out stimuli.

    Returns
    -------
    JSON values: settings that were used, numbers of pictures, captions where tokens are decoded, reasons of failures.

    Raises
    ------
    InputError : a preset that needs what was not decoded, or "auto" without the training presentations or stimuli.
    ArtifactError : no such decoder, other neuroids, or a generator that does not fit. Cancelled : `stop` answered True.
    """
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    given = _Given(model, recording, drawing or Drawing(), models or {}, stimulus_ids, device, seed, watched)
    tuning = None
    if given.drawing.is_tuned:
        if stimuli is None:
            raise InputError("auto compares with what was shown", remedy="Give --stimuli, or numbers")
        tuning = given.tune(stimuli)
    how: dict[str, Any] = {"seed": seed, "batch_size": given.drawing.batch_size}
    made = given.reconstructor.reconstruct(
        given.inputs,
        preview_every=given.drawing.preview_every,
        allow_long=given.drawing.allow_long,
        on_event=_with_previews(on_event, out, given.inputs.stimulus_ids),
        stop=stop,
        **how,
    )
    made = replace(made, settings={**made.settings, **given.about(made.stimulus_ids), "tuning": tuning})
    compared = compare(made, given.inputs, given.reconstructor, stimuli, **how, **watched)
    if stimuli is not None:
        training = made.settings["training_stimulus_ids"]
        compared |= nearest_training(made, stimuli, training, load_network(NETWORK, device), **watched)
    with atomic_path(out, overwrite=overwrite) as part:
        made.save(part)
        if given.inputs.embedding is not None:
            kept = np.isin(given.inputs.stimulus_ids, made.stimulus_ids)
            np.save(part / EMBEDDING, given.inputs.embedding[kept])
        for name, pictures in compared.items():
            pictures.save(part / COMPARED / name)
        write_picture_report(part, recording)
    return summary(made)


def summary(made: Reconstructions) -> dict[str, Any]:
    """What was drawn and how, as JSON values."""
    preset = made.settings["preset"]
    found = {name: preset[name] for name in ("strength", "guidance", "steps", "samples")}
    found = {"preset": preset["name"], "generator": made.settings["generator"], **found, "pictures": len(made)}
    more = {"captions": made.settings["captions"], "failed": made.failed, "tuning": made.settings["tuning"]}
    return found | {name: value for name, value in more.items() if value}


def plan_reconstruction(
    model: Path,
    recording: Recording,
    drawing: Drawing,
    *,
    models: Mapping[str, str] | None = None,
    stimulus_ids: Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
) -> Plan:
    """Cost of `reconstruct` with numbers for strength and guidance, from drawing the first pictures.

    Raises
    ------
    InputError : strength or guidance is "auto", whose cost is that of choosing it.
    """
    if drawing.is_tuned:
        raise InputError("a dry run cannot tell what auto will choose", remedy="Give numbers for strength and guidance")
    given = _Given(model, recording, drawing, models or {}, stimulus_ids, device, seed, {})

    def step(n: int) -> None:
        given.reconstructor.reconstruct(given.inputs.select(slice(n)), batch_size=drawing.batch_size, allow_long=True)

    n = len(given.inputs)
    fixed, each = extrapolate(step, n, first=min(drawing.batch_size, n))
    pixels = 3 * n * given.reconstructor.preset.samples * math.prod(given.reconstructor.generator.image_size)
    return Plan(fixed + each, resident_memory() + pixels, pixels)


class _Given:
    """What pictures are drawn from: the decoder, the generator, and the inputs decoded of the held-out stimuli."""

    def __init__(
        self,
        model: Path,
        recording: Recording,
        drawing: Drawing,
        models: Mapping[str, Any],
        stimulus_ids: Sequence[str],
        device: str,
        seed: int,
        watched: Mapping[str, Any],
    ):
        self.drawing, self.device, self.seed, self.watched = drawing, device, seed, watched
        self.decoder = PictureDecoder.load(model)
        self.recording = as_fitted(self.decoder.decoder, recording)
        test = chosen_stimuli(held_out_average(self.decoder.decoder, recording), stimulus_ids)
        preset = find_preset(drawing.preset)
        for target in targets_of(preset):
            self.decoder.check(target)
        sources = replace(self.decoder.sources, **models)
        made = sources.load_generator(device, preset)
        check_generator(self.decoder.part(targets_of(preset)), made)
        self.reconstructor = drawing.reconstructor(made)
        # Captions are shown beside pictures that do not need them.
        targets = [name for name in self.decoder.targets if name in (*targets_of(preset), "tokens")]
        self.readers = Readers.load(sources, made, targets, device)
        read = partial(self.readers.inputs, seed=seed, **watched)
        self.inputs = concatenate(self.decoder.decode(test, targets, read, **watched))
        self.inputs.check(made, self.reconstructor.preset)

    def about(self, stimulus_ids: Sequence[str]) -> dict[str, Any]:
        """What is kept beside the settings of the reconstructor."""
        captions = dict(zip(self.inputs.stimulus_ids, self.inputs.captions or (), strict=False))
        return {
            "training_stimulus_ids": sorted(fitted_stimuli(self.decoder.decoder)),
            "captions": {i: captions[i] for i in stimulus_ids if i in captions},
            "embedding": self.decoder.sources.embedding,
        }

    def tune(self, stimuli: Stimuli) -> list[dict[str, float]]:
        """Choose strength and guidance on training stimuli, decoded out of fold; what each setting was worth."""
        seen = np.isin(self.recording.stimulus_ids.astype(str), list(fitted_stimuli(self.decoder.decoder)))
        if not seen.any():
            raise RepetitionError(
                "auto decodes training stimuli out of fold, and the recording has none of them",
                remedy="Give the recording of the fit, or numbers",
            )
        train, preset = self.recording.take(np.flatnonzero(seen)), self.reconstructor.preset
        ids, targets = list(dict.fromkeys(map(str, train.stimulus_ids))), targets_of(preset)
        with tempfile.TemporaryDirectory() as scratch:
            shown = stimuli.select(ids)
            features = self.decoder.sources.make(shown, targets, Path(scratch), self.device, **self.watched)
            decoded = self.decoder.part(targets).cross_predict(train, features, **self.watched)
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(ids))[: self.drawing.tuned])
        chosen = [ids[row] for row in rows]
        readers = replace(self.readers, captioner=self.readers.captioner if "tokens" in targets else None)
        inputs = readers.inputs(chosen, {name: v[rows] for name, v in decoded.items()}, seed=self.seed, **self.watched)
        # Less than one step is none; from pure noise there is one strength.
        possible = [s for s in STRENGTHS if s == 0 or s * preset.steps >= 1]
        strengths = [1.0] if preset.start is None else possible
        found = choose_strength(
            self.reconstructor,
            inputs,
            load_pictures(stimuli, chosen, self.reconstructor.generator.image_size),
            load_network(NETWORK, self.device),
            strengths=strengths if self.drawing.strength == AUTO else [preset.strength],  # type: ignore[list-item]
            guidances=GUIDANCES if self.drawing.guidance == AUTO else [preset.guidance],  # type: ignore[list-item]
            seed=self.seed,
            batch_size=self.drawing.batch_size,
            allow_long=self.drawing.allow_long,
            **self.watched,
        )
        best = replace(self.drawing, strength=found.strength, guidance=found.guidance)
        self.reconstructor = best.reconstructor(self.reconstructor.generator)
        return found.table.to_dict("records")


def _with_previews(on_event: OnEvent | None, out: Path, ids: Sequence[str]) -> Callable[[Event], None]:
    """Events whose previews are written to the folder beside `out` first."""
    folder, rows = out.with_name(f"{out.name}-previews"), {str(i): row for row, i in enumerate(ids)}

    def tell(event: Event) -> None:
        named = (event.payload.get(name, ()) for name in ("preview", "stimulus_ids", "samples"))
        for pixels, i, sample in zip(*named, strict=False):
            with atomic_path(folder / f"{rows[i]:06d}-{sample:02d}.png", overwrite=True) as part:
                Image.fromarray(pixels).save(part, format="PNG")
        if on_event is not None:
            on_event(event)

    return tell
