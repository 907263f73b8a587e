"""What is in a recording, a subject, a set of RDMs or a folder of stimuli that this room wrote."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..rdms import RDMs
from ..recording import Recording
from ..stimuli import TABLE, Stimuli
from ..subject import CARD, Subject


def describe(path: str | PathLike[str]) -> dict[str, Any]:
    """A recording, a subject, a set of RDMs or a folder of stimuli as JSON values: kind, sizes, names, provenance.

    Responses are not read. Features, models and studies are described by the rooms that write them.

    Raises
    ------
    FormatError : nothing there, or nothing of these kinds.
    """
    path = Path(path)
    if not path.exists():
        raise FormatError("does not exist", where=path)
    if path.suffix == ".npz":
        return _describe_rdms(RDMs.load(path))
    if (path / CARD).exists():
        return _describe_subject(Subject.load(path))
    if (path / TABLE).exists():
        return _describe_stimuli(Stimuli.from_folder(path))
    if (path / "zarr.json").exists():
        return _describe_recording(Recording.load(path))
    raise FormatError(
        "neither a recording, a subject, a set of RDMs nor stimuli",
        where=path,
        remedy="Give what `penfield import` or `penfield simulate` wrote",
    )


def _describe_recording(recording: Recording) -> dict[str, Any]:
    ids, repetitions = np.unique(recording.stimulus_ids.astype(str), return_counts=True)
    members = {name: int(recording.roi_mask(name).sum()) for name in recording.rois}
    return {
        "kind": "recording",
        "shape": {str(dim): int(size) for dim, size in recording.data.sizes.items()},
        "stimuli": len(ids),
        "repetitions": {"min": int(repetitions.min()), "max": int(repetitions.max())} if len(ids) else {},
        "sessions": len(np.unique(recording.presentation("session").astype(str))),
        "runs": len({*zip(recording.presentation("session"), recording.presentation("run"), strict=True)}),
        "presentation_coordinates": list(recording.presentations),
        "neuroid_coordinates": list(recording.neuroids),
        "space": recording.space.name or recording.space.kind,
        "rois": {name: members.get(name, 0) for name in dict.fromkeys([*recording.declared_rois, *members])},
        "attrs": dict(recording.attrs),
    }


def _describe_subject(subject: Subject) -> dict[str, Any]:
    return {
        "kind": "subject",
        "subject_id": subject.subject_id,
        "attrs": subject.attrs,
        "recording": _describe_recording(subject.recording),
        "stimuli": _describe_stimuli(subject.stimuli),
    }


def _describe_stimuli(stimuli: Stimuli) -> dict[str, Any]:
    columns = list(stimuli.table)
    categories = stimuli.table["category"].nunique() if "category" in columns else 0
    shape = list(stimuli.load(0).shape) if stimuli.has_pixels and len(stimuli) else []
    return {
        "kind": "stimuli",
        "stimuli": len(stimuli),
        "columns": columns,
        "categories": int(categories),
        "first_shape": shape,
    }


def _describe_rdms(rdms: RDMs) -> dict[str, Any]:
    return {
        "kind": "rdms",
        "rdms": len(rdms),
        "stimuli": rdms.n_stimuli,
        "names": rdms.names,
        "factors": {str(c): sorted(rdms.factors[c].astype(str).unique()) for c in rdms.factors},
        "range": [float(rdms.values.min()), float(rdms.values.max())],
        "attrs": rdms.attrs,
    }
