"""Verbs that tell which stimulus was seen: decode fit, identify, retrieve and evaluate."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .base import Task, Verb
from .references import Network, Reference

Rois = tuple[str, ...]
Target = Literal["z", "c", "depth", "embedding", "tokens", "features"]


class DecodeFit(Verb):
    """Fit a decoder on a part of a recording: into a feature space, of categories, or of what pictures are made from.

    `target` or `preset` fit all that decode image, caption and depth need.
    """

    name: ClassVar[str] = "decode fit"
    writes: ClassVar[str] = "decoder"

    recording: Reference
    """Recording or subject folder."""
    features: Reference | None = None
    """Feature store to decode into; without it, categories."""
    layer: str | None = None
    """Layer of the store, if it has several."""
    split: str = "stimulus:0.2"
    """What to hold out: stimulus:FRACTION, stimulus:NUMBER, COORDINATE:VALUE,..., COLUMN:VALUE,... or COLUMN:NUMBER of
    the stimuli, such as category:3 for three of them, or none."""
    roi: Rois = ()
    """Regions; all by default."""
    standardise: Literal["session"] | None = None
    """Give each neuroid mean 0 and variance 1 in every session, learnt on the training part."""
    reliability: float = Field(default=0.05, ge=0, le=1)
    """Smallest noise ceiling of a neuroid that is read."""
    all_neuroids: bool = False
    """Read neuroids whatever their reliability, for unrepeated stimuli."""
    max_neuroids: int | None = Field(default=None, ge=1)
    """Read at most so many, the most reliable."""
    components: int | None = Field(default=None, ge=1)
    """Decode so many principal components of larger targets."""
    label: str = "category"
    """Presentation coordinate that names the category."""
    group: str = "run"
    """Presentation coordinate that is left out in turn."""
    target: tuple[Target, ...] = ()
    """Decode latents (z), text (c), depth, image embedding, caption tokens or deep features."""
    preset: str | None = None
    """Decode what this preset of decode image needs, from its regions."""
    rois: dict[Target, tuple[str, ...]] = Field(default_factory=dict)
    """Regions by target; the preset's, or all, by default."""
    stimuli: Reference | None = None
    """What was shown; a subject folder brings its own."""
    no_rescale: bool = False
    """Leave the small spread of ridge predictions."""
    generator: Network | None = None
    """Name of the generator of z and c, by default miniature:diffusion."""
    controlnet: Network | None = None
    """Of the generator, for presets with depth."""
    ip_adapter: Network | None = None
    """Of the generator, for presets with an embedding."""
    captioner: Network | None = None
    """Of tokens, by default miniature:captioner."""
    embedding: Network | None = None
    """Extractor URI of the embedding, by default miniature:backbone."""
    depth: Network | None = None
    """truth, or a DPT, by default truth for miniature scenes."""
    invert: Network | None = None
    """Extractor URI of features, by default miniature:backbone."""
    invert_layer: tuple[str, ...] = ()
    """Layers of features."""

    @model_validator(mode="after")
    def _options_of_its_kind(self) -> Self:
        pictures = self.rois or self.no_rescale or self.stimuli or self._models()
        if not (self.target or self.preset) and pictures:
            raise ValueError("options of pictures, captions and depth go with target or preset")
        if (self.target or self.preset) and self.features is not None:
            raise ValueError("features goes without target and preset")
        if self.standardise and not (self.features or self.target or self.preset):
            raise ValueError("categories are not standardised: their groups are left out in turn")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `decoders.LatentDecoder`, `CategoryDecoder` and `studies.pictures.fitting.fit_brain_decoder`."""
        from studies.sources import open_recording, stimuli_shown
        from studies.standardise import standardise_sessions
        from studies.study import training_part

        whole = open_recording(task.path(self.recording), self.roi)
        shown = stimuli_shown(task.path(self.recording), task.optional(self.stimuli))
        train = training_part(whole, self.split, self.seed, shown)
        if self.standardise:
            train = standardise_sessions(train, whole)
        reliability = None if self.all_neuroids else self.reliability
        how = {"reliability": reliability, "max_neuroids": self.max_neuroids, "components": self.components}
        if self.target or self.preset:
            return self._fit_pictures(task, train, shown, how)
        return self._fit_one(task, train, how)

    def _models(self) -> dict[str, Any]:
        same = ("generator", "controlnet", "ip_adapter", "captioner", "embedding", "depth")
        named = {name: getattr(self, name) for name in same} | {"features": self.invert}
        named["layers"] = self.invert_layer or None
        return {name: value for name, value in named.items() if value is not None}

    def _fit_pictures(self, task: Task, train: Any, shown: Any, how: dict[str, Any]) -> dict[str, Any]:
        from decoders.pictures.presets import find_preset
        from recordings.errors import InputError
        from studies.pictures.fitting import fit_brain_decoder
        from studies.pictures.targets import Sources, check_targets, find_rois, targets_of

        if shown is None:
            raise InputError("targets are made from what was shown", where=self.recording, remedy="Give stimuli")
        wanted = find_preset(self.preset) if self.preset else None
        targets = check_targets([*(targets_of(wanted) if wanted else ()), *self.target])
        asked: dict[str, list[str]] = {name: list(regions) for name, regions in self.rois.items()}
        regions, notes = find_rois(train, targets, asked, wanted)
        out = task.out / self.writes
        sources = Sources(**self._models())
        how |= {"rescale": not self.no_rescale, "device": task.device, "seed": self.seed}
        found = fit_brain_decoder(train, shown, regions, sources, out, overwrite=True, **how, **task.watched)
        return {"out": out, "kind": "BrainDecoder", **found, **({"notes": notes} if notes else {})}

    def _fit_one(self, task: Task, train: Any, how: dict[str, Any]) -> dict[str, Any]:
        from decoders import CategoryDecoder, LatentDecoder
        from encoders import Features
        from studies.encoding import solver_device

        decoder: Any
        if self.features is None:
            decoder = CategoryDecoder(label=self.label, group=self.group).fit(train, **task.watched)
        else:
            latent = LatentDecoder(**how, device=solver_device(task.device), seed=self.seed)
            decoder = latent.fit(train, Features.load(task.path(self.features), self.layer), **task.watched)
        out = task.out / self.writes
        decoder.save_pretrained(out, overwrite=True)
        return {
            "out": out,
            "kind": type(decoder).__name__,
            "stimuli": len(set(train.stimulus_ids)),
            "neuroids": len(decoder.map_[0]),
            "cross_validated_accuracy": decoder.cv_accuracy_,
        }


class DecodeIdentify(Verb):
    """Identify each held-out stimulus among all held-out ones: the answer and how sure it is, for each."""

    name: ClassVar[str] = "decode identify"

    model: Reference
    """Decoder into features."""
    recording: Reference
    """Recording or subject folder."""
    features: Reference
    """Feature store."""
    layer: str | None = None
    """Layer of the store, if it has several."""
    roi: Rois = ()
    """Regions; all by default."""
    ways: int | None = Field(default=None, ge=2)
    """Candidates to choose from; all by default."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `decoders.LatentDecoder.identify`."""
        from encoders import Features
        from studies.decoding import held_out_average, load_latent_decoder
        from studies.sources import open_recording

        decoder, space = load_latent_decoder(task.path(self.model)), Features.load(task.path(self.features), self.layer)
        test = held_out_average(decoder, open_recording(task.path(self.recording), self.roi))
        found = decoder.identify(test, space.select(list(test.stimulus_ids)), n_way=self.ways, seed=self.seed)
        rows = zip(found.shown, found.answers, found.confidence, found.rank, strict=True)
        names = ("shown", "answer", "confidence", "rank")
        return {"model": self.model, **found.to_dict(), "answers": [dict(zip(names, r, strict=True)) for r in rows]}


