"""`DataStore`: what callers have uploaded, each with its terms, until it is deleted or its time is over."""

from __future__ import annotations

import enum
import json
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from recordings.errors import DiskFullError, InputError
from recordings.storage import remove
from service.errors import BudgetError, BusyError, ModelNotFoundError

from .terms import Terms
from .upload import Upload, part_name

CARD, CONTENT = "data.json", "content"
PREFIX = "data:"
DAY = 86400.0
ABANDONED = DAY
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,199}")


class Kind(enum.StrEnum):
    """What uploaded data are."""

    recording = "recording"
    stimuli = "stimuli"
    features = "features"
    rdms = "rdms"
    file = "file"


@dataclass(frozen=True)
class Header:
    """What an upload is said to be.

    Attributes
    ----------
    name : file name, or folder name with ".tar". size : bytes. sha256 : of all bytes, 64 hexadecimal digits.
    """

    name: str
    kind: Kind
    size: int
    sha256: str
    terms: Terms = field(default_factory=Terms)


@dataclass(frozen=True)
class Stored:
    """Data on the server: `id` is "data:" and 16 digits, `created` and `expires` are seconds since 1970."""

    id: str
    owner: str
    header: Header
    created: float
    expires: float

    @property
    def name(self) -> str:
        """File or folder name, without ".tar"."""
        return self.header.name.removesuffix(".tar")


