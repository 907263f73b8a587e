"""`DecoderModel`: a fitted decoder with the networks that turn what it decodes into words, depth and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoders.pictures import PRESETS
from decoders.pictures.presets import find_preset
from recordings.errors import ArtifactError, PenfieldError
from recordings.events import OnEvent, Stop
from studies.pictures.drawing import Drawing
from studies.pictures.targets import targets_of

from ..errors import BudgetError
from ..items import CAPTION, DEPTH, IMAGE, TARGETS, DecodedRow, DecodeItem, OnRow
from ..repository import ModelEntry
from .brains import Brain
from .description import DecodedTarget, Description, Units, check_units, read_card
from .drawing import TOKENS, Cost, Networks
from .memory import is_out_of_memory
from .together import Job, drawing_of, make_rows

CHUNK = Drawing.batch_size
MAX_SECONDS = 3600.0
MAX_BYTES = 8 * 2**30


class DecoderModel:
    """A decoder that answers requests.

    Parameters
    ----------
    entry : whose folder holds a `BrainDecoder`, or a `LatentDecoder`, which gives targets alone.
    device : where networks run.
    max_seconds, max_bytes : most that one request may be estimated to take.

    Raises
    ------
    ArtifactError : no decoder there. InputError : it would need a ``python:`` model.
    """

    def __init__(
        self,
        entry: ModelEntry,
        device: str = "auto",
        *,
        max_seconds: float = MAX_SECONDS,
        max_bytes: float = MAX_BYTES,
    ):
        self.entry = entry
        self.max_seconds, self.max_bytes = max_seconds, max_bytes
        self.brain = Brain(entry.folder)
        self.units = Units.of(self.brain.fields)
        self.networks: Networks | None = None
        if self.brain.fitted is not None and self.brain.drawable:
            self.networks = Networks(self.brain.fitted, device)

    @property
    def memory_bytes(self) -> int:
        """Of weights and of the networks that are loaded by now."""
        return self.entry.bytes_on_disk + (self.networks.memory_bytes if self.networks else 0)

    @property
    def presets(self) -> tuple[str, ...]:
        """Presets that its targets suffice for."""
        if self.networks is None:
            return ()
        fitted = self.networks.fitted.targets
        return tuple(name for name, preset in PRESETS.items() if set(targets_of(preset)) <= fitted)

    def describe(self) -> Description:
        """What it takes and gives."""
        card, license = read_card(self.entry.folder)
        targets = tuple(DecodedTarget(name, shape) for name, shape in self.brain.targets.items())
        return Description(
            self.entry,
            self.units,
            self.memory_bytes,
            targets=targets,
            presets=self.presets,
            rois=self.units.sizes(),
            card=card,
            license=license,
        )

    def warm_up(self) -> None:
        """Run once, so that the first request finds everything in place."""
        row = np.zeros((1, len(self.units.unit_ids)), np.float32)
        self.brain.predict(row, list(self.brain.targets))
        outputs = {CAPTION} if self.networks and TOKENS in self.networks.fitted.targets else set()
        outputs |= {IMAGE} if self.presets else set()
        if outputs:
            self.cost(DecodeItem(row, frozenset(outputs), preset=self.presets[0] if self.presets else ""))

    def cost(self, item: DecodeItem, chunk: int = CHUNK) -> Cost:
        """Estimate of what an item takes beside its regressions.

        Raises
        ------
        UnknownNameError : no such preset. ArtifactError, MissingWeightsError : no generator that fits the decoder.
        """
        if self.networks is None or not item.outputs & {IMAGE, CAPTION}:
            return Cost()
        reconstructor = None
        if IMAGE in item.outputs:
            reconstructor = drawing_of(item, chunk).reconstructor(self.networks.generator(find_preset(item.preset)))
        return self.networks.cost(reconstructor, len(item), CAPTION in item.outputs, chunk)

    def decode(
        self,
        batch: Sequence[DecodeItem],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        on_rows: Sequence[OnRow | None],
        chunk: int = CHUNK,
    ) -> list[list[DecodedRow] | Exception]:
        """The rows of each item, decoded, or why there are none.

        Items with equal settings are decoded and drawn together, whatever their seeds and stimulus ids; one that is
        stopped is left out of the next pictures, and the others go on. Alone, an item gives what
        `studies.pictures.drawing.reconstruct` gives, bit for bit.

        Parameters
        ----------
        on_events : told the progress of each item; the event "reconstruct" has previews as in `ImageReconstructor`.
        stops : asked at every step whether an item is still wanted.
        on_rows : given each row of an item when it is done, before all are.
        chunk : pictures drawn together.
        """
        watchers = zip(batch, on_events, stops, on_rows, strict=True)
        jobs = [Job(item, on_event, stop, on_row) for item, on_event, stop, on_row in watchers]
        alike: dict[tuple[object, ...], list[Job]] = {}
        for job in jobs:
            try:
                if not job.left:
                    job.names = self._check(job.item, chunk)
                    alike.setdefault(job.item.settings, []).append(job)
            except PenfieldError as error:
                job.error = error
        self._predict([job for group in alike.values() for job in group])
        for group in alike.values():
            self._make(group, chunk)
        return [job.result for job in jobs]

    def _predict(self, jobs: Sequence[Job]) -> None:
        """The regressions of all jobs, computed together."""
        if not jobs:
            return
        names = list(dict.fromkeys(name for job in jobs for name in job.names))
        rows = np.concatenate([job.item.responses for job in jobs]).astype(np.float32, copy=False)
        decoded = self.brain.predict(rows, names)
        ends = np.cumsum([len(job.item) for job in jobs])
        for job, end in zip(jobs, ends.tolist(), strict=True):
            job.decoded = {name: decoded[name][end - len(job.item) : end] for name in job.names}

    def _make(self, jobs: Sequence[Job], chunk: int) -> None:
        """Finish jobs; where an unforeseen error ends them all, one by one, so that only those fail that must."""
        try:
            make_rows(self.networks, [row for job in jobs for row in job.missing], chunk)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if len(jobs) == 1:
                jobs[0].error = error
            for job in jobs if len(jobs) > 1 else ():
                self._make([job], chunk)

    # Checks ------------------------------------------------------------------------------------------------------

    def _check(self, item: DecodeItem, chunk: int) -> tuple[str, ...]:
        """Regressions that an item takes.

        Raises
        ------
        WrongUnitsError, ShapeError : other units. UnknownNameError : no such preset. ArtifactError : an output that
        the decoder was not fitted for. BudgetError : it is estimated to take too much.
        """
        check_units(self.units, item)
        targets = self._needed(item)
        cost = self.cost(item, chunk)
        for value, most, unit in ((cost.seconds, self.max_seconds, "s"), (cost.bytes, self.max_bytes, "bytes")):
            if value > most:
                raise BudgetError(
                    f"would take about {value:.2g} {unit}, and one request has {most:.2g}",
                    where="request",
                    remedy="Ask for fewer rows, steps or samples at once",
                )
        if TARGETS in item.outputs:
            return tuple(self.brain.targets)
        return tuple(name for name in self.brain.targets if name.partition(".")[0] in targets)

    def _needed(self, item: DecodeItem) -> set[str]:
        wanted = {TOKENS} if CAPTION in item.outputs else set()
        wanted |= {DEPTH} if DEPTH in item.outputs else set()
        if IMAGE in item.outputs:
            wanted |= set(targets_of(find_preset(item.preset)))
        known = self.networks.fitted.targets if self.networks else set()
        if wanted - known:
            raise ArtifactError(
                f"decodes {', '.join(sorted(known)) or 'features alone'}, not {', '.join(sorted(wanted - known))}",
                where=self.entry.key.name,
                remedy="Ask for targets, or for what DescribeModel names",
            )
        return wanted
