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


@dataclass(frozen=True)
class Reconstructions:
    """Pictures of n brains.

    Attributes
    ----------
    stimulus_ids : (n,) names of those that were reconstructed.
    images : uint8 (n, sample, H, W, 3).
    failed : stimulus id to the reason why there is no picture of it.
    settings : preset, generator, its fingerprint, seed; JSON values.
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
        FormatError : not such a folder. TruncatedFileError : a picture is missing or cut short.
        """
        folder = Path(folder)
        try:
            table = json.loads((folder / _TABLE).read_text())
            version, shape = table["format_version"], table["shape"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"no readable {_TABLE} ({error})", where=folder) from error
        if version != FORMAT_VERSION or table.get("kind") != "Reconstructions":
            raise FormatError(f"format {version} of {table.get('kind')}", where=folder)
        images = np.empty(shape, np.uint8)
        for row, sample in np.ndindex(*shape[:2]):
            file = folder / _file(row, sample)
            try:
                with Image.open(file) as image:
                    images[row, sample] = np.asarray(image)
            except (OSError, UnidentifiedImageError, ValueError) as error:
                raise TruncatedFileError(f"cannot be read ({error})", where=file) from error
        return cls(table["stimulus_ids"], images, table["failed"], table["settings"])


def _file(row: int, sample: int) -> str:
    return f"{row:06d}-{sample:02d}.png"
