"""Model artifacts: a folder with ``config.json``, ``model.safetensors`` and a model card, never a pickle."""

from __future__ import annotations

import errno
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from huggingface_hub import ModelHubMixin
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .errors import ArtifactError
from .recording import Recording
from .space import Space
from .standardise import STANDARDISED
from .storage import atomic_path

FORMAT_VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
ROI = "roi"


class Artifact(ModelHubMixin):
    """Base of all fitted models: ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of huggingface_hub.

    A subclass says what it consists of: `_config` (JSON values), `_tensors` (arrays), and how to build itself from
    these in `_restore`. Optional `_card` adds lines to the model card. A model that consists of others writes and reads
    their folders in `_write` and `_read`.
    """

    def _config(self) -> dict[str, Any]:
        raise NotImplementedError

    def _tensors(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    @classmethod
    def _restore(cls, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Self:
        raise NotImplementedError

    def _card(self) -> str:
        return ""

    def _write(self, folder: Path) -> None:
        save_artifact(folder, type(self).__name__, self._config(), self._tensors(), self._card())

    @classmethod
    def _read(cls, folder: Path) -> Self:
        return cls._restore(*load_artifact(folder, cls.__name__))

    def save_pretrained(self, save_directory: str | PathLike[str], *, overwrite: bool = False, **kwargs: Any) -> None:
        """Write the model to a folder, whole or not at all."""
        with atomic_path(save_directory, overwrite=overwrite) as part:
            self._write(part)
        if kwargs.pop("push_to_hub", False):
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        self._write(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **kwargs: Any) -> Self:
        folder = Path(model_id)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            hub = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            folder = Path(snapshot_download(model_id, **{k: kwargs[k] for k in hub if k in kwargs}))
        return cls._read(folder)


def save_artifact(
    folder: Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], card: str = ""
) -> None:
    """Write config, tensors and card into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("penfield", "numpy", "torch", "safetensors")}
    meta = {"format_version": FORMAT_VERSION, "kind": kind, "versions": versions, **config}
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / WEIGHTS)
    except SafetensorError as error:
        # The library tells a full disk in words only.
        if f"os error {errno.ENOSPC}" not in str(error) and f"os error {errno.EDQUOT}" not in str(error):
            raise
        raise OSError(errno.ENOSPC, str(error)) from error
    (folder / CONFIG).write_text(json.dumps(meta, indent=2, default=_plain) + "\n")
    (folder / CARD).write_text(_model_card(kind, meta, card))


def load_artifact(folder: str | PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Config and tensors of an artifact of the given kind.

    Raises
    ------
    ArtifactError : no artifact there, another kind or format version, or a broken weights file.
    """
    folder = Path(folder)
    config = read_config(folder)
    if config.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"artifact format {config.get('format_version')}, expected {FORMAT_VERSION}",
            where=folder,
            remedy="Fit the model again with this version of Penfield",
        )
    if config.get("kind") != kind:
        raise ArtifactError(f"holds a {config.get('kind')}, not a {kind}", where=folder)
    try:
        return config, load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"weights cannot be read ({error})", where=folder / WEIGHTS) from error


def read_config(folder: str | PathLike[str]) -> dict[str, Any]:
    """The ``config.json`` of an artifact; `ArtifactError` if there is none."""
    path = Path(folder) / CONFIG
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"no readable {CONFIG} ({error})", where=folder, remedy="Give a folder that save_pretrained wrote"
        ) from error


def recording_fields(recording: Recording) -> dict[str, Any]:
    """What a model remembers of its training recording: ordered neuroid ids, their space and a hash of both.

    Where known, also their regions; if it was standardised, by what (`recordings.standardise.STANDARDISED`).
    """
    how = recording.attrs.get(STANDARDISED)
    regions = recording.data.coords.get(ROI)
    return {
        "neuroid_ids": [str(i) for i in recording.neuroid_ids],
        "space": recording.space.to_dict(),
        "neuroid_fingerprint": recording.fingerprint(),
        **({} if regions is None else {ROI: [str(names) for names in regions.values]}),
        **({STANDARDISED: how} if how else {}),
    }


def restored_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `recording_fields` gave, from a saved configuration that holds it among other values."""
    names = ("neuroid_ids", "space", "neuroid_fingerprint", ROI, STANDARDISED)
    return {name: config[name] for name in names if name in config}


def recording_of(fields: Mapping[str, Any], values: np.ndarray, stimulus_ids: Sequence[str]) -> Recording:
    """A recording of the neuroids in `recording_fields`, from (stimulus, neuroid) responses on the scale of the fit."""
    neuroids = {"neuroid_id": fields["neuroid_ids"], **({ROI: fields[ROI]} if ROI in fields else {})}
    attrs = {STANDARDISED: fields[STANDARDISED]} if STANDARDISED in fields else {}
    space = Space.from_dict(fields["space"])
    return Recording(values, {"stimulus_id": list(stimulus_ids)}, neuroids, space=space, attrs=attrs)


def check_neuroids(config: Mapping[str, Any], recording: Recording, *, responses: bool = True) -> None:
    """Raise `ArtifactError` if a recording has other neuroids, another order or another space than the model.

    Or, unless its `responses` are not read, if it is standardised otherwise than that of the fit.
    """
    if config["neuroid_fingerprint"] != recording.fingerprint():
        raise ArtifactError(
            f"the recording's {recording.n_neuroids} neuroids are not the {len(config['neuroid_ids'])} the model was "
            "fitted on, or stand in another order or space",
            remedy="Use the recording of the same subject and the same mask",
        )
    fitted, given = config.get(STANDARDISED), recording.attrs.get(STANDARDISED)
    if responses and fitted != given:
        raise ArtifactError(
            f"the responses are {f'standardised by {given}' if given else 'not standardised'}, those of the fit were "
            f"{f'standardised by {fitted}' if fitted else 'not'}",
            where="recording",
            remedy="Standardise them with the moments of the training part (recordings.SessionScaler)",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _model_card(kind: str, meta: Mapping[str, Any], card: str) -> str:
    facts = "\n".join(
        f"- {name}: {value}" for name, value in meta.items() if isinstance(value, str | int | float) and value != ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    body = f"{card.strip()}\n\n" if card else ""
    head = f"---\nlibrary_name: penfield\ntags: [{kind}]\n---\n\n# {kind}\n\n"
    return f"{head}{body}## Facts\n\n{facts}\n- written with: {versions}\n"
