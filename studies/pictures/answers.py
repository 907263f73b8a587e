"""The answer to a study's question for pictures, apart from the others, since its imports take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decoders.pictures.presets import find_preset

from ..answers import MODEL, once
from ..page import PICTURES
from ..questions import Reconstruction
from ..work import Work
from .drawing import Drawing
from .drawing import reconstruct as draw
from .fitting import fit_brain_decoder
from .scores import evaluate_reconstructions
from .targets import Sources, check_targets, find_rois, targets_of


def reconstruct(work: Work, part: Reconstruction, folder: Path) -> dict[str, Any]:
    """How pictures of the held-out stimuli were drawn, and their scores.

    A folder holds the fitted decoder, which a later run goes on from, in ``fitted/model``, and ``pictures``.
    """
    preset = find_preset(part.preset)
    targets = check_targets([*targets_of(preset), *(["tokens"] if part.captions else ())])
    rois, notes = find_rois(work.train, targets, part.rois, preset)
    sources = Sources(
        part.generator,
        part.controlnet,
        part.ip_adapter,
        part.captioner,
        part.embedding,
        part.depth,
        part.invert,
        part.invert_layers,
    )
    how: dict[str, Any] = {"device": work.study.device, "seed": work.study.seed, **work.watched}
    names = ("components", "rescale", "reliability", "max_neuroids")
    options: dict[str, Any] = {name: getattr(part, name) for name in names}
    options["reliability"] = part.reliability or None

    def fit(place: Path) -> dict[str, Any]:
        options["overwrite"] = True
        return fit_brain_decoder(work.train, work.shown, rois, sources, place / MODEL, **options, **how)

    fitted = once(folder / "fitted", work.fingerprint, fit)
    drawing = Drawing(
        part.preset,
        part.strength,
        part.guidance,
        part.steps,
        part.samples,
        part.tuned,
        part.batch_size,
        allow_long=part.allow_long,
    )
    model, pictures = folder / "fitted" / MODEL, folder / PICTURES
    drawn = draw(model, work.recording, work.shown, pictures, drawing, overwrite=True, **how)
    asked: dict[str, Any] = {
        "networks": part.networks,
        "text_networks": part.text_networks,
        "by": part.by,
        "n_permutations": part.shuffles,
    }
    scores = evaluate_reconstructions(pictures, work.shown, **asked, **how)
    return {**drawn, **({"notes": notes} if notes else {}), "decoder": fitted, **scores}
