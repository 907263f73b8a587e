"""Decoders of all that a generator starts from: fitted with the models whose states they decode, and read with them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from decoders import BrainDecoder, CaptionDecoder, DecodedInputs, DepthDecoder, Generator
from decoders.inversion import FeatureInverter, latent_prior
from recordings import Recording, Stimuli
from recordings.artifacts import read_config
from recordings.errors import ArtifactError, InputError, UnknownNameError
from recordings.events import OnEvent, Stop
from recordings.storage import atomic_path

from ..encoding import solver_device
from ..plan import PROBE_STIMULI, Plan, extrapolate, resident_memory
from .targets import TRUTH, Sources

ROWS = 64


def fit_brain_decoder(
    recording: Recording,
    stimuli: Stimuli,
    rois: Mapping[str, Sequence[str] | None],
    sources: Sources,
    out: Path,
    *,
    components: int | None = None,
    rescale: bool = True,
    reliability: float | None = 0.05,
    max_neuroids: int | None = None,
    overwrite: bool = False,
    device: str = "auto",
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Fit a `BrainDecoder` to targets of the stimuli that were shown, and write it with what it takes to use it.

    Parameters
    ----------
    recording : training presentations. stimuli : at least those shown in it.
    rois : regions by target (see `studies.pictures.targets.TARGETS`), None for all neuroids.
    out : folder of the decoder and of ``sources.json``, the models whose states it decodes.
    rescale : see `BrainDecoder`; without it nothing is learnt out of fold, which takes a sixth of the time.

    Returns
    -------
    JSON values: number of stimuli; by target its regions, neuroids read, features, the share of their variance that
    components keep, and the median out-of-fold correlation.
    """
    watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
    sources = sources.of(stimuli)
    shown = stimuli.select(list(dict.fromkeys(map(str, recording.stimulus_ids))))
    with tempfile.TemporaryDirectory() as scratch:
        features = sources.make(shown, list(rois), Path(scratch), device, **watched)
        decoder = BrainDecoder(
            {name: rois[name.partition(".")[0]] for name in features},
            rescale=rescale,
            components=components,
            reliability=reliability,
            max_neuroids=max_neuroids,
            calibration_folds=5 if rescale else 0,
            device=solver_device(device),
            seed=seed,
        ).fit(recording, features, **watched)
    generator = sources.load_generator("cpu") if {"z", "c"} & set(rois) else None
    with atomic_path(out, overwrite=overwrite) as part:
        decoder.save_pretrained(part)
        sources.save(part, fingerprint=generator and generator.fingerprint)
    return {"stimuli": len(shown), "targets": {name: _fitted(decoder, name) for name in decoder.decoders_}}


def plan_brain_decoder(
    recording: Recording,
    stimuli: Stimuli,
    rois: Mapping[str, Sequence[str] | None],
    sources: Sources,
    **how: Any,
) -> Plan:
    """Cost of `fit_brain_decoder`, from fits to the first stimuli; time is taken to grow in proportion to these."""
    ids = list(dict.fromkeys(map(str, recording.stimulus_ids)))
    size: dict[str, int] = {}

    def step(n: int) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = Path(folder) / "decoder"
            fit_brain_decoder(recording.where(stimulus_id=ids[:n]), stimuli, rois, sources, out, **how)
            # Weights of a decoder depend on neuroids and features, not on how many stimuli it was fitted on.
            size["decoder"] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())

    fixed, each = extrapolate(step, len(ids), first=PROBE_STIMULI)
    return Plan(fixed + each, resident_memory() + size["decoder"], size["decoder"])


def _fitted(decoder: BrainDecoder, name: str) -> dict[str, Any]:
    own = decoder.decoders_[name]
    found = {
        "rois": ", ".join(decoder.rois[name] or ["all"]),
        "neuroids": len(own.neuroids_),
        "features": int(np.prod(own.feature_shape_)),
        "kept_variance": own.explained_variance_,
    }
    return found | ({} if own.cv_r_ is None else {"out_of_fold_r": float(np.nanmedian(own.cv_r_))})


