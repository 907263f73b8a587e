"""Rows of a request as the recording that a decoder was fitted to, and what it decodes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from decoders import BrainDecoder, LatentDecoder
from recordings import Recording, Space
from recordings.artifacts import read_config
from recordings.coordinates import ROI_SEPARATOR
from recordings.events import OnEvent, Stop
from recordings.standardise import STANDARDISED
from studies.pictures.fitting import ROWS, PictureDecoder
from studies.pictures.targets import SOURCES, Sources

# What the target of a single regression is called.
FEATURES = "features"


class Brain:
    """A fitted decoder that reads arrays in the order of its units.

    Parameters
    ----------
    folder : of a `BrainDecoder` or a `LatentDecoder`.

    Attributes
    ----------
    fitted : the decoder with the models whose states it decodes; None for a `LatentDecoder`. drawable : whether its
        folder names these models.
    fields : what `recordings.artifacts.recording_fields` remembers of the training recording.
    targets : of each regression by name, the shape of one row. rois : number of units by region, where a target is
        decoded from that region alone.
    """

    def __init__(self, folder: Path):
        self.fitted: PictureDecoder | None = None
        if read_config(folder).get("kind") == BrainDecoder.__name__:
            self.drawable = (folder / SOURCES).exists()
            sources = Sources.load(folder) if self.drawable else Sources()
            self.fitted = PictureDecoder(BrainDecoder.from_pretrained(str(folder)), sources, folder)
            self.parts, self.fields = self.fitted.decoder.decoders_, self.fitted.decoder.recording_
        else:
            self.drawable = False
            self.parts = {FEATURES: LatentDecoder.from_pretrained(str(folder))}
            self.fields = self.parts[FEATURES].training_
        self.targets = {name: tuple(part.feature_shape_) for name, part in self.parts.items()}
        members = self._members()
        alone = [names[0] for names in self._regions().values() if len(names) == 1]
        self.rois = {name: int(members[name].sum()) for name in alone}
        labels = [
            ROI_SEPARATOR.join(n for n, m in members.items() if m[k]) for k in range(len(self.fields["neuroid_ids"]))
        ]
        # Columns of text are slow to make, and the same each time.
        self._like = Recording(
            np.zeros((1, len(labels)), np.float32),
            {"stimulus_id": [""]},
            pd.DataFrame({"neuroid_id": self.fields["neuroid_ids"], "roi": labels}),
            space=Space.from_dict(self.fields["space"]),
            attrs={STANDARDISED: self.fields[STANDARDISED]} if STANDARDISED in self.fields else {},
        )

    def predict(
        self,
        rows: np.ndarray,
        names: Sequence[str],
        *,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> dict[str, np.ndarray]:
        """Decoded targets of rows (row, unit), float32 (row, *shape) by name.

        Raises
        ------
        Cancelled : `stop` answered True.
        """
        if self.fitted is None:
            part = self.parts[FEATURES]
            flat = [part.predict(block, on_event=on_event, stop=stop) for block in self._recordings(rows)]
            return {FEATURES: np.concatenate(flat).reshape(len(rows), *self.targets[FEATURES])}
        chosen = self.fitted.part([name.partition(".")[0] for name in names])
        found = [chosen.predict(block, on_event=on_event, stop=stop) for block in self._recordings(rows)]
        return {name: np.concatenate([part[name] for part in found]) for name in names}

    def _recordings(self, rows: np.ndarray) -> Iterator[Recording]:
        like = self._like
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            ids = {"stimulus_id": [str(number) for number in range(len(part))]}
            yield Recording(part, ids, like.neuroids, space=like.space, attrs=like.attrs)

    def _regions(self) -> Mapping[str, Sequence[str]]:
        """Regions of each target that is not decoded from all units."""
        rois = self.fitted.decoder.rois if self.fitted else {}
        return {name: regions for name, regions in rois.items() if regions is not None}

    def _members(self) -> dict[str, np.ndarray]:
        """Units of each region, bool (unit,), such that the regions of every target have the units of its fit.

        An artifact keeps the units of each target, not of each region: a region is taken to have all units that every
        target has that is decoded from it. That is too many for one region of several, and right for their union.
        """
        ids = np.array(self.fields["neuroid_ids"], object)
        members: dict[str, np.ndarray] = {}
        for target, names in self._regions().items():
            inside = np.isin(ids, self.parts[target].training_["neuroid_ids"])
            for name in names:
                members[name] = members.get(name, True) & inside
        return members
