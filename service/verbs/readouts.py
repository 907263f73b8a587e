"""Verbs that ask a fitted encoding model where it looks and what it answers to: encode attend and contrast."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from .base import Task, Verb
from .references import Network, Reference

SHOWN_QUERIES = 200


class EncodeAttend(Verb):
    """Write where a transformer's queries look in each picture, and say it by query."""

    name: ClassVar[str] = "encode attend"

    model: Reference
    """Fitted transformer."""
    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores."""
    layer: tuple[str, ...] = ()
    """Layers of the stores; all by default."""
    stimulus: tuple[str, ...] = ()
    """Stimulus ids; all by default."""
    query: tuple[str, ...] = ()
    """Regions, or neuroids where each has a query; all by default."""
    per_head: bool = False
    """Keep heads apart instead of averaging them."""
    overlays: bool = False
    """Write each picture with each query's map over it; needs stimuli."""
    stimuli: Reference | None = None
    """What was shown."""
    maps: bool = False
    """Write maps of the brain; needs recording."""
    recording: Reference | None = None
    """Recording or subject whose neuroids the model predicts."""

    @model_validator(mode="after")
    def _needs(self) -> Self:
        if self.overlays and self.stimuli is None:
            raise ValueError("overlays need stimuli")
        if self.maps and self.recording is None:
            raise ValueError("maps of the brain need the recording, which says where neuroids lie")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `encoders.TransformerEncoder.attention` and `studies.attending`."""
        from encoders import TransformerEncoder, load_encoder
        from encoders.responses import run_labels
        from recordings.errors import InputError
        from studies.attending import check_size, save_maps, summarise_attention, write_overlays
        from studies.encoding import select_features
        from studies.sources import open_recording, open_stimuli, open_stores

        encoder = load_encoder(task.path(self.model))
        if not isinstance(encoder, TransformerEncoder):
            raise InputError(f"a {type(encoder).__name__} has no attention", where=self.model)
        if encoder.delays and self.recording is None:
            raise InputError("attention over delays needs the order of moments", remedy="Give the recording")
        spaces = open_stores(task.paths(self.features), self.layer)
        given = select_features(encoder, spaces)
        whole = None if self.recording is None else open_recording(task.path(self.recording))
        ids, runs = list(self.stimulus) or list(map(str, next(iter(spaces.values())).stimulus_ids)), None
        if encoder.delays and whole is not None:
            ids, runs = list(map(str, whole.stimulus_ids)), run_labels(whole)
        names = encoder.recording_["neuroid_ids"] if encoder.module_.by_neuroid else encoder.regions_.names
        heads = encoder.n_heads if self.per_head else 1
        check_size(len(ids), len(self.query or names) * heads, math.prod(encoder.module_.grid))
        queries = list(self.query) or None
        found = encoder.attention(given, ids, queries=queries, per_head=self.per_head, runs=runs, **task.watched)
        if runs is not None and self.stimulus:
            found = found.select(list(self.stimulus))
        out = task.out / "attention.npz"
        named: dict[str, Any] = {"stimulus_id": found.stimulus_ids, "query": found.queries}
        save_maps(found.weights, out, per_head=self.per_head, overwrite=True, **named)
        answer: dict[str, Any] = {"out": out, "stimuli": len(found), "queries": len(found.queries)}
        if self.overlays and self.stimuli is not None:
            shown = open_stimuli(task.path(self.stimuli))
            answer["overlays"] = write_overlays(found, shown, task.out / "overlays", overwrite=True)
        if self.maps and whole is not None:
            answer["maps"] = self._fields(task, encoder, given, ids, runs, whole)
        table = summarise_attention(found)
        short = table if len(table) <= SHOWN_QUERIES else table.median().to_frame("median").T
        return answer | {"attention": short.to_dict("index")}

    def _fields(self, task: Task, encoder: Any, given: Any, ids: list[str], runs: Any, whole: Any) -> Any:
        from encoders.attention.fields import receptive_fields
        from recordings.artifacts import check_neuroids
        from studies.attending import write_brain_maps

        check_neuroids(encoder.recording_, whole, responses=False)
        fields = receptive_fields(encoder, given, ids, runs=runs, **task.watched)
        columns = ("x", "y", "sigma", "eccentricity", "polar_angle")
        return write_brain_maps(whole, {c: fields[c] for c in columns}, task.out / "maps", overwrite=True)


class EncodeContrast(Verb):
    """Contrast the predicted responses of each region to two kinds of pictures, named by labels or by prompts."""

    name: ClassVar[str] = "encode contrast"
    writes: ClassVar[str] = "maps"

    model: Reference
    """Fitted model."""
    features: tuple[Reference, ...] = Field(min_length=1)
    """Feature stores."""
    recording: Reference
    """Recording or subject folder."""
    layer: tuple[str, ...] = ()
    """Layers of the stores; all by default."""
    by: str | None = None
    """Column of the stimuli whose labels `of` names."""
    of: dict[str, tuple[str, ...]] | None = Field(default=None, min_length=2, max_length=2)
    """Two kinds of stimuli by name, each with its labels."""
    prompts: tuple[str, str] | None = None
    """Instead, two descriptions, such as a face and a house."""
    prompt_model: Network | None = None
    """URI of a model of text and images, which compares pictures with prompts."""
    k: int = Field(default=20, ge=2)
    """Pictures a prompt, those that go with it most."""
    stimuli: Reference | None = None
    """What was shown; beside the recording by default."""
    permutations: int = Field(default=9999, ge=1, le=1_000_000)
    """Of pictures between both kinds, for p."""
    maps: bool = False
    """Write each neuroid's d'."""

    @model_validator(mode="after")
    def _two_kinds(self) -> Self:
        labels, words = (self.by, self.of), (self.prompts, self.prompt_model)
        whole = [all(part is not None for part in pair) for pair in (labels, words)]
        if sum(whole) != 1 or any(part is not None for part in (words if whole[0] else labels)):
            raise ValueError("give by and of, or prompts and prompt_model")
        return self

    def run(self, task: Task) -> dict[str, Any]:
        """See `studies.contrasts.region_contrast`."""
        from encoders import load_encoder
        from studies.attending import write_brain_maps
        from studies.contrasts import labelled_stimuli, neuroid_contrast, region_contrast
        from studies.encoding import select_features
        from studies.sources import open_recording, open_stimuli, open_stores

        encoder = load_encoder(task.path(self.model))
        spaces = open_stores(task.paths(self.features), self.layer)
        given, whole = select_features(encoder, spaces), open_recording(task.path(self.recording))
        known = {str(i) for i in next(iter(spaces.values())).stimulus_ids}
        shown = open_stimuli(task.path(self.stimuli or self.recording))
        shown = shown.select([i for i in shown.ids if i in known])
        if self.by and self.of:
            kinds = labelled_stimuli(shown, {name: list(labels) for name, labels in self.of.items()}, self.by)
        else:
            kinds = self._by_prompt(shown, task)
        first, second = kinds.values()
        how: dict[str, Any] = {"n_permutations": self.permutations, "seed": self.seed}
        table = region_contrast(encoder, given, first, second, whole, **how, **task.watched)
        answer: dict[str, Any] = {
            "contrast": " > ".join(kinds),
            "stimuli": {name: len(ids) for name, ids in kinds.items()},
        }
        if self.maps:
            d_prime = neuroid_contrast(encoder, given, first, second, **task.watched)
            answer["maps"] = write_brain_maps(whole, {"d_prime": d_prime}, task.out / self.writes, overwrite=True)
        return answer | {"roi": table.set_index("roi").to_dict("index")}

    def _by_prompt(self, shown: Any, task: Task) -> dict[str, list[str]]:
        from encoders import FeatureExtractor, extract
        from studies.contrasts import prompt_similarity, text_tower, top_stimuli

        assert self.prompts is not None and self.prompt_model is not None
        extractor = FeatureExtractor.from_uri(self.prompt_model, device=task.device, allow_python=False)
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "embedded.zarr"
            images = next(iter(extract(extractor, shown, store, readout="projected", **task.watched).values()))
            tower = text_tower(images, task.device)
            return top_stimuli(prompt_similarity(images, tower, {p: p for p in self.prompts}), self.k)