@dataclass(frozen=True)
class PictureDecoder:
    """A fitted `BrainDecoder` and the models whose states it decodes."""

    decoder: BrainDecoder
    sources: Sources
    folder: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `fit_brain_decoder` wrote; `ArtifactError` if there is none."""
        kind = read_config(folder).get("kind")
        if kind != BrainDecoder.__name__:
            raise ArtifactError(
                f"holds a {kind}, not a decoder of pictures",
                where=folder,
                remedy="Fit one with `penfield decode fit --target` or --preset",
            )
        return cls(BrainDecoder.from_pretrained(str(folder)), Sources.load(folder), folder)

    @property
    def targets(self) -> set[str]:
        """Targets that were fitted, by the names of `studies.pictures.targets.TARGETS`."""
        return {name.partition(".")[0] for name in self.decoder.rois}

    def check(self, target: str) -> None:
        """Raise `InputError` unless a target was fitted."""
        if target not in self.targets:
            raise InputError(
                f"decodes {', '.join(sorted(self.targets))}, not {target}",
                where=self.folder,
                remedy=f"Fit it with --target {target}",
            )

    def part(self, targets: Sequence[str]) -> BrainDecoder:
        """The decoders of some targets alone."""
        names = [name for name in self.decoder.rois if name.partition(".")[0] in targets]
        options = {"rescale": self.decoder.rescale, "components": self.decoder.components, **self.decoder.options}
        chosen = BrainDecoder({name: self.decoder.rois[name] for name in names}, **options)
        chosen.decoders_ = {name: self.decoder.decoders_[name] for name in names}
        chosen.recording_ = self.decoder.recording_
        return chosen

    def decode(
        self, recording: Recording, targets: Sequence[str], read: Callable[..., Any], **watched: Any
    ) -> list[Any]:
        """What ``read(ids, decoded)`` makes of the targets of so many presentations after the others."""
        decoder, found = self.part(targets), []
        for start in range(0, len(recording), ROWS):
            rows = recording.take(np.arange(start, min(start + ROWS, len(recording))))
            found.append(read([str(i) for i in rows.stimulus_ids], decoder.predict(rows, **watched)))
        return found


def chosen_stimuli(recording: Recording, stimulus_ids: Sequence[str]) -> Recording:
    """Presentations of the named stimuli, all if none is named; `UnknownNameError` for one that is not held out."""
    if not stimulus_ids:
        return recording
    known = {str(i) for i in recording.stimulus_ids}
    for name in stimulus_ids:
        if name not in known:
            raise UnknownNameError(f"stimulus {name!r} is not among the {len(known)} that the decoder has not seen")
    return recording.where(stimulus_id=list(stimulus_ids))


@dataclass(frozen=True)
class Readers:
    """Models that turn decoded targets into what a generator takes; each None where it is not needed."""

    generator: Generator
    captioner: CaptionDecoder | None = None
    depth: DepthDecoder | None = None
    inverter: FeatureInverter | None = None

    @classmethod
    def load(cls, sources: Sources, generator: Generator, targets: Sequence[str], device: str) -> Self:
        """Those that turn the targets into inputs."""
        return cls(
            generator,
            sources.load_captioner(device) if "tokens" in targets else None,
            sources.load_depth(device) if "depth" in targets and sources.depth != TRUTH else None,
            _inverter(sources, generator, device) if "features" in targets else None,
        )

    def inputs(
        self, ids: Sequence[str], decoded: Mapping[str, np.ndarray], *, seed: int = 0, **watched: Any
    ) -> DecodedInputs:
        """Inputs of a generator from decoded targets."""
        given: dict[str, Any] = {}
        found = dict(decoded)
        if self.captioner is not None:
            given["captions"] = self.captioner.decode(decoded["tokens"], ids, **watched)
        if self.depth is not None:
            found["depth"] = unit_range(self.depth.decode(layers_of("depth", decoded), ids, **watched))
        if self.inverter is not None:
            given["image"] = self.inverter.invert(layers_of("features", decoded), ids, seed=seed, **watched).images
        return DecodedInputs.from_decoded(ids, found, self.generator, **given)


def layers_of(target: str, decoded: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Decoded layers of a target that consists of several, by name."""
    return {name.partition(".")[2]: values for name, values in decoded.items() if name.startswith(f"{target}.")}


def unit_range(maps: np.ndarray) -> np.ndarray:
    """Depth maps (n, H, W), each scaled to [0, 1] as ControlNets are trained on them."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)


def _inverter(sources: Sources, generator: Generator, device: str) -> FeatureInverter:
    extractor = sources.load_features(device)
    return FeatureInverter(extractor, latent_prior(generator.vae, generator.latent_shape), sources.layers or None)


def concatenate(parts: Sequence[DecodedInputs]) -> DecodedInputs:
    """Decoded inputs of some stimuli after those of others."""
    names = DecodedInputs.__dataclass_fields__
    columns = {name: [getattr(part, name) for part in parts] for name in names}
    joined: dict[str, Any] = {
        name: None
        if values[0] is None
        else np.concatenate(values)
        if isinstance(values[0], np.ndarray)
        else [item for value in values for item in value]
        for name, values in columns.items()
    }
    return DecodedInputs(**joined)
