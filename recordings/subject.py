"""`Subject`: one brain, with what it was shown and what it did."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import FormatError, UnknownNameError
from .recording import Recording
from .stimuli import Stimuli
from .storage import atomic_path

RECORDING, STIMULI, CARD = "recording.zarr", "stimuli", "subject.json"


@dataclass
class Subject:
    """A recording beside the stimuli that it names.

    Attributes
    ----------
    subject_id : unique name.
    recording : the responses. stimuli : what was shown; every stimulus id of the recording must be in it.
    attrs : species, age group, consent, licence, anything else; JSON values.

    Raises
    ------
    MismatchedIdsError : the recording names a stimulus that is not there.
    """

    subject_id: str
    recording: Recording
    stimuli: Stimuli
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recording.match(self.stimuli.ids)

    def shown(self) -> Stimuli:
        """The stimuli that the recording holds responses to, in the order of first appearance."""
        return self.stimuli.select(list(dict.fromkeys(self.recording.stimulus_ids)))

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> Subject:
        """Write ``recording.zarr``, ``stimuli/`` and ``subject.json``; return the subject that reads from there."""
        with atomic_path(folder, overwrite=overwrite) as part:
            part.mkdir()
            self.recording.save(part / RECORDING)
            self.stimuli.save(part / STIMULI)
            card = {"subject_id": self.subject_id, "attrs": self.attrs}
            (part / CARD).write_text(json.dumps(card, indent=2) + "\n")
        return Subject.load(folder)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Subject:
        """Open a subject that `save` wrote; `FormatError` if it is not one."""
        folder = Path(folder)
        try:
            card = json.loads((folder / CARD).read_text())
            name, attrs = card["subject_id"], card["attrs"]
        except (OSError, ValueError, KeyError) as error:
            raise FormatError(f"not a subject folder ({error!r})", where=folder) from error
        return cls(name, Recording.load(folder / RECORDING), Stimuli.from_folder(folder / STIMULI), attrs)

    def roi(self, *names: str) -> Subject:
        """The subject with the neuroids of the named regions only."""
        if not names:
            raise UnknownNameError("no ROI named", remedy=f"There are: {', '.join(self.recording.rois)}")
        return Subject(self.subject_id, self.recording.roi(*names), self.stimuli, self.attrs)