class DataStore:
    """Uploaded data in a folder of the server: one folder an upload, which appears when it is whole.

    All methods may be called from any thread. What belongs to another caller is not there.

    Parameters
    ----------
    folder : of the server's data; uploads and data get folders in it.
    retention : seconds that data stay at most.
    max_bytes : of one upload, unpacked or not.
    quota : bytes of all uploads of a caller.
    reserve : bytes of the disk that uploads leave free.
    clock : seconds since 1970.

    Attributes
    ----------
    derived : called with the id of data that were deleted; deletes what was made from them and says which jobs' it was.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        retention: float = 30 * DAY,
        max_bytes: int = 2 << 30,
        quota: int = 20 << 30,
        reserve: int = 256 << 20,
        clock: Callable[[], float] = time.time,
    ):
        self.folder = Path(folder).resolve()
        self.retention, self.clock = retention, clock
        self.max_bytes, self.quota, self.reserve = max_bytes, quota, reserve
        self.derived: Callable[[str], list[str]] = lambda _: []
        self._data, self._uploads = self.folder / "data", self.folder / "uploads"
        self._lock, self._open = threading.Lock(), set[str]()
        for place in (self._data, self._uploads):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half in self._data.glob(".*"):
            remove(half)

    # Uploading ---------------------------------------------------------------------------------------------------

    def arrived(self, owner: str, sha256: str) -> tuple[int, Stored | None]:
        """Bytes of an upload that have arrived and are safe, and the data where they are complete."""
        _check_hash(sha256)
        for stored in self.held_by(owner):
            if stored.header.sha256 == sha256:
                return stored.header.size, stored
        part = self._uploads / part_name(owner, sha256)
        return (part.stat().st_size if part.exists() else 0), None

    def open(self, owner: str, header: Header, offset: int = 0) -> Upload:
        """Begin an upload or go on with one; use as a context manager, call `write` for each chunk, then `finish`.

        Raises
        ------
        InputError : a bad name, size or hash; a recording without consent or licence; an offset that is not `arrived`.
        BudgetError : larger than `max_bytes`, or than what is left of the caller's quota. DiskFullError : no room for
        it. BusyError : the same is being uploaded already.
        """
        self._check(owner, header)
        part = self._uploads / part_name(owner, header.sha256)
        with self._lock:
            if part.name in self._open:
                raise BusyError("the same content is being uploaded already", retry_seconds=1, where=header.name)
            self._open.add(part.name)
        try:
            have, _ = self.arrived(owner, header.sha256)
            if offset != have:
                raise InputError(
                    f"starts at byte {offset:,}, but {have:,} have arrived",
                    where=header.name,
                    remedy="Ask GetUpload for the offset to go on from",
                )
            return Upload(part, header.size, header.sha256, header.name, lambda: self._release(part.name))
        except BaseException:
            self._release(part.name)
            raise

    def finish(self, owner: str, header: Header, upload: Upload) -> Stored:
        """Check what has arrived and store it; the same content of the same caller is stored once.

        Raises
        ------
        ChecksumError : it is not what was announced, and is thrown away. FormatError, TruncatedFileError : a folder
        that cannot be unpacked, or names files outside itself. BudgetError : it grows too large when it is unpacked.
        """
        _, stored = self.arrived(owner, header.sha256)
        if stored is None:
            upload.check()
            created = self.clock()
            stays = min(self.retention, header.terms.retention or self.retention)
            stored = Stored(f"{PREFIX}{uuid.uuid4().hex[:16]}", owner, header, created, created + stays)
            upload.keep(self._folder(stored.id), CONTENT, stored.name, _card(stored), self.max_bytes)
        upload.discard()
        return stored

    def _release(self, name: str) -> None:
        with self._lock:
            self._open.discard(name)

    def _check(self, owner: str, header: Header) -> None:
        _check_hash(header.sha256)
        if not _NAME.fullmatch(header.name) or header.name == ".tar":
            raise InputError(
                f"{header.name[:50]!r} is no file name",
                where="name",
                remedy="Use letters, digits, spaces and ._-, at most 200, beginning with a letter or digit",
            )
        if header.size <= 0:
            raise InputError(f"{header.size} bytes", where=header.name, remedy="Say how large it is")
        if header.kind is Kind.recording and not (header.terms.consent.strip() and header.terms.license.strip()):
            raise InputError(
                "a recording without consent or licence", where=header.name, remedy="Say both in the terms"
            )
        if header.size > self.max_bytes:
            raise BudgetError(f"more than {self.max_bytes:,} bytes", where=header.name, remedy="Send it in parts")
        used = sum(s.header.size for s in self.held_by(owner) if s.header.sha256 != header.sha256)
        own = part_name(owner, header.sha256)
        others = self._uploads.glob(part_name(owner, "*"))
        used += sum(part.stat().st_size for part in others if part.name != own)
        if used + header.size > self.quota:
            raise BudgetError(
                f"{used:,} of {self.quota:,} bytes are taken", where=header.name, remedy="Delete data first"
            )
        # An archive stands beside what is unpacked from it for a while.
        needed = header.size * (2 if header.name.endswith(".tar") else 1)
        if shutil.disk_usage(self.folder).free < needed + self.reserve:
            raise DiskFullError("no room on the server's disk", where=header.name, remedy="Try again later")

    # Using -------------------------------------------------------------------------------------------------------

    def held_by(self, owner: str) -> list[Stored]:
        """What a caller has stored, in the order of arrival."""
        found = [s for s in self._all() if s.owner == owner]
        return sorted(found, key=lambda s: (s.created, s.id))

    def find(self, id: str, owner: str) -> Stored:
        """The caller's data of an id, with or without "data:"; `ModelNotFoundError` if there is none."""
        if re.fullmatch(r"(data:)?[0-9a-f]{16}", id):
            stored = _read(self._folder(id))
            if stored is not None and stored.owner == owner and stored.expires > self.clock():
                return stored
        raise ModelNotFoundError(f"no data {id[:50]!r}", remedy="ListData tells what there is")

    def path(self, id: str, owner: str) -> Path:
        """File or folder of the caller's data; `ModelNotFoundError` if there is none."""
        stored = self.find(id, owner)
        return self._folder(stored.id) / CONTENT / stored.name

    # Deleting ----------------------------------------------------------------------------------------------------

    def delete(self, id: str, owner: str) -> list[str]:
        """Delete data at once, with what was derived from them; ids of the jobs whose results went."""
        return self._delete(self.find(id, owner))

    def sweep(self) -> dict[str, list[str]]:
        """Delete what has expired, and uploads that were left for a day; the ids of data with those of jobs."""
        gone = {s.id: self._delete(s) for s in self._all() if s.expires <= self.clock()}
        for part in self._uploads.iterdir():
            with self._lock:
                idle = part.name not in self._open
            if idle and self.clock() - part.stat().st_mtime > ABANDONED:
                remove(part)
        return gone

    def _delete(self, stored: Stored) -> list[str]:
        folder = self._folder(stored.id)
        # A name that is no data's makes it vanish at once, however long its files take.
        doomed = folder.with_name(f".{folder.name}.doomed")
        if folder.exists():
            folder.rename(doomed)
        derived = self.derived(stored.id)
        remove(doomed)
        return derived

    def _folder(self, id: str) -> Path:
        return self._data / id.removeprefix(PREFIX)

    def _all(self) -> Iterator[Stored]:
        for folder in self._data.iterdir():
            if not folder.name.startswith(".") and (stored := _read(folder)) is not None:
                yield stored


def _check_hash(sha256: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise InputError("not 64 hexadecimal digits", where="sha256", remedy="Give the SHA-256 of all bytes")


def _card(stored: Stored) -> str:
    header = {**vars(stored.header), "terms": stored.header.terms.to_dict()}
    return json.dumps({**vars(stored), "header": header}, indent=2) + "\n"


def _read(folder: Path) -> Stored | None:
    try:
        values: dict[str, Any] = json.loads((folder / CARD).read_text())
    except FileNotFoundError:
        return None
    header = values.pop("header")
    terms = Terms.from_dict(header.pop("terms"))
    return Stored(**values, header=replace(Header(**header, terms=terms), kind=Kind(header["kind"])))
