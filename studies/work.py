"""The data of a study, opened once for all of its questions."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from encoders import Features
from encoders.attention.targets import split_validation
from recordings import Recording, Stimuli
from recordings.errors import InputError, UnknownNameError
from recordings.events import OnEvent, Stop

from .failures import failures_of
from .questions import FeatureSet
from .simulation import simulate_world, subject_name
from .sources import open_layers, open_recording, open_stimuli
from .study import Study
from .subjects import extract_features


class Work:
    """What the questions of one study share: its data, its folder, and the caller's ears.

    Attributes
    ----------
    recording, train, test : all responses, and both sides of the split.
    members, weights : the part of `train` that encoding models are fitted on, and what of it is kept from them all, so
        that ensembles learn their weights on it; None where nothing is.
    features : by the names of feature set and layer.
    failures : why stimuli are left out, by stimulus id, where the study allows it.
    watched : on_event and stop, as keyword arguments.
    """

    def __init__(self, study: Study, n_stimuli: int | None, on_event: OnEvent | None, stop: Stop | None):
        self.study = study
        self.watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        self.recording, self.stimuli = self._source()
        if n_stimuli is not None:
            ids = list(dict.fromkeys(self.recording.stimulus_ids))[:n_stimuli]
            self.recording = self.recording.where(stimulus_id=ids)
            self.stimuli = None if self.stimuli is None else self.stimuli.select(ids)
        self.split = study.split.split(self.recording, study.seed, self.stimuli)
        self.train, self.test = self.split.apply(self.recording, self.stimuli)
        self.features = {part.name: self._layers(part) for part in study.features}
        self.failures = self._leave_out_failures() if study.skip_failures else {}
        self.members: Recording = self.train
        self.weights: Recording | None = None
        if study.split.ensemble:
            by_run = any(part.delays for part in study.encode)
            self.members, self.weights = split_validation(self.train, None, study.split.ensemble, by_run, study.seed)

    def _source(self) -> tuple[Recording, Stimuli | None]:
        source, seed = self.study.recording, self.study.seed
        path = source.path
        if source.simulate is not None:
            path = self.study.out / subject_name(0)
            if not path.exists():
                how = source.simulate.model_dump()
                simulate_world(self.study.out, seed=seed, **how, **self.watched)
        assert path is not None
        shown = source.stimuli or (path if (path / "stimuli").is_dir() else None)
        return open_recording(path, source.rois), None if shown is None else open_stimuli(shown)

    def _layers(self, part: FeatureSet) -> dict[str, Features]:
        if part.path is not None:
            return open_layers(part.path, part.layers)
        if self.stimuli is None:
            raise InputError(
                f"features {part.name!r} need what was shown", where="study", remedy="Add stimuli to [recording]"
            )
        return extract_features(self.study, part, self.stimuli, **self.watched)

    def _leave_out_failures(self) -> dict[str, str]:
        """Take stimuli without features from both sides of the split, which stays what it is for all others."""
        ids = [str(i) for i in dict.fromkeys(self.recording.stimulus_ids)]
        failures = failures_of(ids, self.features, self.stimuli)
        if failures:
            kept = [i for i in ids if i not in failures]
            self.train, self.test = self.train.where(stimulus_id=kept), self.test.where(stimulus_id=kept)
            if not len(self.train) or not len(self.test):
                raise InputError(
                    f"{len(failures)} of {len(ids)} stimuli cannot be read, and one side of the split has none left",
                    where="study",
                    remedy=next(iter(failures.values())),
                )
            self.recording = self.recording.where(stimulus_id=kept)
            if self.stimuli is not None:
                self.stimuli = self.stimuli.select([i for i in self.stimuli.ids if i not in failures])
        return failures

    def named(self, *references: str) -> dict[str, Features]:
        """Layers that each ``name`` or ``name/layer`` means, by a name of their own."""
        found: dict[str, Features] = {}
        for reference in references:
            name, _, layer = reference.partition("/")
            layers = self.features[name]
            if layer and layer not in layers:
                raise UnknownNameError(f"no layer {layer!r} of {name}", remedy=f"There are: {', '.join(layers)}")
            found |= {f"{name}/{key}": layers[key] for key in ([layer] if layer else layers)}
        return found

    def one(self, reference: str) -> Features:
        """The single layer that a reference means."""
        layers = self.named(reference)
        if len(layers) > 1:
            raise UnknownNameError(f"{reference!r} has several layers", remedy=f"Name one: {', '.join(layers)}")
        return next(iter(layers.values()))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data, with pictures where they are drawn, so that data that changed are answered anew."""
        digest = hashlib.sha256(self.recording.fingerprint().encode())
        digest.update("\n".join(map(str, self.recording.stimulus_ids)).encode())
        for block in self.recording.blocks():
            digest.update(block.tobytes())
        for layers in self.features.values():
            for features in layers.values():
                digest.update(features.fingerprint().encode())
                for start in range(0, len(features), 256):
                    digest.update(features.read(slice(start, start + 256)).tobytes())
        if self.study.reconstruct:
            shown = self.shown
            digest.update("".join(shown.content_hash(row) for row in range(len(shown))).encode())
        return digest.hexdigest()

    @property
    def shown(self) -> Stimuli:
        """The stimuli of the recording; `InputError` if the study names none."""
        if self.stimuli is None:
            raise InputError("pictures need what was shown", where="study", remedy="Add stimuli to [recording]")
        return self.stimuli.select(list(dict.fromkeys(map(str, self.recording.stimulus_ids))))