class DecodeRetrieve(Verb):
    """Retrieve the stimuli of a gallery that each held-out response resembles most, with their probabilities."""

    name: ClassVar[str] = "decode retrieve"

    model: Reference
    """Decoder into features."""
    recording: Reference
    """Recording or subject folder."""
    features: Reference
    """Feature store of the gallery."""
    layer: str | None = None
    """Layer of the store, if it has several."""
    roi: Rois = ()
    """Regions; all by default."""
    nearest: int = Field(default=5, ge=1, le=10_000)
    """Stimuli of the gallery for each answer."""

    def run(self, task: Task) -> dict[str, Any]:
        """See `decoders.LatentDecoder.retrieve`."""
        from encoders import Features
        from studies.decoding import held_out_average, load_latent_decoder
        from studies.sources import open_recording

        decoder = load_latent_decoder(task.path(self.model))
        test = held_out_average(decoder, open_recording(task.path(self.recording), self.roi))
        found = decoder.retrieve(test, Features.load(task.path(self.features), self.layer), self.nearest)
        rows = zip(test.stimulus_ids, found.stimulus_ids, found.confidence, strict=True)
        answers = [{"shown": s, "retrieved": list(r), "confidence": list(map(float, c))} for s, r, c in rows]
        return {"model": self.model, "n_gallery": found.n_gallery, "chance": found.chance, "answers": answers}


