"""Folders as tar archives: what arrives is unpacked within limits and never outside its folder."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path, PurePosixPath

from recordings.errors import FormatError, TruncatedFileError
from service.errors import BudgetError

MAX_FILES = 200_000
MAX_DEPTH = 32
_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int = MAX_FILES) -> None:
    """Unpack a tar archive of plain files into `folder`, which must not exist; a single folder around all is left out.

    Parameters
    ----------
    max_bytes, max_files : that come out, at most; counted while unpacking, so that a sparse entry does not pass.

    Raises
    ------
    FormatError : not a tar archive, or an entry is a link, a device, or outside the folder; names the entry.
    TruncatedFileError : the archive ends early. BudgetError : more bytes or files than the limits.
    """
    folder.mkdir(parents=True)
    seen, total = 0, 0
    try:
        # Plain tar only: a compressed one could be a thousand times larger than what was uploaded.
        with tarfile.open(archive, "r:") as source:
            for member in source:
                seen, total = seen + 1, total + member.size
                if seen > max_files or total > max_bytes:
                    raise BudgetError(
                        f"more than {max_files:,} files or {max_bytes:,} bytes", where=archive.name, remedy="Send less"
                    )
                _unpack_one(source, member, folder)
    except tarfile.ReadError as error:
        broken = TruncatedFileError if seen else FormatError
        raise broken(f"not a whole tar archive ({error})", where=archive.name, remedy="Pack it again") from error
    if not seen:
        raise FormatError("an empty archive", where=archive.name)
    _leave_out_single_folder(folder)


def _unpack_one(source: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = _safe(member)
    if path is None:
        return
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise FormatError("occurs twice", where=member.name, remedy="Pack each file once")
    content = source.extractfile(member)
    assert content is not None
    left = member.size
    with target.open("xb") as file:
        while left:
            block = content.read(min(left, _CHUNK))
            if not block:
                raise tarfile.ReadError("unexpected end of data")
            file.write(block)
            left -= len(block)


def _safe(member: tarfile.TarInfo) -> PurePosixPath | None:
    """The entry's path inside the folder; None for the folder itself."""
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise FormatError("a link, a device or a sparse file", where=member.name, remedy="Pack plain files and folders")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        raise FormatError("lies outside the archive's folder", where=member.name, remedy="Pack relative paths")
    if len(path.parts) > MAX_DEPTH:
        raise FormatError(f"deeper than {MAX_DEPTH} folders", where=member.name)
    return path if path.parts else None


def _leave_out_single_folder(folder: Path) -> None:
    inside = list(folder.iterdir())
    # "recording.zarr/..." packed with its own name is the recording, not a folder around it.
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name == folder.name:
        around = folder.with_name(f".{folder.name}.around")
        folder.rename(around)
        (around / folder.name).rename(folder)
        around.rmdir()


def pack(folder: Path, archive: Path) -> tuple[int, str]:
    """Pack a folder's files into a tar archive, the same bytes each time; its size and SHA-256."""
    with tarfile.open(archive, "x:", format=tarfile.PAX_FORMAT) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            if path.is_dir():
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                target.addfile(entry)
                continue
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                target.addfile(entry, file)
    with archive.open("rb") as file:
        return archive.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
