"""Folders in the layout of diffusers: find them, refuse what cannot or must not be loaded, load their parts."""

from __future__ import annotations

import importlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from recordings.errors import ArtifactError, MissingWeightsError

from ..quiet import quietly

INDEX = "model_index.json"
ADAPTER = "ip_adapter.safetensors"
SCHEME = "diffusers:"
# Parts that a `Generator` reads; others, such as a safety checker or a depth estimator, may be absent.
PARTS = ("vae", "unet", "scheduler", "text_encoder", "tokenizer", "controlnet")
WEIGHTLESS = ("scheduler", "tokenizer")
_MINIATURE = Path(__file__).parents[1] / "miniature"
_LIBRARIES = ("diffusers", "transformers")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_POINTER = b"version https://git-lfs"


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a generator or of a part of one, without the network.

    Parameters
    ----------
    name : a folder, "miniature:PART", or a repository on the hub, OWNER/NAME[@REVISION]; "diffusers:" may stand before
        it, as in the commands that fetch and list.
    revision : of a repository; that of the name by default.

    Raises
    ------
    MissingWeightsError : it is not on this machine, or was fetched in part.
    ArtifactError : a repository whose weights are pickled alone, pointers of Git LFS, or cut short.
    """
    name = str(name).removeprefix(SCHEME)
    if Path(name).is_dir():
        return Path(name)
    if name.startswith("miniature:"):
        folder = _MINIATURE / name.removeprefix("miniature:")
        if not folder.is_dir():
            raise MissingWeightsError(
                f"no {name}", where=folder, remedy="Make it with `python -m decoders.miniature.train`"
            )
        return folder
    repository, _, pinned = name.partition("@")
    revision = revision or pinned or None
    remedy = f"Fetch it with `penfield models fetch {SCHEME}{repository}{f'@{revision}' if revision else ''}`"
    with suppress(HFValidationError):
        for file in (INDEX, "config.json"):
            cached = try_to_load_from_cache(repository, file, revision=revision)
            if isinstance(cached, str):
                check_whole(Path(cached).parent, name, remedy)
                return Path(cached).parent
    raise MissingWeightsError(
        f"{name} is neither a folder nor in the cache of the hub", where=constants.HF_HUB_CACHE, remedy=remedy
    )


def check_whole(folder: Path, name: str, remedy: str) -> None:
    """Raise `MissingWeightsError` for a folder that lacks one of the parts that are read, or weights of one."""
    for part in part_folders(folder):
        if not _is_whole(part):
            raise MissingWeightsError(
                f"{name} is not whole: {'it' if part == folder else part.name} lacks a part of its weights, or all",
                where=folder,
                remedy=remedy,
            )


def part_folders(folder: Path) -> list[Path]:
    """Folders of a pipeline's parts, or the folder itself where it is one model."""
    if not (folder / INDEX).exists() and (folder / "config.json").exists():
        return [folder]
    return [folder / part for part in read_index(folder) if part in PARTS]


def _is_whole(part: Path) -> bool:
    """Whether a part is there with all shards; `ArtifactError` for pickles alone, pointers and files cut short."""
    files = list(part.iterdir()) if part.is_dir() else []
    if part.name in WEIGHTLESS or not any(file.suffix in (".safetensors", *_PICKLED) for file in files):
        return part.name in WEIGHTLESS and bool(files)
    check_weights(part)
    indices = (file for file in files if file.name.endswith(".safetensors.index.json"))
    shards = (name for index in indices for name in json.loads(index.read_text())["weight_map"].values())
    return all((part / name).exists() for name in shards)