class DecodeEvaluate(Verb):
    """Accuracy, chance, shuffled accuracy and p-value of decoding, or the scores of reconstructed pictures."""

    name: ClassVar[str] = "decode evaluate"

    recording: Reference | None = None
    """Recording or subject folder."""
    model: Reference | None = None
    """Fitted decoder to evaluate on stimuli it has not seen."""
    features: Reference | None = None
    """Feature store, with a model."""
    layer: str | None = None
    """Layer of the store, if it has several."""
    roi: Rois = ()
    """Regions; all by default."""
    what: Literal["category", "patterns"] = "category"
    """Without a model: categories, or single presentations by their patterns."""
    label: str = "category"
    """Presentation coordinate that names the category."""
    group: str = "run"
    """Presentation coordinate that is left out in turn."""
    ways: int | None = Field(default=None, ge=2)
    """Candidates to choose from; all by default."""
    pictures: Reference | None = None
    """Instead, score what decode image wrote; needs stimuli."""
    stimuli: Reference | None = None
    """What was shown, with pictures."""
    network: tuple[Network, ...] = ()
    """Extractor URIs or names of published networks that compare pictures."""
    text_network: tuple[Network, ...] = ()
    """Extractor URIs of text models that compare decoded and true captions; URI#text for the text tower of two."""
    by: str | None = None
    """Column of the stimuli, to tell scores within and across it."""
    published: bool = False
    """Add published rows, others' numbers."""
    shuffles: int = Field(default=100, ge=1, le=100_000)
    """Shuffles for the null."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.pictures is not None:
            if self.stimuli is None or self.recording or self.model or self.features:
                raise ValueError("pictures goes with stimuli, and not with a recording, a model or features")
        elif self.recording is None or self.stimuli or self.network or self.text_network or self.by or self.published:
            raise ValueError("give recording, or pictures with stimuli and options of pictures")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.decoding.evaluate_decoder`, `evaluate_recording` and `evaluate_reconstructions`."""
        if self.pictures is not None and self.stimuli is not None:
            return self._pictures(task, self.pictures, self.stimuli)
        from encoders import Features
        from studies.decoding import evaluate_decoder, evaluate_recording
        from studies.sources import open_recording

        assert self.recording is not None
        given = open_recording(task.path(self.recording), self.roi)
        counted: dict[str, Any] = {"n_way": self.ways, "n_permutations": self.shuffles, "seed": self.seed}
        if self.model is None:
            how: dict[str, Any] = {"label": self.label, "group": self.group, **counted}
            return evaluate_recording(given, self.what, **how, **task.watched)
        space = None if self.features is None else Features.load(task.path(self.features), self.layer)
        return evaluate_decoder(task.path(self.model), given, space, **counted)

    def _pictures(self, task: Task, pictures: Reference, stimuli: Reference) -> dict[str, Any]:
        from studies.pictures.scores import evaluate_reconstructions
        from studies.sources import open_stimuli

        how: dict[str, Any] = {"networks": self.network, "by": self.by, "published": self.published}
        how |= {"text_networks": self.text_network, "n_permutations": self.shuffles}
        how |= {"seed": self.seed, "device": task.device}
        shown = open_stimuli(task.path(stimuli))
        return {"pictures": pictures, **evaluate_reconstructions(task.path(pictures), shown, **how, **task.watched)}
