from __future__ import annotations

import csv
import errno
import hashlib
import io
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from recordings.errors import DiskFullError, FormatError, InputError, TruncatedFileError
from service.data import DataStore, Header, Kind, Terms, strictest
from service.data.archive import pack, unpack
from service.data.contents import check_contents
from service.errors import BudgetError, BusyError, ChecksumError, ModelNotFoundError

CONSENTED = Terms("research", "CC-BY-4.0")


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    return DataStore(tmp_path / "server", retention=100.0, max_bytes=10_000_000, quota=20_000_000, clock=clock)


def header(content, name="file.bin", kind=Kind.file, terms=CONSENTED):
    return Header(name, kind, len(content), hashlib.sha256(content).hexdigest(), terms)


def upload(store, content, owner="ann", **about):
    said = header(content, **about)
    with store.open(owner, said) as sent:
        sent.write(content)
        return store.finish(owner, said, sent)


def archive(**files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def left_in(store):
    return [p for p in store.folder.rglob("*") if p.is_file()]


def test_upload_is_stored_whole_and_is_its_owners(store):
    stored = upload(store, b"some bytes")
    assert store.path(stored.id, "ann").read_bytes() == b"some bytes"
    assert stored.id.startswith("data:") and store.held_by("ann") == [stored] and store.held_by("bob") == []
    with pytest.raises(ModelNotFoundError):
        store.path(stored.id, "bob")
    with pytest.raises(ModelNotFoundError):
        store.delete(stored.id, "bob")
    assert DataStore(store.folder, clock=store.clock).held_by("ann") == [stored]


def test_broken_upload_goes_on_from_what_has_arrived(store):
    content = bytes(range(256)) * 40
    said = header(content)
    with store.open("ann", said) as sent:
        sent.write(content[:1000])
        with pytest.raises(BusyError):
            store.open("ann", said)
    assert store.arrived("ann", said.sha256) == (1000, None)
    assert store.arrived("bob", said.sha256) == (0, None)
    with pytest.raises(InputError, match="1,000 have arrived"):
        store.open("ann", said)
    with store.open("ann", said, 1000) as sent:
        sent.write(content[1000:])
        stored = store.finish("ann", said, sent)
    assert store.path(stored.id, "ann").read_bytes() == content
    assert store.arrived("ann", said.sha256) == (len(content), stored)


def test_same_content_is_stored_once_a_caller(store):
    first = upload(store, b"same")
    assert store.arrived("ann", first.header.sha256)[1] == first
    assert upload(store, b"same", owner="bob").id != first.id


def test_wrong_bytes_are_thrown_away(store):
    said = header(b"right")
    with store.open("ann", said) as sent, pytest.raises(ChecksumError):
        sent.write(b"wrong")
        store.finish("ann", said, sent)
    with store.open("ann", said) as sent:
        sent.write(b"rig")
        with pytest.raises(InputError, match="3 of 5 bytes"):
            store.finish("ann", said, sent)
    with store.open("ann", said, 3) as sent, pytest.raises(InputError, match="more than the announced"):
        sent.write(b"hter")
    assert store.held_by("ann") == []


@pytest.mark.parametrize(
    ("about", "error"),
    [
        ({"kind": Kind.recording, "terms": Terms()}, InputError),
        ({"kind": Kind.recording, "terms": Terms("research", " ")}, InputError),
        ({"name": "../x"}, InputError),
        ({"name": ".hidden"}, InputError),
        ({"name": "a/b"}, InputError),
        ({"name": ""}, InputError),
    ],
)
def test_bad_headers_are_refused(store, about, error):
    with pytest.raises(error):
        store.open("ann", header(b"x", **about))


def test_size_and_quota_are_limits(store):
    with pytest.raises(BudgetError):
        store.open("ann", Header("a", Kind.file, 10_000_001, "0" * 64))
    with pytest.raises(InputError):
        store.open("ann", Header("a", Kind.file, 5, "A" * 64))
    small = DataStore(store.folder / "other", quota=10)
    upload(small, b"12345678")
    with pytest.raises(BudgetError, match="8 of 10"):
        upload(small, b"abc")
    upload(small, b"abc", owner="bob")


def test_full_disk_leaves_nothing(store, monkeypatch):
    said = header(b"content")
    with store.open("ann", said) as sent:
        sent._file.close()
        sent._file = _Full()
        with pytest.raises(DiskFullError):
            sent.write(b"content")
    assert left_in(store) == []
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 1000})())
    with pytest.raises(DiskFullError, match="no room"):
        store.open("ann", said)


class _Full:
    closed = False

    def write(self, chunk):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        return

    def fileno(self):
        return 1

    def close(self):
        self.closed = True


def test_folders_arrive_as_archives(store):
    content = archive(**{"stimuli/a.txt": b"a", "stimuli/deep/b.txt": b"b"})
    stored = upload(store, content, name="stimuli.tar", kind=Kind.stimuli)
    folder = store.path(stored.id, "ann")
    assert folder.name == "stimuli" and (folder / "a.txt").read_bytes() == b"a"
    assert (folder / "deep" / "b.txt").read_bytes() == b"b"
    other = upload(store, archive(**{"a.txt": b"a", "b.txt": b"b"}), name="stimuli.tar", kind=Kind.stimuli)
    assert (store.path(other.id, "ann") / "a.txt").exists()


