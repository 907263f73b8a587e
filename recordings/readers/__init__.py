"""Readers of public formats: each turns a source into a `Recording` or a set of RDMs and, where it holds them, stimuli.

A format is a module with one public function ``read_<format>(source, options) -> Contents`` and a pydantic model of its
options. `READERS` lists them by name; `import_recording` streams one to disk. The docstring of each module describes
the layout it expects and says whether it was ever tried on real files.
"""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..coordinates import presentation_table
from ..errors import InputError, MismatchedIdsError, UnknownNameError, naming
from ..events import OnEvent, Stop, report
from ..rdms import RDMs
from ..recording import write_recording
from .algonauts2023 import ALGONAUTS2023
from .bdpy import BDPY
from .bids import BIDS
from .cifti import CIFTI
from .csv_table import CSV
from .gifti import GIFTI
from .nifti import NIFTI
from .npy import NPY
from .nsd import NSD
from .open_retina import OPEN_RETINA
from .rdm_sets import RDM_SETS
from .registry import Contents, Imported, Options, Reader
from .sensorium import SENSORIUM
from .things import THINGS

__all__ = ["READERS", "Contents", "Imported", "Options", "Reader", "import_recording", "reader", "reader_options"]

_FMRI = (NIFTI, BIDS, GIFTI, CIFTI, NSD, ALGONAUTS2023, THINGS, BDPY)
READERS: dict[str, Reader] = {r.name: r for r in (*_FMRI, RDM_SETS, SENSORIUM, OPEN_RETINA, NPY, CSV)}


def import_recording(
    format: str,
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Imported:
    """Read a public format and write it as a Zarr recording, or as an ``.npz`` of RDMs, block by block.

    Parameters
    ----------
    format : a key of `READERS`.
    source : file or folder in that format.
    out : where to write; it appears when it is whole.
    overwrite : replace what stands at `out`.
    options : fields of ``READERS[format].options``.

    Returns
    -------
    Imported : what was written, and the stimuli if the source holds them (save these with `Stimuli.save`).

    Raises
    ------
    UnknownNameError : no such format or option. FormatError, TruncatedFileError, ShapeError, NotFiniteError,
    DuplicateIdError, MismatchedIdsError : the source is not what its format promises; nothing is left at `out`.
    """
    chosen = reader(format)
    if Path(out).exists() and not overwrite:
        raise InputError("exists already", where=out, remedy="Choose another name or pass overwrite")
    settings = reader_options(chosen, options)
    with naming(source):
        contents = chosen.read(Path(source), settings)
        provenance = {"format": format, "source": str(source), "options": settings.model_dump(mode="json")}
        if isinstance(contents, RDMs):
            contents.attrs.update(provenance)
            return Imported(contents.save(out, overwrite=overwrite), None)
        _check_stimuli(contents, source)
        recording = write_recording(
            out,
            _watched(contents, on_event, stop),
            contents.presentations,
            contents.neuroids,
            space=contents.space,
            time=contents.time,
            rois=contents.rois,
            attrs={**provenance, **contents.attrs},
            overwrite=overwrite,
            allow_nan=contents.allow_nan,
        )
    return Imported(recording, contents.stimuli)


def reader(format: str) -> Reader:
    """The reader of a format; `UnknownNameError` lists what there is."""
    if format not in READERS:
        raise UnknownNameError(f"no format {format!r}", remedy=f"There are: {', '.join(READERS)}")
    return READERS[format]


def reader_options(chosen: Reader, options: dict[str, Any]) -> Options:
    """Options as the reader's model; `InputError` names the first that is unknown or wrong."""
    try:
        return chosen.options(**options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "options"
        if first["type"] == "extra_forbidden":
            known = ", ".join(chosen.options.model_fields) or "none"
            raise UnknownNameError(
                f"format {chosen.name!r} has no option {name!r}", remedy=f"There are: {known}"
            ) from error
        raise InputError(f"option {name!r} of format {chosen.name!r}: {first['msg']}") from error


def _watched(contents: Contents, on_event: OnEvent | None, stop: Stop | None) -> Iterator[np.ndarray]:
    done, total = 0, len(contents.presentations)
    report(on_event, stop, "import", done, total)
    for block in contents.blocks:
        yield block
        done += len(block)
        report(on_event, stop, "import", done, total)


def _check_stimuli(contents: Contents, source: str | PathLike[str]) -> None:
    if contents.stimuli is None:
        return
    shown = presentation_table(contents.presentations)["stimulus_id"]
    missing = shown[~shown.isin(contents.stimuli.ids)]
    if len(missing):
        raise MismatchedIdsError(
            f"stimulus {missing.iloc[0]!r} was shown but is not among the stimuli ({missing.nunique()} in all)",
            where=source,
            remedy="Check that responses and stimuli belong together",
        )
