"""Decoding as a question: open a decoder, find what it has not seen, and say how well it does there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from decoders import BrainDecoder, LatentDecoder, evaluate_categories, identify_patterns
from encoders import Features
from recordings import Recording
from recordings.artifacts import read_config
from recordings.errors import ArtifactError, InputError, RepetitionError, UnknownNameError
from recordings.events import OnEvent, Stop

from .standardise import standardise_as_fitted


def load_latent_decoder(path: Path) -> LatentDecoder:
    """A fitted `LatentDecoder`; `ArtifactError` if there is none at `path`, which is never looked up on a hub."""
    kind = read_config(path).get("kind")
    if kind != LatentDecoder.__name__:
        raise ArtifactError(
            f"holds a {kind}, not a decoder into features", where=path, remedy="Give what `penfield decode fit` wrote"
        )
    return LatentDecoder.from_pretrained(str(path))


def fitted_stimuli(decoder: LatentDecoder | BrainDecoder) -> set[str]:
    """Ids of the stimuli that a decoder was fitted on, recalibration included."""
    decoders = decoder.decoders_.values() if isinstance(decoder, BrainDecoder) else [decoder]
    return {i for fitted in decoders for i in fitted.training_["stimulus_ids"]}


def as_fitted(decoder: LatentDecoder | BrainDecoder, recording: Recording) -> Recording:
    """A recording on the scale that the decoder was fitted on, see `standardise_as_fitted`."""
    fitted = decoder.recording_ if isinstance(decoder, BrainDecoder) else decoder.training_
    return standardise_as_fitted(fitted, recording, fitted_stimuli(decoder))


def held_out_average(decoder: LatentDecoder | BrainDecoder, recording: Recording) -> Recording:
    """Responses to the stimuli that a decoder was not fitted on, averaged over repetitions.

    They are on the scale of the fit, see `standardise_as_fitted`.

    Raises
    ------
    RepetitionError : it was fitted on all of them. MismatchedIdsError : a session without stimuli of the fit, where
    that was standardised by session.
    """
    recording = as_fitted(decoder, recording)
    unseen = ~np.isin(recording.stimulus_ids.astype(str), list(fitted_stimuli(decoder)))
    if not unseen.any():
        raise RepetitionError(
            "the decoder was fitted on every stimulus of the recording; nothing is held out",
            remedy="Fit with --split, or give a recording of other stimuli",
        )
    return recording.take(np.flatnonzero(unseen)).average_repetitions()


def evaluate_decoder(
    path: Path,
    recording: Recording,
    features: Features | None,
    *,
    n_way: int | None = None,
    n_permutations: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """A fitted decoder on presentations it has not seen: identification, and retrieval among all of `features`.

    Raises
    ------
    InputError : no features for a decoder that decodes into them. ArtifactError : no decoder there.
    """
    if read_config(path).get("kind") == "CategoryDecoder":
        raise InputError(
            "decodes categories and does not know which presentations it was fitted on",
            where=path,
            remedy="Leave out --model: groups of presentations are then left out in turn",
        )
    decoder = load_latent_decoder(path)
    if features is None:
        raise InputError("decodes into features and needs them", where=path, remedy="Give --features")
    test = held_out_average(decoder, recording)
    shown = [str(i) for i in test.stimulus_ids]
    found = decoder.identify(test, features.select(shown), n_way=n_way, n_permutations=n_permutations, seed=seed)
    answer = found.to_dict() | {"n_shuffles": n_permutations}
    if decoder.temperature_ is not None:
        nearest = decoder.retrieve(test, features, k=1)
        answer["retrieval"] = {
            "top1": float(nearest.hits(shown).mean()),
            "chance": nearest.chance,
            "n_gallery": nearest.n_gallery,
        }
    return answer


def evaluate_recording(
    recording: Recording,
    what: str = "category",
    *,
    label: str = "category",
    group: str = "run",
    n_way: int | None = None,
    n_permutations: int = 100,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Decode within a recording: "category" with groups left out in turn, or "patterns" of single presentations.

    Raises
    ------
    UnknownNameError : another `what`, or no such coordinate.
    """
    how: dict[str, Any] = {"n_permutations": n_permutations, "seed": seed, "on_event": on_event, "stop": stop}
    if what == "category":
        return evaluate_categories(recording, label, group, **how).to_dict()
    if what == "patterns":
        return identify_patterns(recording, n_way=n_way, **how).to_dict()
    raise UnknownNameError(f"cannot decode {what!r}", remedy="There are: category, patterns")