def _entry(name, type=tarfile.REGTYPE, link=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = type, link
        tar.addfile(entry)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        _entry("../outside"),
        _entry("/absolute"),
        _entry("a/../../b"),
        _entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        _entry("link", tarfile.LNKTYPE, "a"),
        _entry("pipe", tarfile.FIFOTYPE),
        _entry("device", tarfile.CHRTYPE),
        b"not an archive at all",
        _entry("/".join("d" * 40)),
    ],
)
def test_unsafe_archives_are_refused_and_leave_nothing(store, content):
    with pytest.raises(FormatError):
        upload(store, content, name="x.tar")
    assert left_in(store) == []
    assert not (store.folder.parent / "outside").exists()


def test_archives_are_bounded(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(archive(a=b"x" * 2000, b=b"y" * 2000))
    with pytest.raises(BudgetError):
        unpack(path, tmp_path / "one", max_bytes=3000)
    with pytest.raises(BudgetError):
        unpack(path, tmp_path / "two", max_bytes=10_000, max_files=1)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TruncatedFileError):
        unpack(path, tmp_path / "three", max_bytes=10_000)


def test_packing_is_repeatable_and_unpacks_to_the_same(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a").write_bytes(b"content")
    (tmp_path / "in" / "link").symlink_to("/etc/passwd")
    first, second = pack(tmp_path / "in", tmp_path / "1.tar"), pack(tmp_path / "in", tmp_path / "2.tar")
    assert first == second
    unpack(tmp_path / "1.tar", tmp_path / "out", max_bytes=1000)
    assert [p.relative_to(tmp_path / "out").as_posix() for p in sorted((tmp_path / "out").rglob("*"))] == [
        "deep",
        "deep/a",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\nstimulus_id,path\na,/etc/passwd\n",
        "stimulus_id,path,path\na,/etc/passwd,a.png\n",
        "stimulus_id,path\na,b,/etc/passwd\n",
        "stimulus_id,path,note\na,/etc/passwd," + "x" * 140_000 + "\n",
    ],
)
def test_tables_are_checked_as_they_will_be_read(tmp_path, text):
    (tmp_path / "stimuli.csv").write_text(text)
    with pytest.raises(FormatError, match="outside the upload"):
        check_contents(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "C:\\x.png", "a/../../b.png"])
def test_tables_may_not_name_files_elsewhere(tmp_path, path):
    table = tmp_path / "stimuli.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["stimulus_id", "path"], ["a", "a.png"], ["b", path]])
    with pytest.raises(FormatError, match="line 3"):
        check_contents(tmp_path)
    table.write_text("stimulus_id,path\na,deep/a.png\n")
    check_contents(tmp_path)


def test_hdf5_may_not_link_to_other_files(tmp_path):
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file["deep/images"] = np.zeros(3)
        file["soft"] = h5py.SoftLink("/deep/images")
    check_contents(tmp_path / "own.h5")
    with h5py.File(tmp_path / "linked.bin", "w") as file:
        file["deep/images"] = h5py.ExternalLink("own.h5", "/deep/images")
    with pytest.raises(FormatError, match="deep/images"):
        check_contents(tmp_path / "linked.bin")
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((3,), float)
        layout[:] = h5py.VirtualSource(str(tmp_path / "own.h5"), "deep/images", (3,))
        file.create_virtual_dataset("images", layout)
    with pytest.raises(FormatError, match="images"):
        check_contents(tmp_path / "virtual.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("images", (3,), "u1", external=[("/etc/hostname", 0, 3)])
    with pytest.raises(FormatError, match="images"):
        check_contents(tmp_path / "raw.h5")


def test_gifti_may_not_keep_data_elsewhere(tmp_path):
    path = tmp_path / "a.gii"
    array = '<GIFTI><DataArray Encoding="{}" ExternalFileName="{}"/></GIFTI>'
    path.write_text(array.format("ASCII", ""))
    check_contents(path)
    path.write_text(array.format("ExternalFileBinary", "/etc/passwd"))
    with pytest.raises(FormatError):
        check_contents(path)


def test_time_runs_out_and_takes_along_what_was_derived(store, clock):
    gone = []
    store.derived = lambda id: gone.append(id) or ["job"]
    short = upload(store, b"short", terms=Terms("c", "l", 10.0))
    long = upload(store, b"long", terms=Terms("c", "l", 1000.0))
    assert (short.expires, long.expires) == (clock.now + 10, clock.now + 100)
    clock.now += 11
    with pytest.raises(ModelNotFoundError):
        store.path(short.id, "ann")
    assert store.sweep() == {short.id: ["job"]} and gone == [short.id]
    assert store.held_by("ann") == [long]
    assert store.delete(long.id, "ann") == ["job"]
    assert left_in(store) == []


def test_abandoned_uploads_are_swept(store, clock):
    said = header(b"content")
    with store.open("ann", said) as sent:
        sent.write(b"con")
    clock.now = Path(sent.part).stat().st_mtime + 1000
    store.sweep()
    assert store.arrived("ann", said.sha256)[0] == 3
    clock.now += 86400
    store.sweep()
    assert store.arrived("ann", said.sha256)[0] == 0


def test_strictest_terms_hold_for_all():
    joined = strictest([Terms("a", "CC0-1.0", 5.0), Terms("b", "CC0-1.0", None), Terms("a", "CC-BY-4.0", 3.0)])
    assert joined == Terms("a; b", "CC0-1.0 AND CC-BY-4.0", 3.0)
    assert strictest([]) == Terms()
    with pytest.raises(InputError):
        Terms(retention=0.0)
