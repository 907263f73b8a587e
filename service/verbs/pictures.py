"""Verbs that show what was seen: decode image, caption and depth."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from .base import Task, Verb
from .decode import Rois
from .references import Network, Reference


class DecodeImage(Verb):
    """Draw the stimuli that a decoder has not seen: PNG files, reconstructions.json and report.html."""

    name: ClassVar[str] = "decode image"
    writes: ClassVar[str] = "pictures"

    recording: Reference
    """Recording or subject folder."""
    model: Reference
    """What decode fit with target or preset wrote."""
    preset: str = "penfield"
    """penfield, takagi-cvpr, takagi-text, takagi-gan or takagi-depth."""
    samples: int | None = Field(default=None, ge=1)
    """Pictures a stimulus, by default the preset's."""
    steps: int | None = Field(default=None, ge=1)
    """Denoising steps, by default the preset's."""
    strength: float | Literal["auto"] | None = None
    """0 shows what was decoded, 1 starts from noise; auto for what gains most out of fold; the preset's by default."""
    guidance: float | Literal["auto"] | None = None
    """Guidance scale, or auto, by default the preset's."""
    tune_on: int = Field(default=50, ge=2)
    """Training stimuli that auto tries every setting on."""
    generator: Network | None = None
    """Another generator, which shares the parts that were decoded."""
    controlnet: Network | None = None
    """Another ControlNet, for presets with depth."""
    ip_adapter: Network | None = None
    """Another IP-Adapter, for presets with an embedding."""
    stimuli: Reference | None = None
    """What was shown; a subject folder brings its own."""
    stimulus: tuple[str, ...] = ()
    """Held-out stimuli; all by default."""
    roi: Rois = ()
    """Regions; all by default."""
    batch_size: int = Field(default=8, ge=1, le=256)
    """Pictures drawn together."""
    preview_every: int = Field(default=0, ge=0)
    """Every so many steps, write what is foreseen to pictures-previews; 0 for never."""
    allow_long: bool = False
    """Draw many large pictures without a GPU, which takes hours."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.pictures.drawing.reconstruct`."""
        from studies.pictures.drawing import Drawing, reconstruct
        from studies.sources import open_recording, stimuli_shown

        same = ("strength", "guidance", "steps", "samples", "batch_size", "preview_every", "allow_long")
        drawing = Drawing(self.preset, tuned=self.tune_on, **{name: getattr(self, name) for name in same})
        given = open_recording(task.path(self.recording), self.roi)
        models = {"generator": self.generator, "controlnet": self.controlnet, "ip_adapter": self.ip_adapter}
        how: dict[str, Any] = {
            "models": {part: name for part, name in models.items() if name is not None},
            "stimulus_ids": self.stimulus,
            "device": task.device,
            "seed": self.seed,
        }
        shown, out = stimuli_shown(task.path(self.recording), task.optional(self.stimuli)), task.out / self.writes
        found = reconstruct(task.path(self.model), given, shown, out, drawing, overwrite=True, **how, **task.watched)
        return {"out": out, "report": out / "report.html", **found}


class DecodeCaption(Verb):
    """Say in words what was seen, from decoded tokens, for the stimuli that a decoder has not seen."""

    name: ClassVar[str] = "decode caption"

    recording: Reference
    """Recording or subject folder."""
    model: Reference
    """What decode fit with target tokens wrote."""
    captioner: Network | None = None
    """Another captioner, which reads the same tokens, by default that of the fit."""
    stimuli: Reference | None = None
    """What was shown; a subject folder brings its own."""
    stimulus: tuple[str, ...] = ()
    """Held-out stimuli; all by default."""
    roi: Rois = ()
    """Regions; all by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.pictures.scores.caption_recording`."""
        from studies.pictures.scores import caption_recording
        from studies.sources import open_recording, stimuli_shown

        return caption_recording(
            task.path(self.model),
            open_recording(task.path(self.recording), self.roi),
            stimuli_shown(task.path(self.recording), task.optional(self.stimuli)),
            captioner=self.captioner,
            stimulus_ids=self.stimulus,
            device=task.device,
            **task.watched,
        )


class DecodeDepth(Verb):
    """Write how near everything was, larger is nearer: a depth map a stimulus, and depth.json."""

    name: ClassVar[str] = "decode depth"
    writes: ClassVar[str] = "depth"

    recording: Reference
    """Recording or subject folder."""
    model: Reference
    """What decode fit with target depth wrote."""
    format: Literal["png", "npy"] = "png"
    """16-bit PNG, or float32 arrays."""
    stimuli: Reference | None = None
    """What was shown; a subject folder brings its own."""
    stimulus: tuple[str, ...] = ()
    """Held-out stimuli; all by default."""
    roi: Rois = ()
    """Regions; all by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.pictures.scores.decode_depth`."""
        from studies.pictures.scores import decode_depth
        from studies.sources import open_recording, stimuli_shown

        return decode_depth(
            task.path(self.model),
            open_recording(task.path(self.recording), self.roi),
            task.out / self.writes,
            stimuli_shown(task.path(self.recording), task.optional(self.stimuli)),
            arrays=self.format == "npy",
            stimulus_ids=self.stimulus,
            overwrite=True,
            device=task.device,
            **task.watched,
        )
