"""`ModelRepository`: the models of a folder, by name and version."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recordings.errors import InputError

from .errors import ModelNotFoundError

CONFIG = "config.json"
MAX_LEVELS = 3
ENCODE, DECODE = "encode", "decode"
# By name, since the classes themselves take seconds to import.
VERBS = {
    "RidgeEncoder": ENCODE,
    "BandedRidgeEncoder": ENCODE,
    "TransformerEncoder": ENCODE,
    "Ensemble": ENCODE,
    "BrainDecoder": DECODE,
    "LatentDecoder": DECODE,
}
FIRST_VERSION = "1"
# Between the two renames by which a folder is replaced it has no name.
SWAP_SECONDS = 0.05
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_BLOCK = 2**20

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, order=True)
class ModelKey:
    """Name and version of a model."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class ModelEntry:
    """A model on disk.

    Attributes
    ----------
    kind : class of the artifact; "" where its configuration cannot be read, and `reason` says why.
    fingerprint : SHA-256 of names and contents of its files. modified : seconds since 1970.
    verbs : "encode" or "decode". signature : of its files, from which a change is seen without reading them.
    """

    key: ModelKey
    folder: Path
    kind: str
    fingerprint: str
    bytes_on_disk: int
    modified: float
    verbs: tuple[str, ...]
    reason: str = ""
    signature: Signature = ()


class ModelRepository:
    """The models below a folder: ``NAME/config.json``, or ``NAME/VERSION/config.json`` with whole numbers as versions.

    A name consists of one to three parts with slashes between. Symbolic links are followed within the folder; what
    leads out of it is no model. `scan` reads the disk, all else answers from what it found.

    Parameters
    ----------
    folder : of the models.
    device : where models are to run, for those who load them.

    Raises
    ------
    InputError : no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, device: str = "auto"):
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise InputError("no such folder", where=folder, remedy="Give the folder that holds the models")
        self.device = device
        self._entries: dict[ModelKey, ModelEntry] = {}
        self._scanning = threading.Lock()
        self.scan()

    def scan(self) -> list[ModelEntry]:
        """Look at the disk again; contents are read only of models whose files have changed."""
        with self._scanning:
            found = dict(_models(self.folder, self.folder))
            if self._entries.keys() - found.keys():
                time.sleep(SWAP_SECONDS)
                found = dict(_models(self.folder, self.folder))
            known = self._entries
            self._entries = {
                key: _entry(key, found[key], known.get(key), self.folder) for key in sorted(found, key=_order)
            }
        return self.list()

    def list(self) -> list[ModelEntry]:
        """All versions of all models, by name and then version."""
        return list(self._entries.values())

    def find(self, name: str, version: str = "") -> ModelEntry:
        """A model, in its newest version if none is named.

        Raises
        ------
        ModelNotFoundError : no such model or version.
        """
        entries = self._entries
        if version:
            entry = entries.get(ModelKey(name, version))
        else:
            entry = next((entry for key, entry in reversed(entries.items()) if key.name == name), None)
        if entry is not None:
            return entry
        versions = [key.version for key in entries if key.name == name]
        if versions:
            raise ModelNotFoundError(f"no version {version!r}", where=name, remedy=f"There are {', '.join(versions)}")
        raise ModelNotFoundError("no such model", where=name, remedy="ListModels tells which there are")


def _models(root: Path, folder: Path, parts: tuple[str, ...] = ()) -> Iterator[tuple[ModelKey, Path]]:
    for child in _folders(root, folder):
        if parts and _VERSION.fullmatch(child.name) and (child / CONFIG).is_file():
            yield ModelKey("/".join(parts), child.name), child
        elif len(parts) == MAX_LEVELS:
            continue
        elif (child / CONFIG).is_file():
            yield ModelKey("/".join((*parts, child.name)), FIRST_VERSION), child
        else:
            yield from _models(root, child, (*parts, child.name))


def _folders(root: Path, folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    named = [child for child in children if _PART.fullmatch(child.name) and child.is_dir()]
    return [child for child in named if child.resolve().is_relative_to(root)]


def _order(key: ModelKey) -> tuple[str, int]:
    return key.name, int(key.version)


def signature_of(folder: Path) -> Signature:
    """Name, inode, size and time of change of each file, from which a change is seen without reading them."""
    found = []
    for file in sorted(folder.rglob("*")):
        try:
            status = file.stat()
        except OSError:
            continue
        if file.is_file():
            found.append((file.relative_to(folder).as_posix(), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _entry(key: ModelKey, folder: Path, known: ModelEntry | None, root: Path) -> ModelEntry:
    signature = signature_of(folder)
    if known is not None and known.signature == signature and known.folder == folder:
        return known
    kind, reason = _kind(folder) if _stays(folder, root) else ("", "holds a link that leads out of the repository")
    fingerprint = ""
    if not reason:
        try:
            fingerprint = _digest(folder, signature)
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
    return ModelEntry(
        key,
        folder,
        kind,
        fingerprint,
        sum(size for _, _, size, _ in signature),
        max((changed for *_, changed in signature), default=0) / 1e9,
        (VERBS[kind],) if kind in VERBS else (),
        reason,
        signature,
    )


def _stays(folder: Path, root: Path) -> bool:
    return all(path.resolve().is_relative_to(root) for path in folder.rglob("*"))


def _kind(folder: Path) -> tuple[str, str]:
    """Kind of an artifact, and what is wrong with it."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind = config["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", f"has no readable {CONFIG}"
    return (kind, "") if isinstance(kind, str) and kind in VERBS else (str(kind), "is of a kind that answers no verb")


def _digest(folder: Path, signature: Signature) -> str:
    digest = hashlib.sha256()
    for name, _, size, _ in signature:
        digest.update(f"{name} {size}\n".encode())
        with (folder / name).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
