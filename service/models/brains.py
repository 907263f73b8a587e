"""Rows of a request as the recording that a decoder was fitted to, and what it decodes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from decoders import BrainDecoder, LatentDecoder
from recordings import Recording
from recordings.artifacts import ROI, read_config, recording_of
from recordings.errors import ArtifactError
from recordings.events import OnEvent, Stop
from studies.pictures.fitting import ROWS, PictureDecoder
from studies.pictures.targets import SOURCES, Sources

# What the target of a single regression is called.
FEATURES = "features"


class Brain:
    """A fitted decoder that reads arrays in the order of its units.

    Parameters
    ----------
    folder : of a `BrainDecoder` or a `LatentDecoder`.

    Raises
    ------
    ArtifactError : no decoder there, or one of regions that was saved without them.

    Attributes
    ----------
    fitted : the decoder with the models whose states it decodes; None for a `LatentDecoder`. drawable : whether its
        folder names these models.
    fields : what `recordings.artifacts.recording_fields` remembers of the training recording.
    targets : of each regression by name, the shape of one row.
    """

    def __init__(self, folder: Path):
        self.fitted: PictureDecoder | None = None
        if read_config(folder).get("kind") == BrainDecoder.__name__:
            self.drawable = (folder / SOURCES).exists()
            sources = Sources.load(folder) if self.drawable else Sources()
            self.fitted = PictureDecoder(BrainDecoder.from_pretrained(str(folder)), sources, folder)
            self.parts, self.fields = self.fitted.decoder.decoders_, self.fitted.decoder.recording_
            if ROI not in self.fields and any(names is not None for names in self.fitted.decoder.rois.values()):
                raise ArtifactError("decodes regions, and was saved without them", where=folder, remedy="Fit it again")
        else:
            self.drawable = False
            self.parts = {FEATURES: LatentDecoder.from_pretrained(str(folder))}
            self.fields = self.parts[FEATURES].training_
        self.targets = {name: tuple(part.feature_shape_) for name, part in self.parts.items()}
        # Columns of text are slow to make, and the same each time.
        self._like = recording_of(self.fields, np.zeros((1, len(self.fields["neuroid_ids"])), np.float32), [""])

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
