"""`DecoderModel`: a fitted decoder with the networks that turn what it decodes into words, depth and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from decoders.depth import check_depth
from decoders.pictures import PRESETS
from decoders.pictures.presets import find_preset
from recordings.errors import ArtifactError, Cancelled, NotFiniteError, PenfieldError, UnknownNameError
from recordings.events import OnEvent, Stop, report
from studies.pictures.drawing import Drawing
from studies.pictures.fitting import layers_of
from studies.pictures.targets import targets_of

from ..errors import BudgetError
from ..items import CAPTION, DEPTH, IMAGE, TARGETS, DecodedRow, DecodeItem
from ..repository import ModelEntry
from .brains import Brain
from .description import DecodedTarget, Description, Units, check_units, read_card
from .drawing import TOKENS, Cost, Networks
from .memory import is_out_of_memory

CHUNK = Drawing.batch_size
MAX_SECONDS = 3600.0
MAX_BYTES = 8 * 2**30


@dataclass(frozen=True)
class _Job:
    """An item that can be decoded: which regressions it takes, how it is drawn, and who watches."""

    item: DecodeItem
    names: tuple[str, ...]
    watched: Mapping[str, Any]


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
            reconstructor = _drawing(item, chunk).reconstructor(self.networks.generator(find_preset(item.preset)))
        return self.networks.cost(reconstructor, len(item), CAPTION in item.outputs, chunk)

    def decode(
        self,
        batch: Sequence[DecodeItem],
        on_events: Sequence[OnEvent | None],
        stops: Sequence[Stop | None],
        chunk: int = CHUNK,
    ) -> list[list[DecodedRow] | Exception]:
        """The rows of each item, decoded, or why there are none.

        Regressions of all items are computed together, all else for one item after the other, so that one can be
        stopped without the others. Alone, an item gives what `studies.pictures.drawing.reconstruct` gives, bit for bit.

        Parameters
        ----------
        on_events : told the progress of each item; the event "reconstruct" has previews as in `ImageReconstructor`.
        stops : asked at every step whether an item is still wanted.
        chunk : pictures drawn together.
        """
        results: list[Any] = [None] * len(batch)
        jobs: dict[int, _Job] = {}
        for number, (item, on_event, stop) in enumerate(zip(batch, on_events, stops, strict=True)):
            try:
                report(None, stop, "decode", 0, 1)
                jobs[number] = _Job(item, self._check(item, chunk), {"on_event": on_event, "stop": stop})
            except PenfieldError as error:
                results[number] = error
        if not jobs:
            return results
        names = list(dict.fromkeys(name for job in jobs.values() for name in job.names))
        rows = np.concatenate([job.item.responses for job in jobs.values()]).astype(np.float32, copy=False)
        decoded = self.brain.predict(rows, names)
        end = 0
        for number, job in jobs.items():
            start, end = end, end + len(job.item)
            own = {name: decoded[name][start:end] for name in job.names}
            try:
                results[number] = self._rows(job, list(job.item.stimulus_ids), own, chunk)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                results[number] = error
        return results

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

    # Rows --------------------------------------------------------------------------------------------------------

    def _rows(self, job: _Job, ids: list[str], decoded: Mapping[str, np.ndarray], chunk: int) -> list[DecodedRow]:
        """Rows of a job; where all at once fail, one by one, so that only those fail that must."""
        try:
            return self._together(job, ids, decoded, chunk)
        except (Cancelled, UnknownNameError):
            raise
        except PenfieldError as error:
            if len(ids) == 1:
                return [DecodedRow(ids[0], failure=error)]
        return [
            row
            for k, name in enumerate(ids)
            for row in self._rows(job, [name], {t: values[k : k + 1] for t, values in decoded.items()}, chunk)
        ]

    def _together(self, job: _Job, ids: list[str], decoded: Mapping[str, np.ndarray], chunk: int) -> list[DecodedRow]:
        outputs, n = job.item.outputs, len(ids)
        found: dict[str, Any] = {name: [None] * n for name in ("caption", "images", "depth", "targets")}
        failed: dict[str, str] = {}
        settings: dict[str, Any] = {}
        if TARGETS in outputs:
            found["targets"] = [{name: values[k] for name, values in decoded.items()} for k in range(n)]
        if DEPTH in outputs:
            found["depth"] = self._depth(job, ids, decoded)
        if IMAGE in outputs:
            captions, made = self._draw(job, ids, decoded, chunk)
            drawn = dict(zip(made.stimulus_ids, made.images, strict=True))
            found["images"] = [drawn.get(name) for name in ids]
            failed, settings = made.failed, _settings(made.settings)
        elif CAPTION in outputs:
            assert self.networks is not None
            captions = self.networks.captioner().decode(decoded[TOKENS], ids, **job.watched)
        if CAPTION in outputs:
            found["caption"] = captions
        return [
            DecodedRow(name, failure=NotFiniteError(failed[name], where=name), settings=settings)
            if name in failed
            else DecodedRow(name, **{what: values[k] for what, values in found.items()}, settings=settings)
            for k, name in enumerate(ids)
        ]

    def _depth(self, job: _Job, ids: list[str], decoded: Mapping[str, np.ndarray]) -> np.ndarray:
        assert self.networks is not None
        network = self.networks.depth()
        if network is None:
            return check_depth(decoded["depth"], ids)
        return network.decode(layers_of("depth", decoded), ids, **job.watched)

    def _draw(self, job: _Job, ids: list[str], decoded: Mapping[str, np.ndarray], chunk: int) -> tuple[Any, Any]:
        """Captions, where they are asked for, and pictures."""
        assert self.networks is not None
        item, preset = job.item, find_preset(job.item.preset)
        readers = self.networks.readers(preset, CAPTION in item.outputs)
        drawing = _drawing(item, chunk)
        reconstructor = drawing.reconstructor(readers.generator)
        needed = {*targets_of(preset), *([TOKENS] if CAPTION in item.outputs else ())}
        own = {name: values for name, values in decoded.items() if name.partition(".")[0] in needed}
        inputs = readers.inputs(ids, own, seed=item.seed, **job.watched)
        made = reconstructor.reconstruct(
            inputs,
            seed=item.seed,
            batch_size=chunk,
            preview_every=drawing.preview_every,
            allow_long=True,
            **job.watched,
        )
        return inputs.captions, made


def _drawing(item: DecodeItem, chunk: int) -> Drawing:
    return Drawing(
        item.preset,
        item.strength,
        item.guidance,
        item.steps,
        item.samples,
        batch_size=chunk,
        preview_every=item.preview_every,
    )


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    preset = settings["preset"]
    chosen = {name: preset[name] for name in ("strength", "guidance", "steps", "samples")}
    return {"preset": preset["name"], **chosen, "seed": settings["seed"], "generator": settings["generator"]}
