"""`Stimuli`: what was shown, an ordered table of images, clips or captions that are decoded only when asked for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import media
from .errors import DuplicateIdError, FormatError, InputError, ShapeError, UnknownNameError
from .storage import atomic_path

TABLE = "stimuli.csv"
ARRAYS = "stimuli.h5"


class Stimuli:
    """An ordered, addressable set of images, clips or captions.

    It holds references, not pixels. Columns of `table`: ``stimulus_id`` (unique, string), ``path`` (a file) or
    ``index`` (a row of an array or HDF5 dataset), and, where known, ``caption``, ``category`` and any other.

    Build one with `from_folder`, `from_csv`, `from_hdf5`, `from_arrays` or `from_captions`.

    Parameters
    ----------
    table : one row a stimulus.
    source : where rows find their content: a folder for ``path``, an array-like for ``index``, None for captions.

    Raises
    ------
    DuplicateIdError : a stimulus id occurs twice.
    """

    def __init__(self, table: pd.DataFrame, source: Any = None):
        table = table.reset_index(drop=True)
        if "stimulus_id" not in table:
            raise InputError("stimuli lack the column 'stimulus_id'", remedy=f"There are: {', '.join(table)}")
        table["stimulus_id"] = table["stimulus_id"].astype(str)
        twice = table["stimulus_id"].duplicated()
        if twice.any():
            raise DuplicateIdError(
                f"stimulus id {table.loc[twice, 'stimulus_id'].iloc[0]!r} occurs twice",
                where=source if isinstance(source, Path) else None,
                remedy="Every stimulus needs an id of its own",
            )
        self.table = table
        self.source = source
        self._hashes: dict[str, str] = {}

    # Constructors ------------------------------------------------------------------------------------------------

    @classmethod
    def from_folder(cls, folder: str | PathLike[str]) -> Stimuli:
        """All images and clips below a folder, sorted by path; the id is the path without its ending.

        If the folder holds ``stimuli.csv`` (columns stimulus_id, path or index, anything else), that table is taken.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FormatError("not a folder", where=folder, remedy="Give a folder of images or clips")
        if (folder / TABLE).exists():
            return cls.from_csv(folder / TABLE)
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in media.SUFFIXES)
        if not files:
            raise FormatError("no image or clip in it", where=folder, remedy=f"Known: {' '.join(media.SUFFIXES)}")
        paths = [f.relative_to(folder).as_posix() for f in files]
        ids = [str(Path(p).with_suffix("")) for p in paths]
        return cls(pd.DataFrame({"stimulus_id": ids, "path": paths}), folder)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Stimuli:
        """A table with the columns stimulus_id and path (relative to the table), index or caption."""
        path = Path(path)
        try:
            table = pd.read_csv(path, dtype={"stimulus_id": str, "path": str, "caption": str})
        except (OSError, ValueError) as error:
            raise FormatError(f"not a readable table ({error})", where=path) from error
        if "path" in table:
            missing = [p for p in table["path"] if not (path.parent / p).exists()]
            if missing:
                raise FormatError(f"{len(missing)} files of the table are missing, first {missing[0]!r}", where=path)
            return cls(table, path.parent)
        if "index" in table and (path.parent / ARRAYS).exists():
            return cls(table, media.Hdf5Rows(path.parent / ARRAYS, "images"))
        return cls(table)

    @classmethod
    def from_hdf5(
        cls, path: str | PathLike[str], dataset: str = "imgBrick", stimulus_id: Sequence[str] | None = None
    ) -> Stimuli:
        """Rows of an HDF5 dataset (n, H, W, 3) uint8, such as ``nsd_stimuli.hdf5``; ids default to the row number."""
        rows = media.Hdf5Rows(Path(path), dataset)
        ids = [str(i) for i in range(len(rows))] if stimulus_id is None else [str(i) for i in stimulus_id]
        if len(ids) != len(rows):
            raise ShapeError(f"{len(ids)} stimulus ids for {len(rows)} rows", where=path)
        return cls(pd.DataFrame({"stimulus_id": ids, "index": range(len(rows))}), rows)

    @classmethod
    def from_arrays(cls, images: Any, stimulus_id: Sequence[str] | None = None, **columns: Any) -> Stimuli:
        """Images (n, H, W, 3) or clips (n, T, H, W, 3), uint8; extra columns are kept in the table.

        Raises
        ------
        ShapeError : another shape or dtype than these.
        """
        if images.ndim not in (4, 5) or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ShapeError(
                f"images of shape {images.shape} and dtype {images.dtype}",
                remedy="Give uint8 arrays (n, height, width, 3), or (n, time, height, width, 3) for clips",
            )
        ids = [f"stim{i:05d}" for i in range(len(images))] if stimulus_id is None else list(stimulus_id)
        if len(ids) != len(images):
            raise ShapeError(f"{len(ids)} stimulus ids for {len(images)} images")
        return cls(pd.DataFrame({"stimulus_id": ids, "index": range(len(images)), **columns}), images)

    @classmethod
    def from_captions(cls, captions: Mapping[str, str]) -> Stimuli:
        """Texts by stimulus id."""
        return cls(pd.DataFrame({"stimulus_id": list(captions), "caption": list(captions.values())}))

    # Content -----------------------------------------------------------------------------------------------------

    @property
    def ids(self) -> list[str]:
        """The stimulus ids, in order."""
        return list(self.table["stimulus_id"])

    @property
    def captions(self) -> list[str]:
        """The captions, in order; `UnknownNameError` if there are none."""
        if "caption" not in self.table:
            raise UnknownNameError("these stimuli have no captions", remedy="Add a column 'caption' to the table")
        return list(self.table["caption"])

    @property
    def has_pixels(self) -> bool:
        """Whether there are images or clips, and not captions alone."""
        return self.source is not None

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Stimuli({len(self)}; columns: {', '.join(self.table)})"

    def load(self, position: int) -> np.ndarray:
        """Pixels of one stimulus: an image (H, W, 3) or a clip (T, H, W, 3), uint8 RGB.

        Raises
        ------
        CorruptImageError, ImageTooLargeError : the file cannot or must not be decoded.
        """
        row = self.table.iloc[position]
        if self.source is None:
            raise InputError(f"stimulus {row['stimulus_id']!r} is a caption and has no pixels")
        if "path" in self.table:
            return media.read(self.source / row["path"])
        return np.asarray(self.source[int(row["index"])])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.load(i) for i in range(len(self)))

    def take(self, positions: Any) -> Stimuli:
        """The stimuli at the given positions (slice, index or boolean array)."""
        return Stimuli(self.table.iloc[positions], self.source)

    def select(self, stimulus_ids: Sequence[str]) -> Stimuli:
        """The stimuli of the given ids, in that order; `UnknownNameError` names the first that is missing."""
        positions = pd.Index(self.table["stimulus_id"]).get_indexer(pd.Index([str(i) for i in stimulus_ids]))
        if (positions < 0).any():
            missing = stimulus_ids[int(np.flatnonzero(positions < 0)[0])]
            raise UnknownNameError(f"no stimulus {missing!r} among {len(self)}")
        return self.take(positions)

    def where(self, **columns: Any) -> Stimuli:
        """The stimuli whose columns equal the given values (or are among a list of them)."""
        keep = np.ones(len(self), bool)
        for name, wanted in columns.items():
            if name not in self.table:
                raise UnknownNameError(f"no column {name!r}", remedy=f"There are: {', '.join(self.table)}")
            wanted = wanted if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted]
            keep &= self.table[name].isin(list(wanted)).to_numpy()
        return self.take(keep)

    def content_hash(self, position: int) -> str:
        """SHA-256 of a stimulus: of its file, its pixels with their shape, or its caption."""
        row = self.table.iloc[position]
        key = row["stimulus_id"]
        if key not in self._hashes:
            if self.source is None:
                content = str(row["caption"]).encode()
            elif "path" in self.table:
                content = (self.source / row["path"]).read_bytes()
            else:
                pixels = np.ascontiguousarray(self.load(position))
                content = str(pixels.shape).encode() + pixels.tobytes()
            self._hashes[key] = hashlib.sha256(content).hexdigest()
        return self._hashes[key]

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> Stimuli:
        """Write images as PNG, clips as TIFF (a page a frame), and ``stimuli.csv``; return what reads from there.

        PNG files are copied as they are, once they have been read.
        """
        folder = Path(folder)
        table = self.table.drop(columns=["path", "index"], errors="ignore")
        with atomic_path(folder, overwrite=overwrite) as part:
            part.mkdir()
            if self.has_pixels:
                table.insert(1, "path", [self._write(part, i) for i in range(len(self))])
            table.to_csv(part / TABLE, index=False)
        return Stimuli.from_csv(folder / TABLE)

    def _write(self, folder: Path, position: int) -> str:
        pixels = self.load(position)
        stem = hashlib.sha256(self.ids[position].encode()).hexdigest()[:8]
        name = f"{position:06d}-{stem}{'.png' if pixels.ndim == 3 else '.tiff'}"
        original = self.source / self.table.iloc[position]["path"] if "path" in self.table else None
        if original is not None and original.suffix.lower() == ".png" and pixels.ndim == 3:
            # Encoding again takes many times as long as reading, and would give the file another content hash.
            shutil.copyfile(original, folder / name)
        else:
            media.write(folder / name, pixels)
        return name
