"""Verbs about what was shown and what the brain did: simulate, describe, features and import."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from service.data.contents import leaves_folder

from .base import Task, Verb
from .references import Network, Reference, paths_in, references_in, resolved, texts_in, with_references


class Simulate(Verb):
    """Simulate subjects that look at scenes of the miniature world: subject-01, subject-02, ... with their truth."""

    name: ClassVar[str] = "simulate"

    scenes: int = Field(default=1000, ge=2, le=100_000)
    """Scenes that every subject sees."""
    subjects: int = Field(default=1, ge=1, le=1000)
    """Subjects, each wired in a way of their own."""
    repetitions: int = Field(default=3, ge=1, le=1000)
    """Times that each scene is shown."""
    sessions: int = Field(default=1, ge=1, le=1000)
    """Sessions that presentations are spread over."""
    snr: float | None = Field(default=None, ge=0.01)
    """Signal over noise of one presentation, in s.d.; by default a ceiling of .7."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.simulation.simulate_world`."""
        from studies.simulation import ceiling_from_snr, simulate_world

        noise_ceiling = 0.7 if self.snr is None else ceiling_from_snr(self.snr, self.repetitions)
        how: dict[str, Any] = {"repetitions": self.repetitions, "sessions": self.sessions, "seed": self.seed}
        # Subjects that an earlier attempt has finished are made again, to the same numbers.
        how["overwrite"] = True
        made = simulate_world(task.out, self.scenes, self.subjects, noise_ceiling=noise_ceiling, **how, **task.watched)
        first = made[0].recording
        return {
            "out": task.out,
            "subjects": [subject.subject_id for subject in made],
            "noise_ceiling": noise_ceiling,
            "shape": dict(first.data.sizes),
            "rois": {name: int(first.roi_mask(name).sum()) for name in first.rois},
        }


class Describe(Verb):
    """Say what is in a recording, features or a fitted model."""

    name: ClassVar[str] = "describe"

    path: Reference
    """Recording, subject, RDMs, features or model."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `recordings.readers.describe.describe`."""
        from encoders import Features, layers_of
        from recordings.artifacts import CONFIG, read_config
        from recordings.errors import FormatError
        from recordings.readers.describe import describe

        path = task.path(self.path)
        if (path / CONFIG).is_file():
            config = read_config(path)
            short = {k: len(v) if isinstance(v, list) and len(v) > 20 else v for k, v in config.items()}
            return {"kind": config.get("kind", "model"), "path": path, **short}
        try:
            return describe(path)
        except FormatError as not_a_recording:
            try:
                layers = {name: Features.load(path, name) for name in layers_of(path)}
            except FormatError:
                raise not_a_recording from None
        rows = [{"layer": name, "shape": list(found.shape), **found.attrs} for name, found in layers.items()]
        return {"kind": "features", "path": path, "layers": rows}


class ExtractFeatures(Verb):
    """Extract features of stimuli with a model; what was extracted before a stop is not extracted again."""

    name: ClassVar[str] = "features"
    writes: ClassVar[str] = "features.zarr"

    stimuli: Reference
    """Folder of images or clips, table, HDF5 file or subject folder."""
    model: Network
    """Model URI, such as timm:NAME or baseline:gabor."""
    layer: tuple[str, ...] = ()
    """Layers, by module path; the model's default by default."""
    readout: Literal["pooled", "tokens", "cls", "flat", "projected"] = "pooled"
    """How an activation becomes a row."""
    reduce: str | None = None
    """To K features: srp:K (random projection) or pca:K."""
    frames: int | None = Field(default=None, ge=1)
    """Frames that an image model takes of each clip."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Stimuli a batch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the arithmetic."""
    store_dtype: Literal["float32", "float16"] = "float32"
    """Number format on disk."""
    list_layers: bool = False
    """Only say which layers the model has."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `encoders.extract`."""
        from encoders import FeatureExtractor, extract
        from studies.sources import open_stimuli

        extractor = FeatureExtractor.from_uri(self.model, device=task.device, dtype=self.precision, allow_python=False)
        if self.list_layers:
            shapes = extractor.layer_shapes()
            return {"model": self.model, "layers": [{"layer": n, "shape": list(s)} for n, s in shapes.items()]}
        shown = open_stimuli(task.path(self.stimuli))
        stored = extract(
            extractor,
            shown,
            task.out / self.writes,
            layers=self.layer or None,
            readout=self.readout,
            batch_size=self.batch_size,
            store_dtype=self.store_dtype,
            reduction=self.reduce,
            n_frames=self.frames,
            **task.watched,
        )
        rows = [{"layer": name, "shape": list(found.shape)} for name, found in stored.items()]
        return {"out": task.out / self.writes, "model": self.model, "stimuli": len(shown), "layers": rows}


class Import(Verb):
    """Turn a recording in a public format into a Penfield one; its stimuli come out beside it."""

    name: ClassVar[str] = "import"
    writes: ClassVar[str] = "recording.zarr"

    format: str
    """Name of the format, see `penfield import --help`."""
    source: Reference
    """File or folder to read."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the format; where one takes a path, a reference."""

    @model_validator(mode="before")
    @classmethod
    def _paths_are_references(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("options"), dict):
            return {**values, "options": with_references(values["options"])}
        return values

    @model_validator(mode="after")
    def _options_of_the_format(self) -> Self:
        from recordings.readers import reader, reader_options

        settings = reader_options(reader(self.format), self.options)
        known = {str(reference) for reference in references_in(self.options)}
        for path in paths_in(settings.model_dump()):
            if str(path) not in known:
                raise ValueError(f"{str(path)[:50]!r} is no reference; write data:ID or data:ID/sub/path")
        # Readers build names of files inside the source from options such as the subject.
        for text in texts_in(self.options):
            if leaves_folder(text):
                raise ValueError(f"{text[:50]!r} leads outside the source")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `recordings.readers.import_recording`."""
        from recordings.readers import import_recording
        from recordings.readers.describe import describe
        from recordings.storage import atomic_path

        out, folder = task.out / self.writes, task.out / "recording-stimuli"
        with atomic_path(out, overwrite=True) as part:
            options = resolved(self.options, task.path)
            imported = import_recording(self.format, task.path(self.source), part, **options, **task.watched)
            if imported.stimuli is not None:
                imported.stimuli.save(folder, overwrite=True)
        answer = {"out": out, **describe(out)}
        return answer if imported.stimuli is None else {**answer, "stimuli": folder}