def read_index(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part that a folder holds; parts that were saved as None are left out.

    Raises
    ------
    ArtifactError : no readable index.
    """
    try:
        index = json.loads((folder / INDEX).read_text())
        parts = {name: tuple(value) for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"no readable {INDEX} ({error})", where=folder, remedy="Give a folder in the layout of diffusers"
        ) from error
    return {name: value for name, value in parts.items() if all(isinstance(item, str) for item in value)}


def load_part(folder: Path, library: str, kind: str, dtype: torch.dtype | None = None) -> Any:
    """A model (with `dtype`, float weights), scheduler or tokenizer (without) from its folder.

    Raises
    ------
    ArtifactError : no such folder or class, pickled or absent weights, a pointer instead of weights, a damaged file.
    """
    if not folder.is_dir():
        raise ArtifactError(f"no {folder.name}", where=folder.parent, remedy="Fetch or copy the whole folder")
    cls = getattr(importlib.import_module(library), kind, None) if library in _LIBRARIES else None
    if cls is None:
        raise ArtifactError(
            f"{folder.name} is a {kind} of {library}",
            where=folder.parent,
            remedy="Take parts of diffusers or transformers",
        )
    try:
        if dtype is None:
            with quietly():
                return cls.from_pretrained(folder)
        half = all(".fp16." in file.name for file in check_weights(folder))
        options: dict[str, Any] = {
            "use_safetensors": True,
            "variant": "fp16" if half else None,
            "output_loading_info": True,
        }
        options["dtype" if library == "transformers" else "torch_dtype"] = dtype
        with quietly():
            model, found = cls.from_pretrained(folder, **options)
    except ArtifactError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0]
        raise ArtifactError(f"cannot be loaded as {kind} ({first})", where=folder, remedy="Fetch it again") from error
    # The libraries would draw at random what a file lacks.
    if found["missing_keys"]:
        raise ArtifactError(
            f"lacks {len(found['missing_keys'])} weights of {kind}, first {min(found['missing_keys'])}",
            where=folder,
            remedy="Fetch it again, or name a checkpoint of this architecture",
        )
    return model


def check_weights(folder: Path) -> list[Path]:
    """Weights files of a model's folder; `ArtifactError` if they are pickled, absent, pointers or cut short."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [file.name for file in folder.iterdir() if file.suffix in _PICKLED]
        what = f"pickled weights ({pickled[0]}), which are not loaded" if pickled else "no weights"
        raise ArtifactError(what, where=folder, remedy="Give weights as safetensors")
    for file in files:
        check_file(file)
    return files


def check_file(file: Path) -> None:
    """Raise `ArtifactError` if a safetensors file is a pointer of git-lfs or shorter than its header says."""
    with file.open("rb") as opened:
        head = opened.read(len(_POINTER))
        if head == _POINTER:
            raise ArtifactError("a git-lfs pointer, not weights", where=file, remedy="Run `git lfs pull` there")
        opened.seek(0)
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(min(length, file.stat().st_size)))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError("not a safetensors file, or cut short", where=file, remedy="Fetch it again") from error
    if 8 + length + max(ends, default=0) != file.stat().st_size:
        raise ArtifactError("the file is cut short", where=file, remedy="Fetch it again")


def load_adapter(path: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of an IP-Adapter, {"image_proj": ..., "ip_adapter": ...}, as diffusers takes them.

    Parameters
    ----------
    path : a safetensors file, a folder that holds ``ip_adapter.safetensors``, or "miniature:ip_adapter".

    Raises
    ------
    MissingWeightsError : no such file. ArtifactError : pickled, damaged, or something else than an IP-Adapter.
    """
    file = find_folder(path) if str(path).startswith("miniature:") else Path(path)
    file = file / ADAPTER if file.is_dir() else file
    if not file.exists():
        raise MissingWeightsError("no IP-Adapter", where=file, remedy=f"Give its file or the folder of {ADAPTER}")
    if file.suffix != ".safetensors":
        raise ArtifactError("pickled weights, which are not loaded", where=file, remedy="Give weights as safetensors")
    check_file(file)
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in load_file(file).items():
        part, _, key = name.partition(".")
        if part in parts:
            parts[part][key] = value
    if not all(parts.values()):
        raise ArtifactError("not an IP-Adapter: no image_proj or no ip_adapter", where=file)
    return parts
