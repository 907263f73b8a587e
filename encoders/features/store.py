"""The layout of a feature store on disk: a Zarr group with one array a layer, each beside a journal of its chunks.

``STORE/layers/NAME`` is an array (stimulus, ...); one chunk holds the rows of one batch. ``commits.jsonl`` in the same
folder gets a line when a chunk is whole, with the content hash of each of its stimuli. A chunk without such a line is
computed again. The stimulus ids in the array's attributes are set last, so that a reader never sees an unfinished row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike
from zarr.codecs import Crc32cCodec

from recordings.errors import ArtifactError, FormatError, TruncatedFileError, UnknownNameError

FORMAT_VERSION = 1
JOURNAL = "commits.jsonl"
# Within a batch, tokens are stored in blocks of at most this size, so that single stimuli can be read.
_BLOCK_BYTES = 4_000_000


def open_store(path: Path, attrs: Mapping[str, Any]) -> None:
    """Make a store with these attributes at `path`, or check that the one there has the same.

    Raises
    ------
    FormatError : not a feature store. ArtifactError : a store of another model, other weights or other preprocessing.
    """
    if path.exists() and any(path.iterdir()):
        stored = read_attrs(path)
        for name, value in attrs.items():
            if stored.get(name) != value:
                raise ArtifactError(
                    f"the store's {name} is {stored.get(name)!r}, now it is {value!r}",
                    where=path,
                    remedy="Write to another path, or pass overwrite to replace the store",
                )
        return
    root = zarr.open_group(path, mode="a", zarr_format=3)
    root.require_group("layers")
    root.attrs["penfield"] = {"format_version": FORMAT_VERSION, "kind": "Features", **attrs}


def read_attrs(path: Path) -> dict[str, Any]:
    """The attributes that all layers of a store share.

    Raises
    ------
    FormatError : no feature store there, or one of another format version.
    """
    if not path.exists():
        part = part_of(path)
        remedy = "Run the same extraction again to resume it" if part.exists() else "Give a store that `extract` wrote"
        raise FormatError("does not exist" + (", only unfinished" if part.exists() else ""), where=path, remedy=remedy)
    try:
        attrs: Any = zarr.open_group(path, mode="r").attrs.asdict().get("penfield", {})
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise FormatError(f"not a feature store ({error})", where=path, remedy="Extract the features again") from error
    if attrs.get("kind") != "Features" or attrs.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"not a feature store of format {FORMAT_VERSION}", where=path, remedy="Extract the features again"
        )
    return attrs


def part_of(path: Path) -> Path:
    """Where a new store grows until it is whole."""
    return path.with_name(f".{path.name}.part")


class LayerStore:
    """One layer of a store: its array, its journal, and the ids of the stimuli that are whole."""

    def __init__(self, store: Path, layer: str):
        self.layer = layer
        self.folder = store / "layers" / layer
        self._array: zarr.Array | None = None

    @property
    def exists(self) -> bool:
        return (self.folder / "zarr.json").exists()

    @property
    def array(self) -> zarr.Array:
        """The values (stimulus, ...)."""
        if self._array is None:
            if not self.exists:
                raise UnknownNameError(f"no layer {self.layer!r}", where=self.folder.parent.parent)
            try:
                self._array = zarr.open_array(self.folder, mode="r+")
            except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
                raise TruncatedFileError(
                    f"the layer's metadata are damaged ({error})",
                    where=self.folder,
                    remedy="Delete the layer's folder and run the same extraction again",
                ) from error
        return self._array

    @property
    def attrs(self) -> dict[str, Any]:
        """What the layer was made with: readout, reduction, grid."""
        attrs: Any = self.array.attrs["penfield"]
        return dict(attrs)

    @property
    def stimulus_ids(self) -> list[str]:
        """Ids of the rows that are whole, in order; empty while the layer is being made."""
        ids: Any = self.array.attrs["stimulus_id"] if self.exists else []
        return list(ids)

    @property
    def holes(self) -> list[int]:
        """Rows of stimuli that could not be read."""
        holes: Any = self.array.attrs["holes"]
        return list(holes)

    @property
    def batch_size(self) -> int:
        """Rows a chunk."""
        return int((self.array.shards or self.array.chunks)[0])

    def create(self, example: np.ndarray, n: int, batch_size: int, dtype: str, attrs: Mapping[str, Any]) -> None:
        """Make the array for `n` rows like those of `example` (rows, ...)."""
        row = example.shape[1:]
        block = min(batch_size, max(1, _BLOCK_BYTES // (max(int(np.prod(row)), 1) * np.dtype(dtype).itemsize)))
        # A shard is one file and must hold whole blocks.
        block = max(b for b in range(1, block + 1) if batch_size % b == 0)
        self._array = zarr.create_array(
            self.folder,
            shape=(n, *row),
            chunks=(block, *row),
            shards=None if block == batch_size else (batch_size, *row),
            dtype=dtype,
            # Features hardly compress; a checksum tells a damaged chunk.
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
            attributes={"penfield": dict(attrs), "stimulus_id": [], "holes": []},
            overwrite=True,
        )

    def grow(self, n: int) -> None:
        """Make room for `n` rows."""
        if self.array.shape[0] != n:
            self.array.resize((n, *self.array.shape[1:]))

    def journal(self) -> dict[int, list[str]]:
        """Content hashes of the stimuli of each whole chunk."""
        chunks = {}
        for line in self._whole_lines():
            entry = json.loads(line)
            chunks[entry["chunk"]] = entry["hashes"]
        return chunks

    def _whole_lines(self) -> list[bytes]:
        path = self.folder / JOURNAL
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.endswith(b"\n")]

    def write(self, chunk: int, values: np.ndarray, hashes: Sequence[str]) -> None:
        """Write the rows of a chunk and then its line in the journal."""
        start = chunk * self.batch_size
        self.array[start : start + len(values)] = values.astype(self.array.dtype, copy=False)
        line = json.dumps({"chunk": chunk, "hashes": list(hashes)}) + "\n"
        with (self.folder / JOURNAL).open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def clean(self) -> None:
        """Drop what a killed write left behind: temporary files, and a line cut short."""
        for leftover in self.folder.rglob("*.partial"):
            leftover.unlink(missing_ok=True)
        path = self.folder / JOURNAL
        if path.exists():
            whole = sum(map(len, self._whole_lines()))
            if whole != path.stat().st_size:
                os.truncate(path, whole)

    def finish(self, stimulus_ids: Sequence[str], holes: Sequence[int] = ()) -> None:
        """Say whose rows are whole; `holes` are rows whose stimulus could not be read."""
        done: dict[str, Any] = {"stimulus_id": list(stimulus_ids), "holes": list(holes)}
        if any(self.array.attrs.get(name) != value for name, value in done.items()):
            self.array.attrs.update(done)

    def read(self, rows: np.ndarray, dtype: DTypeLike | None = np.float32) -> np.ndarray:
        """Rows by position; `dtype` None leaves them as stored.

        Raises
        ------
        TruncatedFileError : a chunk is damaged or gone.
        """
        try:
            self._check_present(rows)
            if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
                values: Any = self.array[int(rows[0]) : int(rows[0]) + len(rows)]
            else:
                unique, inverse = np.unique(rows, return_inverse=True)
                values = self._read_sorted(unique)
                if not np.array_equal(unique, rows):
                    values = values[inverse]
        except (OSError, ValueError, zarr.errors.BaseZarrError) as error:
            if isinstance(error, TruncatedFileError):
                raise
            raise TruncatedFileError(
                f"a chunk is damaged ({error})",
                where=self.folder,
                remedy="Delete the layer's folder and run the same extraction again",
            ) from error
        return np.asarray(values, dtype)

    def _read_sorted(self, rows: np.ndarray) -> np.ndarray:
        # Zarr reads a slice ten times faster than a list of rows, rows that nobody wants included.
        far = np.diff(rows) > self.array.chunks[0]
        cuts = np.flatnonzero(far | (np.diff(rows // self.batch_size) > 0)) + 1
        values = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        for run in np.split(np.arange(len(rows)), cuts) if len(rows) else []:
            first, last = int(rows[run[0]]), int(rows[run[-1]])
            block: Any = self.array[first : last + 1]
            values[run] = block[rows[run] - first]
        return values

    def has_chunk(self, chunk: int) -> bool:
        """Whether the file of a chunk is there."""
        return self._chunk_file(chunk).exists()

    def _chunk_file(self, chunk: int) -> Path:
        return self.folder / "c" / "/".join([str(chunk), *["0"] * (self.array.ndim - 1)])

    def _check_present(self, rows: np.ndarray) -> None:
        # A chunk that is gone would read as zeros.
        for chunk in np.unique(rows // self.batch_size):
            if not self.has_chunk(int(chunk)):
                raise TruncatedFileError(
                    "is missing", where=self._chunk_file(int(chunk)), remedy="Run the same extraction again"
                )
