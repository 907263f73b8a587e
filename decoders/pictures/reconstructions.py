"""`Reconstructions`: the pictures, which brain each is of, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from recordings.errors import FormatError, ShapeError, TruncatedFileError, UnknownNameError
from recordings.storage import atomic_path

from .pixels import check_images

FORMAT_VERSION = 1
_TABLE = "reconstructions.json"
_ENTRIES = {"shape": list, "stimulus_ids": list, "failed": dict, "settings": dict}


@dataclass(frozen=True)
class Reconstructions:
    """Pictures of n brains.

    Attributes
    ----------
    stimulus_ids : (n,) names of those that were reconstructed.
    images : uint8 (n, sample, H, W, 3).
    failed : stimulus id to the reason why there is no picture of it.
    settings : preset, generator, its fingerprint, seed; JSON values. The seed, and strength and guidance of the
        preset, are one number, or one a row of `stimulus_ids`.
    """

    stimulus_ids: list[str]
    images: np.ndarray
    failed: dict[str, str]
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.images.ndim != 5 or len(self.images) != len(self.stimulus_ids):
            raise ShapeError(f"pictures of shape {self.images.shape} for {len(self.stimulus_ids)} stimuli")
        check_images(self.images.reshape(-1, *self.images.shape[2:]))

    def __len__(self) -> int:
        return len(self.stimulus_ids)

    def of(self, stimulus_id: str) -> np.ndarray:
        """Pictures of one brain, uint8 (sample, H, W, 3). `UnknownNameError` if there are none."""
        if stimulus_id not in self.stimulus_ids:
            why = self.failed.get(stimulus_id)
            raise UnknownNameError(f"no picture of stimulus {stimulus_id!r}" + (f": {why}" if why else ""))
        return self.images[self.stimulus_ids.index(stimulus_id)]

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write a PNG a picture, named by row and sample, and a JSON file with all the rest; whole or not at all."""
        table = {
            "format_version": FORMAT_VERSION,
            "kind": "Reconstructions",
            "shape": list(self.images.shape),
            "stimulus_ids": self.stimulus_ids,
            "failed": self.failed,
            "settings": self.settings,
        }
        with atomic_path(folder, overwrite=overwrite) as part:
            part.mkdir()
            for row, samples in enumerate(self.images):
                for sample, image in enumerate(samples):
                    Image.fromarray(image).save(part / _file(row, sample))
            (part / _TABLE).write_text(json.dumps(table, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Reconstructions:
        """What `save` wrote.

        Raises
        ------
        FormatError : not such a folder, or a table that lacks an entry or does not fit the pictures.
        TruncatedFileError : a picture is missing or cut short.
        """
        folder = Path(folder)
        table = _read_table(folder / _TABLE)
        images = np.empty(table["shape"], np.uint8)
        for row, sample in np.ndindex(*images.shape[:2]):
            file = folder / _file(row, sample)
            try:
                with Image.open(file) as image:
                    images[row, sample] = np.asarray(image)
            except (OSError, UnidentifiedImageError, ValueError) as error:
                raise TruncatedFileError(f"cannot be read ({error})", where=file) from error
        return cls(table["stimulus_ids"], images, table["failed"], table["settings"])


def _read_table(file: Path) -> dict[str, Any]:
    remedy = "Give a folder that Reconstructions.save or `penfield decode image` wrote, or draw the pictures again"
    try:
        table = json.loads(file.read_text())
        version, kind = table["format_version"], table["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"no readable table of pictures ({error})", where=file, remedy=remedy) from error
    if version != FORMAT_VERSION or kind != "Reconstructions":
        raise FormatError(f"format {version} of {kind}", where=file, remedy=remedy)
    for name, expected in _ENTRIES.items():
        if not isinstance(table.get(name), expected):
            raise FormatError(f"no {name}, or of another kind", where=file, remedy=remedy)
    shape, ids = table["shape"], table["stimulus_ids"]
    if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) != 5 or shape[0] != len(ids):
        raise FormatError(f"pictures of shape {shape} for {len(ids)} stimulus_ids", where=file, remedy=remedy)
    return table


def _file(row: int, sample: int) -> str:
    return f"{row:06d}-{sample:02d}.png"
