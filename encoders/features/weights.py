"""Weights on this machine: find them, fetch them, and verify what was fetched.

Models load from here without the network. Only `fetch` goes out, through huggingface_hub or torch.hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from recordings.errors import ArtifactError, InputError, MissingWeightsError
from recordings.events import OnEvent, Stop, report

from .sources import Source, source_of
from .uris import ExtractorURI, parse_uri

_SIDE_FILES = re.compile(r"[^/]*\.(json|txt|model|jinja)|README\.md|LICENSE[^/]*")
_BLOCK = 1 << 22


@dataclass
class WeightsStatus:
    """What is known of a model's weights without the network.

    Attributes
    ----------
    present : whether the model can be loaded.
    origin : repository or address; empty for a model that needs no weights.
    folder : where they are, or where they were looked for.
    revision : commit of the repository.
    licence : from the model card.
    files : name to size (bytes) and sha256, the latter only from `verify` and `fetch`.
    """

    uri: str
    present: bool
    origin: str
    folder: str
    revision: str = ""
    licence: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def find_weights(uri: ExtractorURI) -> Path:
    """The weights file of a model (the index, if there are several files).

    Raises
    ------
    MissingWeightsError : it is not on this machine.
    """
    uri = uri.trained
    source = source_of(uri)
    path = _locate(source)
    if path is not None:
        return path
    if source.folder is not None:
        command = "python -m encoders.miniature.train" if uri.library == "miniature" else ""
        remedy = f"Make it with `{command}`" if command else f"It needs one of {', '.join(source.files)}"
    elif source.repository or source.url:
        remedy = f"Fetch them with `penfield models fetch {uri._replace(text=False)}`"
    else:
        remedy = f"It has no weights; write untrained:{uri} to take it as it is"
    raise MissingWeightsError(f"the weights of {uri} are not on this machine", where=_home(source), remedy=remedy)


def weights_status(uri: str) -> WeightsStatus:
    """Whether a model's weights are here, and which; nothing is downloaded or hashed."""
    parsed = parse_uri(uri)
    source = source_of(parsed.trained)
    status = WeightsStatus(uri, False, source.repository or source.url or "", str(_home(source)))
    if parsed.library in ("python", "baseline") or (parsed.untrained and source == Source()):
        status.present = True
        return status
    path = _locate(source)
    if path is None:
        return status
    status.present, status.folder = True, str(path.parent)
    if source.repository:
        status.revision, status.licence = path.parent.name, licence_of(path.parent)
    elif source.folder:
        status.licence = licence_of(path.parent)
    status.files = {file.name: {"bytes": file.stat().st_size} for file in weight_files(path)}
    return status


def fetch(uri: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Download a model's weights, configuration and card, then `verify` them.

    Raises
    ------
    MissingWeightsError : the hub does not have them, or cannot be reached.
    """
    source = source_of(parse_uri(uri).trained)
    report(on_event, stop, "fetch", 0, 1, uri=uri)
    if source.repository:
        _fetch_repository(uri, source)
    elif source.url:
        fetch_url(source.url, uri)
    status = verify(uri)
    report(on_event, None, "fetch", 1, 1, uri=uri)
    return status


def url_path(url: str) -> Path:
    """Where the weights of an address are kept: the checkpoints of torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def fetch_url(url: str, where: str) -> Path:
    """Download weights to `url_path`, checked against the hash in their name, if there is one.

    Parameters
    ----------
    where : what they belong to, for errors.

    Raises
    ------
    MissingWeightsError : they cannot be fetched, or are not what their name promises.
    """
    path = url_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_prefix(path), progress=False)
    except (OSError, RuntimeError) as error:
        raise MissingWeightsError(
            f"{url} could not be fetched ({error})", where=where, remedy="Check the network, and try again"
        ) from error
    return path


def verify(uri: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Hash every weights file and compare it with the hash that its origin gave.

    The hub names files in its cache by their hash; addresses may carry one in their name. A folder has none to compare.

    Raises
    ------
    MissingWeightsError : nothing to verify. ArtifactError : a file is damaged.
    """
    parsed = parse_uri(uri)
    status = weights_status(uri)
    if not status.present:
        find_weights(parsed)
    if not status.files:
        return status
    path = find_weights(parsed)
    files = weight_files(path)
    for done, file in enumerate(files):
        report(on_event, stop, "verify", done, len(files))
        digest, matches = check_hash(file, uri)
        status.files[file.name] |= {"sha256": digest, "matches_origin": matches}
    report(on_event, None, "verify", len(files), len(files))
    return status


def check_hash(file: Path, uri: str) -> tuple[str, bool | None]:
    """SHA-256 of a file, and whether it is the origin's: None where the origin gave none.

    Raises
    ------
    ArtifactError : the file is damaged.
    """
    digest, expected = _sha256(file), _expected_hash(file)
    if expected is None:
        return digest, None
    if not digest.startswith(expected):
        raise ArtifactError(
            f"the file is damaged: sha256 {digest[:12]}, expected {expected[:12]}",
            where=file,
            remedy=f"Delete it and run `penfield models fetch {uri}`",
        )
    return digest, True


def weight_files(path: Path) -> list[Path]:
    """The files of weights: `path` itself, or all that an index names."""
    if path.suffix != ".json":
        return [path]
    shards = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    return [path.parent / shard for shard in shards]


def _locate(source: Source) -> Path | None:
    if source.url:
        path = url_path(source.url)
        return path if path.exists() else None
    for name in source.files:
        if source.folder is not None:
            path = source.folder / name
        else:
            cached = try_to_load_from_cache(source.repository or "", name, revision=source.revision)
            if not isinstance(cached, str):
                continue
            path = Path(cached)
        if path.exists() and all(file.exists() for file in weight_files(path)):
            return path
    return None


def _home(source: Source) -> Path:
    if source.folder is not None:
        return source.folder
    if source.url:
        return url_path(source.url).parent
    return Path(constants.HF_HUB_CACHE) / f"models--{(source.repository or '').replace('/', '--')}"


def _fetch_repository(uri: str, source: Source) -> None:
    repository = source.repository or ""
    try:
        names = HfApi().list_repo_files(repository, revision=source.revision)
        weights = next((name for name in source.files if name in names), None)
        if weights is None:
            raise MissingWeightsError(
                f"{repository} holds none of {', '.join(source.files)}", where=uri, remedy="Name another model"
            )
        shards = [name for name in names if _is_shard(name, weights)]
        wanted = [weights, *shards, *(name for name in names if _SIDE_FILES.fullmatch(name))]
        snapshot_download(repository, revision=source.revision, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise MissingWeightsError(
            f"{repository} could not be fetched from {constants.ENDPOINT} ({error})".splitlines()[0],
            where=uri,
            remedy="Check the name, the network, HF_ENDPOINT, HF_HUB_OFFLINE and, for gated models, HF_TOKEN",
        ) from error


def _is_shard(name: str, index: str) -> bool:
    stem, _, kind = index.removesuffix(".index.json").rpartition(".")
    return index.endswith(".index.json") and re.fullmatch(rf"{re.escape(stem)}-.*\.{kind}", name) is not None


def licence_of(folder: Path) -> str:
    """Licence in a repository's model card; empty without one."""
    card = folder / "README.md"
    if not card.exists():
        return ""
    try:
        return str(ModelCard.load(card).data.license or "")
    except (ValueError, OSError):
        return ""


def _hash_prefix(path: Path) -> str | None:
    found = torch.hub.HASH_REGEX.search(path.name)
    return found.group(1) if found else None


def _expected_hash(file: Path) -> str | None:
    blob = file.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return _hash_prefix(file)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
