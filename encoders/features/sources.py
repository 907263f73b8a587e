"""Where the weights of a model come from: a repository on the hub, an address, or a folder on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .uris import ExtractorURI, unknown_name

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TRANSFORMERS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Source:
    """One of `repository`, `url` and `folder`; none of them where a model needs no weights.

    `files` are the names that weights may have there, the best first.
    """

    repository: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    url: str | None = None
    folder: Path | None = None


def source_of(uri: ExtractorURI) -> Source:
    """Source of a model's weights.

    Raises
    ------
    UnknownNameError : the library has no such model or no such weights.
    """
    if uri.library == "miniature":
        return _miniature(uri)
    if uri.library == "timm":
        return _timm(uri)
    if uri.library == "open_clip":
        return _open_clip(uri)
    if uri.library == "transformers":
        return _folder(uri.name, TRANSFORMERS_FILES) or Source(uri.name, uri.revision, TRANSFORMERS_FILES)
    return Source()


def _miniature(uri: ExtractorURI) -> Source:
    home = Path(__file__).resolve().parents[1] / "miniature"
    if not (home / uri.name).is_dir() and uri.name != "backbone":
        known = [folder.name for folder in home.iterdir() if (folder / "config.json").exists()]
        raise unknown_name("miniature model", uri.name, known)
    return Source(folder=home / uri.name, files=TIMM_FILES)


def _timm(uri: ExtractorURI) -> Source:
    import timm

    if local := _folder(uri.name, TIMM_FILES):
        return local
    if "/" in uri.name:
        return Source(uri.name, uri.revision, TIMM_FILES)
    if not timm.is_model(uri.name):
        raise unknown_name("timm model", uri.name, timm.list_models(pretrained=True))
    name, _, tag = uri.name.partition(".")
    if tag and tag not in [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]:
        raise unknown_name("weights", uri.name, timm.list_pretrained(f"{name}*"), where=f"timm:{name}")
    config = timm.get_pretrained_cfg(uri.name)
    if config is None or not config.has_weights:
        return Source()
    if config.hf_hub_id:
        files = TIMM_FILES if not config.hf_hub_filename else _safe_first(config.hf_hub_filename)
        return Source(config.hf_hub_id, uri.revision, files)
    return Source(url=config.url) if config.url else Source()


def _open_clip(uri: ExtractorURI) -> Source:
    import open_clip

    if local := _folder(uri.name, OPEN_CLIP_FILES):
        return local
    if uri.name.startswith("hf-hub:"):
        return Source(uri.name.removeprefix("hf-hub:"), uri.revision, OPEN_CLIP_FILES)
    architecture, _, tag = uri.name.partition("/")
    if architecture not in open_clip.list_models():
        raise unknown_name("open_clip model", architecture, open_clip.list_models())
    if not tag:
        return Source()
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        known = open_clip.list_pretrained_tags_by_model(architecture)
        raise unknown_name("weights", tag, known, where=f"open_clip:{architecture}")
    if config.get("hf_hub"):
        repository, _, filename = config["hf_hub"].rpartition("/")
        return Source(repository, uri.revision, _safe_first(filename) if filename else OPEN_CLIP_FILES)
    return Source(url=config["url"])


def _safe_first(filename: str) -> tuple[str, ...]:
    safe = str(Path(filename).with_suffix(".safetensors"))
    names = (safe, *(OPEN_CLIP_FILES[:1] if "open_clip" in filename else ()), filename)
    return tuple(dict.fromkeys(names))


def _folder(name: str, files: tuple[str, ...]) -> Source | None:
    folder = Path(name).expanduser()
    return Source(folder=folder, files=files) if folder.is_dir() else None
