"""Models of transformers that decode: loaded by name without the network, and the tokens that a brain is to predict."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError

from encoders import FeatureExtractor, Features, extract
from encoders.features.backbone import load_backbone
from encoders.features.readouts import TokenLayout
from encoders.features.uris import ExtractorURI, parse_uri
from encoders.features.weights import find_weights
from recordings import Stimuli
from recordings.artifacts import CONFIG, read_config
from recordings.errors import ArtifactError, MissingWeightsError, NotFiniteError, ShapeError, UnknownNameError
from recordings.events import OnEvent, Stop

from .quiet import quietly


def find_model(name: str, revision: str | None = None) -> Path:
    """Folder of a model of transformers: `name` itself if that is a folder, else its place in the hub's cache.

    Raises
    ------
    MissingWeightsError : it is not on this machine, or not all of it; the error names the command that fetches it.
    UnknownNameError : no folder and no name that a repository could have.
    """
    uri = ExtractorURI("transformers", name, revision)
    try:
        folder = find_weights(uri).parent
    except HFValidationError as error:
        raise UnknownNameError(
            f"{name!r} is neither a folder nor OWNER/NAME of a repository",
            remedy="Leave out the scheme, such as transformers:, and give a revision apart",
        ) from error
    if not Path(name).is_dir() and not (folder / CONFIG).exists():
        raise MissingWeightsError(
            f"{name} is not whole: {CONFIG} is missing",
            where=folder,
            remedy=f"Fetch it with `penfield models fetch {uri}`",
        )
    return folder


def load_model(architecture: Any, folder: Path, unused: Sequence[str] = ()) -> Any:
    """A model of transformers in float32 and evaluation mode, all of its weights from the folder.

    Parameters
    ----------
    architecture : class of transformers. unused : parts, by prefix of their parameters, that never compute anything and
        that a folder may lack.

    Raises
    ------
    ArtifactError : another architecture, a damaged file, or weights that the folder lacks and that transformers would
        silently draw at random.
    """
    kind, expected = read_config(folder).get("model_type"), architecture.config_class.model_type
    if kind != expected:
        raise ArtifactError(
            f"holds a model of type {kind}, not {expected}",
            where=folder,
            remedy=f"Name a model that {architecture.__name__} of transformers loads",
        )
    with loading(folder), quietly():
        model, found = architecture.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(tuple(unused)))
    if missing:
        raise ArtifactError(
            f"lacks {len(missing)} weights of {architecture.__name__}, first {missing[0]}",
            where=folder,
            remedy="Name a checkpoint of this architecture and task",
        )
    return model.eval().requires_grad_(False)


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn what transformers raises over a folder into an `ArtifactError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"transformers cannot load it ({str(error).splitlines()[0]})",
            where=folder,
            remedy="Fetch it again, if it is damaged, incomplete or holds pointers of Git LFS in place of files",
        ) from error


def token_extractor(uri: str, device: str) -> FeatureExtractor:
    """A model by extractor URI, whose read-out "tokens" keeps class and register tokens."""
    backbone = load_backbone(parse_uri(uri), allow_python=False)
    return FeatureExtractor(dataclasses.replace(backbone, layout=TokenLayout()), uri, device)


def tokens_by_layer(
    extractor: FeatureExtractor,
    stimuli: Stimuli | np.ndarray,
    layers: Sequence[str],
    path: str | PathLike[str] | None,
    batch_size: int,
    on_event: OnEvent | None,
    stop: Stop | None,
) -> dict[str, Features]:
    """Tokens (n, token, channel) of each layer: kept in a store at `path`, or read into memory if there is none.

    Images may be given as uint8 (n, H, W, 3); see `encoders.extract` for what is raised.
    """
    shown = as_stimuli(stimuli)
    options: dict[str, Any] = {"readout": "tokens", "batch_size": batch_size, "on_event": on_event, "stop": stop}
    if path is not None:
        return extract(extractor, shown, path, layers, **options)
    with tempfile.TemporaryDirectory() as folder:
        stored = extract(extractor, shown, Path(folder) / "tokens", layers, **options)
        return {layer: Features.from_arrays(kept.read(), shown.ids, **kept.attrs) for layer, kept in stored.items()}


def as_stimuli(stimuli: Stimuli | np.ndarray) -> Stimuli:
    """Images uint8 (n, H, W, 3) as stimuli; `ShapeError` for an array of another kind."""
    return stimuli if isinstance(stimuli, Stimuli) else Stimuli.from_arrays(np.asarray(stimuli))


def check_tokens(tokens: np.ndarray, width: int, stimulus_ids: Sequence[str] | None, what: str) -> np.ndarray:
    """Decoded tokens as float32 (n, token, channel).

    Raises
    ------
    ShapeError : no such array, another width, or another number of ids. NotFiniteError : names the stimulus.
    """
    tokens = np.ascontiguousarray(tokens, np.float32)
    if tokens.ndim != 3 or tokens.shape[2] != width:
        raise ShapeError(
            f"{what} of shape {tokens.shape}, expected (stimulus, token, {width})",
            remedy="Decode the tokens of this very model, and give them the shape of the features they were fitted on",
        )
    check_rows(tokens, stimulus_ids, what)
    return tokens


def check_rows(values: np.ndarray, stimulus_ids: Sequence[str] | None, what: str) -> None:
    """Raise `ShapeError` unless there is an id a row, `NotFiniteError` that names a row with NaN or infinity."""
    if stimulus_ids is not None and len(stimulus_ids) != len(values):
        raise ShapeError(f"{len(stimulus_ids)} stimulus ids for {what} of {len(values)} stimuli")
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if bad.any():
        raise NotFiniteError(
            f"{what} of {row_name(int(np.argmax(bad)), stimulus_ids)} hold NaN or infinity "
            f"({bad.sum()} of {len(bad)} do)",
            remedy="Look for NaN in the responses they were decoded from, or leave these out",
        )


def row_name(row: int, stimulus_ids: Sequence[str] | None) -> str:
    """How an error calls a row."""
    return f"row {row}" if stimulus_ids is None else f"stimulus {str(stimulus_ids[row])!r}"
