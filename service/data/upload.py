"""`Upload`: bytes on their way into the store, which survive a broken connection."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from recordings.errors import DiskFullError, InputError, disk_full_as_error
from recordings.storage import remove
from service.errors import ChecksumError

from .archive import unpack
from .contents import check_contents

MAX_CHUNK = 1 << 20


def part_name(owner: str, sha256: str) -> str:
    """Name of the file of what has arrived, a caller's own; names of callers may hold any character."""
    return f"{hashlib.sha256(owner.encode()).hexdigest()[:16]}-{sha256}.part"


class Upload:
    """A file that grows by chunks. `DataStore.open` makes one.

    Parameters
    ----------
    part : file of what has arrived; the upload goes on at its end.
    size, sha256, name : as announced.
    release : called when the upload is left, whole or not.
    """

    def __init__(self, part: Path, size: int, sha256: str, name: str, release: Callable[[], None]):
        self.part, self.size, self.sha256, self.name, self._release = part, size, sha256, name, release
        self._hash = hashlib.sha256()
        with part.open("ab+") as file:
            file.seek(0)
            while block := file.read(MAX_CHUNK):
                self._hash.update(block)
        self.offset = part.stat().st_size
        self._file = part.open("ab")
        # A call that is cancelled leaves while its last chunk is still being written.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._close()
        finally:
            self._release()

    def write(self, chunk: bytes) -> None:
        """Add a chunk of at most 1 MiB.

        Raises
        ------
        InputError : a larger chunk, or more bytes than were announced. DiskFullError : what had arrived is gone.
        """
        if len(chunk) > MAX_CHUNK:
            raise InputError(f"a chunk of {len(chunk):,} bytes", where=self.name, remedy="Send at most 1 MiB at once")
        if self.offset + len(chunk) > self.size:
            raise InputError(f"more than the announced {self.size:,} bytes", where=self.name)
        try:
            with self._lock, disk_full_as_error(self.name):
                self._file.write(chunk)
        except DiskFullError:
            # The next in need of room should find it.
            self.discard()
            raise
        self._hash.update(chunk)
        self.offset += len(chunk)

    def check(self) -> None:
        """`InputError` while bytes are missing; `ChecksumError` if they are others, which are thrown away."""
        self._close()
        if self.offset < self.size:
            raise InputError(
                f"{self.offset:,} of {self.size:,} bytes have arrived", where=self.name, remedy="Send the others"
            )
        if self._hash.hexdigest() != self.sha256:
            self.discard()
            raise ChecksumError("another checksum than announced", where=self.name, remedy="Send it again")

    def keep(self, folder: Path, inside: str, name: str, card: str, max_bytes: int) -> None:
        """Turn the file into `folder`, with the content at ``inside/name`` and the card; whole or not at all."""
        part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with disk_full_as_error(self.name):
                (part / inside).mkdir(parents=True)
                target = part / inside / name
                if self.name.endswith(".tar"):
                    unpack(self.part, target, max_bytes=max_bytes)
                else:
                    self.part.rename(target)
                check_contents(target)
                (part / "data.json").write_text(card)
                flush_folder(part)
                part.rename(folder)
                flush(folder.parent)
        except BaseException:
            # Content that is refused would be refused again; there is no point in going on with it.
            self.discard()
            raise
        finally:
            remove(part)

    def discard(self) -> None:
        """Throw away what has arrived."""
        self._close()
        self.part.unlink(missing_ok=True)

    def _close(self) -> None:
        with self._lock, disk_full_as_error(self.name):
            if self._file.closed:
                return
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()


def flush_folder(folder: Path) -> None:
    """Write a folder's files to the disk itself, so that a power cut after the acknowledgement loses none."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            flush(path)


def flush(path: Path) -> None:
    """Write a file or a folder's names to the disk itself."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
