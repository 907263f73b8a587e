"""Published image generators on this machine: find, fetch and verify them by ``diffusers:OWNER/NAME[@REVISION]``.

For example ``diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5`` and
``diffusers:stabilityai/stable-diffusion-2-depth``. Models that stand alone keep their library's scheme, for example
``transformers:Salesforce/blip-image-captioning-base`` or ``transformers:Intel/dpt-large``; see
`encoders.features.weights`. Only `fetch_pipeline` uses the network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from encoders.features.weights import WeightsStatus, check_hash, licence_of
from recordings.errors import ArtifactError, InputError, MissingWeightsError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from .pictures.folders import INDEX, PARTS, SCHEME, WEIGHTLESS, check_whole, find_folder, part_folders

_SIDE_FILE = re.compile(r"[^/]*\.(json|txt|model)|README\.md|LICENSE[^/]*")
# Names of a part's weights, the best first; each may be cut into shards, which an index lists.
_WEIGHTS = tuple(
    f"{stem}{variant}.safetensors{index}"
    for variant in ("", ".fp16")
    for stem in ("diffusion_pytorch_model", "model")
    for index in ("", ".index.json")
)


def is_pipeline(uri: str) -> bool:
    """Whether a URI names a generator in diffusers' layout."""
    return uri.startswith(SCHEME)


def parse_pipeline(uri: str) -> tuple[str, str | None]:
    """Name, a repository or a folder, and revision of ``diffusers:NAME[@REVISION]``; `UnknownNameError` for others."""
    name, _, revision = uri.removeprefix(SCHEME).partition("@")
    if not is_pipeline(uri) or not name:
        raise UnknownNameError(f"no generator's name: {uri!r}", remedy=f"Write {SCHEME}OWNER/NAME or {SCHEME}FOLDER")
    return name, revision or None


def find_pipeline(uri: str) -> Path:
    """The folder of a generator, or of one part such as a ControlNet, without the network.

    Raises
    ------
    MissingWeightsError : it is not on this machine, or not all of it; the error names the command that fetches it.
    ArtifactError : weights that are pickled alone, pointers of Git LFS, or cut short.
    """
    name, revision = parse_pipeline(uri)
    folder = find_folder(name, revision)
    if Path(name).is_dir():
        check_whole(folder, uri, "Copy the whole folder")
    return folder


def pipeline_status(uri: str) -> WeightsStatus:
    """Whether a generator is here, and which files; nothing is downloaded or hashed."""
    name, _ = parse_pipeline(uri)
    home = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    is_folder = Path(name).is_dir()
    status = WeightsStatus(uri, False, "" if is_folder else name, str(name if is_folder else home))
    try:
        folder = find_pipeline(uri)
    except (MissingWeightsError, ArtifactError):
        return status
    status.present, status.folder, status.licence = True, str(folder), licence_of(folder)
    status.revision = "" if is_folder else folder.name
    status.files = {str(f.relative_to(folder)): {"bytes": f.stat().st_size} for f in _weight_files(folder)}
    return status


def fetch_pipeline(uri: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Download the parts that Penfield reads, as safetensors alone and of one precision, then `verify_pipeline`.

    Raises
    ------
    MissingWeightsError : the hub does not have it, cannot be reached, or has a part as pickles alone.
    """
    name, revision = parse_pipeline(uri)
    report(on_event, stop, "fetch", 0, 1, uri=uri)
    try:
        names = HfApi().list_repo_files(name, revision=revision)
        wanted = _wanted(uri, names, _index(name, revision) if INDEX in names else None)
        snapshot_download(name, revision=revision, allow_patterns=wanted)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise MissingWeightsError(
            f"{name} could not be fetched from {constants.ENDPOINT} ({error})".splitlines()[0],
            where=uri,
            remedy="Check the name, the network, HF_ENDPOINT, HF_HUB_OFFLINE and, for gated models, HF_TOKEN",
        ) from error
    status = verify_pipeline(uri)
    report(on_event, None, "fetch", 1, 1, uri=uri)
    return status


def verify_pipeline(uri: str, on_event: OnEvent | None = None, stop: Stop | None = None) -> WeightsStatus:
    """Hash every weights file and compare it with the hash that the hub gave; a folder has none to compare.

    Raises
    ------
    MissingWeightsError : nothing to verify. ArtifactError : a file is damaged.
    """
    folder = find_pipeline(uri)
    status = pipeline_status(uri)
    for done, name in enumerate(status.files):
        report(on_event, stop, "verify", done, len(status.files))
        digest, matches = check_hash(folder / name, uri)
        status.files[name] |= {"sha256": digest, "matches_origin": matches}
    report(on_event, None, "verify", len(status.files), len(status.files))
    return status


def cached_pipelines() -> list[str]:
    """URIs of the generators in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return []
    return sorted(
        f"{SCHEME}{repository.repo_id}"
        for repository in repositories
        if any((revision.snapshot_path / INDEX).exists() for revision in repository.revisions)
    )


def _index(name: str, revision: str | None) -> Mapping[str, object]:
    return json.loads(Path(hf_hub_download(name, INDEX, revision=revision)).read_text())


def _wanted(uri: str, names: Sequence[str], index: Mapping[str, object] | None) -> list[str]:
    """Files to fetch: of each part of a pipeline, or of a model that stands alone where there is no index."""
    parts = [""] if index is None else [f"{part}/" for part in PARTS if _is_used(index.get(part))]
    side = [name for name in names if _SIDE_FILE.fullmatch(name)]
    for part in parts:
        inside = [name.removeprefix(part) for name in names if name.startswith(part)]
        side += [part + name for name in inside if _SIDE_FILE.fullmatch(name) and name not in _WEIGHTS]
        if part.strip("/") in WEIGHTLESS:
            continue
        weights = next((name for name in _WEIGHTS if name in inside), None)
        if weights is None:
            raise MissingWeightsError(
                f"{part.strip('/') or 'the repository'} holds none of {', '.join(_WEIGHTS[::4])}",
                where=uri,
                remedy="Name a repository with weights as safetensors; pickles are not loaded",
            )
        side += [part + name for name in (weights, *_shards(inside, weights))]
    return list(dict.fromkeys(side))


def _shards(names: Sequence[str], index: str) -> list[str]:
    if not index.endswith(".index.json"):
        return []
    stem = re.escape(index.removesuffix(".safetensors.index.json"))
    return [name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.safetensors", name)]


def _is_used(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and None not in entry


def _weight_files(folder: Path) -> Iterator[Path]:
    for part in part_folders(folder):
        yield from sorted(part.glob("*.safetensors"))
