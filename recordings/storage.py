"""Folders and files that appear under their final name only when they are whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DiskFullError, InputError, disk_full_as_error


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary sibling of `path` to write a file or folder to, renamed to `path` on success.

    On any error the sibling is removed and `path` is left as it was.

    Parameters
    ----------
    path : final name.
    overwrite : replace what stands there; otherwise its presence raises `InputError`.

    Raises
    ------
    InputError : `path` exists and `overwrite` is False.
    DiskFullError : the disk filled up while writing.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError("exists already", where=path, remedy="Choose another name or pass overwrite")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with disk_full_as_error(path):
            part.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _replace(part, path)
    except DiskFullError as error:
        if error.where != str(part):
            raise
        raise DiskFullError(error.what, where=path, remedy=error.remedy) from error
    finally:
        remove(part)


def _replace(part: Path, path: Path) -> None:
    old = None
    if path.is_dir():
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
        path.rename(old)
    part.rename(path)
    if old is not None:
        remove(old)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
