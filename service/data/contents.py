"""What may not be inside an upload: names of files elsewhere, which a reader would follow to the server's own files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.parsers import expat

from recordings.errors import FormatError

HDF5 = (".h5", ".hdf5", ".hdf", ".mat")
TABLES, SEPARATORS = (".csv", ".tsv"), (",", "\t")
_MAGIC = b"\x89HDF\r\n\x1a\n"


def check_contents(place: Path) -> None:
    """Refuse tables of stimuli, HDF5 and GIFTI files that name files outside the upload.

    Parameters
    ----------
    place : a file, or a folder of which every file is looked at.

    Raises
    ------
    FormatError : a ``path`` in a table is absolute or goes up; an HDF5 or GIFTI file keeps its data in another file.
    """
    for path in [place] if place.is_file() else place.rglob("*"):
        if not path.is_file():
            continue
        ending = path.suffix.lower()
        if ending in TABLES:
            _check_table(path)
        elif ending == ".gii":
            _check_gifti(path)
        elif _is_hdf5(path):
            _check_hdf5(path)


def leaves_folder(path: str) -> bool:
    """Whether a relative path is not one, or goes up."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    return posix.is_absolute() or bool(windows.anchor) or ".." in posix.parts or ".." in windows.parts


def _check_table(path: Path) -> None:
    import pandas as pd

    # As the readers of stimuli and of events read it: what another parser sees in the same bytes is no matter.
    for separator in SEPARATORS:
        try:
            table = pd.read_csv(path, sep=separator, dtype=str)
        except (OSError, ValueError):
            continue
        for column in (name for name in table if str(name).startswith("path")):
            for number, value in enumerate(table[column].dropna(), 2):
                if leaves_folder(value):
                    raise FormatError(
                        f"line {number} names a file outside the upload",
                        where=path.name,
                        remedy="Write paths relative to the table",
                    )


def _is_hdf5(path: Path) -> bool:
    if path.suffix.lower() in HDF5:
        import h5py

        # MATLAB puts a block of its own in front.
        return bool(h5py.is_hdf5(path))
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _check_hdf5(path: Path) -> None:
    import h5py

    def foreign(name: str, link: object) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return name
        item = file.get(name, getlink=False) if isinstance(link, h5py.HardLink) else None
        if not isinstance(item, h5py.Dataset):
            return None
        virtual = item.is_virtual and any(source.file_name != "." for source in item.virtual_sources())
        return name if virtual or item.external else None

    try:
        with h5py.File(path, "r") as file:
            found = file.visititems_links(foreign)
    except (OSError, RuntimeError) as error:
        raise FormatError(f"cannot be read as HDF5 ({error})", where=path.name) from error
    if found is not None:
        raise FormatError(f"{found!r} links to another file", where=path.name, remedy="Write the data into one file")


def _check_gifti(path: Path) -> None:
    found = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal found
        found |= bool(attributes.get("ExternalFileName")) or attributes.get("Encoding") == "ExternalFileBinary"

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise FormatError(f"cannot be read as GIFTI ({error})", where=path.name) from error
    if found:
        raise FormatError("keeps its data in another file", where=path.name, remedy="Write the data into one file")
