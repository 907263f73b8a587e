"""What is decoded for a picture: which targets, from which regions, and which models they are the states of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from decoders import BrainDecoder, CaptionDecoder, DepthDecoder, Generator, make_targets
from decoders.depth import DPT_LARGE
from decoders.miniature import looks
from decoders.pictures import Preset
from decoders.quiet import quietly
from encoders import FeatureExtractor, Features
from encoders.features.extractor import weights_fingerprint
from recordings import Recording, Stimuli
from recordings.errors import ArtifactError, InputError, UnknownNameError
from recordings.events import OnEvent, Stop
from recordings.miniature.scenes import COLUMNS

TARGETS = ("z", "c", "depth", "embedding", "tokens", "features")
TRUTH = "truth"
SOURCES = "sources.json"
_INPUTS = {"image": "features", "captions": "tokens"}
_MINIATURE = "miniature:diffusion"


@dataclass(frozen=True)
class Sources:
    """Models whose states are decoded, by name, so that a decoder's folder says what it takes to make a picture.

    Attributes
    ----------
    generator : latent diffusion model, see `decoders.Generator.from_pretrained`: targets z and c.
    controlnet, ip_adapter : that belong to it; None for those of the miniature generator, or of its own folder.
    captioner : target tokens. embedding : extractor URI, target embedding, see `load_embedding`.
    depth : target depth: "truth" of scenes of the miniature world, or a DPT whose hidden states are decoded; None for
        "truth" where the stimuli are such scenes, else for DPT-Large.
    features : extractor URI, and layers : of it, which are inverted to a picture to start from; its last block if none.
    """

    generator: str = _MINIATURE
    controlnet: str | None = None
    ip_adapter: str | None = None
    captioner: str = "miniature:captioner"
    embedding: str = "miniature:backbone"
    depth: str | None = None
    features: str = "miniature:backbone"
    layers: tuple[str, ...] = ()

    def save(self, folder: Path, **about: Any) -> None:
        """Write them, and what else is to be known about them, into the folder of a decoder."""
        (folder / SOURCES).write_text(json.dumps({**asdict(self), **about}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Those of a decoder's folder; `ArtifactError` if it says none."""
        try:
            found = json.loads((folder / SOURCES).read_text())
            names = {name: found[name] for name in cls.__dataclass_fields__}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"no readable {SOURCES} ({error})", where=folder, remedy="Fit it with `penfield decode fit --target`"
            ) from error
        return cls(**names | {"layers": tuple(names["layers"])})

    def load_generator(self, device: str = "auto", preset: Preset | None = None) -> Generator:
        """The generator, with the ControlNet and the IP-Adapter that a preset uses."""
        own = self.generator == _MINIATURE
        controlnet = self.controlnet or ("miniature:controlnet" if own else None)
        ip_adapter = self.ip_adapter or ("miniature:ip_adapter" if own else None)
        return Generator.from_pretrained(
            self.generator,
            controlnet=controlnet if preset and preset.depth == "controlnet" else None,
            ip_adapter=ip_adapter if preset and preset.embedding else None,
            device=device,
        )

    def load_captioner(self, device: str = "auto") -> CaptionDecoder:
        """The captioner."""
        return CaptionDecoder.from_pretrained(self.captioner, device=device)

    def load_depth(self, device: str = "auto") -> DepthDecoder:
        """The depth network whose hidden states are decoded."""
        return DepthDecoder.from_pretrained(self.depth or DPT_LARGE, device=device)

    def load_embedding(self, device: str = "auto") -> tuple[FeatureExtractor, str]:
        """The extractor of embeddings, and how it is read out: the class token for the miniature IP-Adapter, else what
        the model puts out as its embedding."""
        with quietly():
            extractor = FeatureExtractor.from_uri(self.embedding, device=device)
        own = self.embedding == looks.EMBEDDING or extractor.backbone.project is None
        return extractor, looks.READOUT if own else "projected"

    def load_features(self, device: str = "auto") -> FeatureExtractor:
        """The extractor of the features that are inverted."""
        with quietly():
            return FeatureExtractor.from_uri(self.features, device=device)

    def of(self, stimuli: Stimuli) -> Self:
        """With depth chosen, where it was left open, by what the stimuli are."""
        return self if self.depth else replace(self, depth=TRUTH if are_scenes(stimuli) else DPT_LARGE)

    def make(
        self,
        stimuli: Stimuli,
        targets: Sequence[str],
        folder: Path,
        device: str = "auto",
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> dict[str, Features]:
        """Targets of stimuli, kept in feature stores below `folder`.

        Depth of a DPT and features are several targets each, ``depth.LAYER`` and ``features.LAYER``.
        """
        watched: dict[str, Any] = {"on_event": on_event, "stop": stop}
        plain, given = [name for name in targets if name != "features"], dict[str, Any]()
        if {"z", "c"} & set(targets):
            given["generator"] = self.load_generator(device)
        if "embedding" in targets:
            given["embedding"], given["embedding_readout"] = self.load_embedding(device)
        if "tokens" in targets:
            captioner = self.load_captioner(device)
            given |= {"tokens": captioner.extractor, "tokens_layer": captioner.layer}
        found: dict[str, Features] = {}
        if "depth" in targets and self.depth != TRUTH:
            plain.remove("depth")
            states = self.load_depth(device).hidden_states_of(stimuli, folder / "depth.zarr", **watched)
            found |= {f"depth.{layer}": values for layer, values in states.items()}
        if plain:
            found |= make_targets(stimuli, plain, depth=TRUTH, path=folder / "targets", **given, **watched)
        if "features" in targets:
            extractor = self.load_features(device)
            layers = list(self.layers or [extractor.default_layer])
            made = make_targets(stimuli, layers, layers=extractor, path=folder / "features", **watched)
            found |= {f"features.{layer}": values for layer, values in made.items()}
        return found


def are_scenes(stimuli: Stimuli | None) -> bool:
    """Whether stimuli are scenes of the miniature world, of which everything is known."""
    return stimuli is not None and set(COLUMNS) <= set(stimuli.table)


def targets_of(preset: Preset) -> list[str]:
    """What has to be decoded for a preset."""
    return [_INPUTS.get(name, name) for name in preset.needs]


def check_targets(targets: Sequence[str]) -> list[str]:
    """Targets, each once. `UnknownNameError` for another name, `InputError` for none."""
    if not targets:
        raise InputError("no target", remedy=f"Name one or more of {', '.join(TARGETS)}")
    for name in targets:
        if name not in TARGETS:
            raise UnknownNameError(f"no target {name!r}", remedy=f"There are: {', '.join(TARGETS)}")
    return list(dict.fromkeys(targets))


def find_rois(
    recording: Recording,
    targets: Sequence[str],
    given: Mapping[str, Sequence[str]],
    preset: Preset | None = None,
) -> tuple[dict[str, list[str] | None], list[str]]:
    """Regions that each target is decoded from, None for all neuroids, and what the reader should know about that.

    They are the given ones, else those of the preset where the recording has them all, else all neuroids.

    Raises
    ------
    InputError : regions of a target that is not decoded. UnknownNameError, EmptyROIError : no such given region.
    """
    stray = [name for name in given if name not in targets]
    if stray:
        raise InputError(f"regions for {stray[0]!r}, which is no target", remedy=f"Targets are {', '.join(targets)}")
    for names in given.values():
        recording.roi_mask(*names)
    rois: dict[str, list[str] | None] = {}
    notes = []
    for target in targets:
        names = list(given.get(target) or (preset.rois.get(target) if preset else None) or ())
        missing = [] if target in given else [name for name in names if name not in recording.rois]
        if missing:
            notes.append(f"{target}: all neuroids, since the recording has no region {', '.join(missing)}")
        rois[target] = None if missing or not names else names
    return rois, notes


def check_generator(decoder: BrainDecoder, generator: Generator) -> None:
    """Raise `ArtifactError` if z or c were fitted to another autoencoder or text encoder than the generator's."""
    for target, part in (("z", "vae"), ("c", "text_encoder")):
        fitted = decoder.decoders_.get(target)
        model = getattr(generator, part)
        if fitted is None or model is None:
            continue
        if fitted.training_["features"].get("weights") != weights_fingerprint(model):
            raise ArtifactError(
                f"its {part} is not the one whose states {target} was fitted to",
                where=generator.name,
                remedy="Take the generator of the fit, or one that shares this part, or fit again",
            )
