"""Rows of several requests with equal settings, made together, each as it would be alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from decoders import DecodedInputs, ImageReconstructor
from decoders.depth import check_depth
from decoders.pictures.presets import find_preset
from recordings.errors import Cancelled, NotFiniteError, PenfieldError
from recordings.events import Event, OnEvent, Stop
from studies.pictures.drawing import Drawing
from studies.pictures.fitting import concatenate, layers_of
from studies.pictures.targets import targets_of

from ..items import CAPTION, DEPTH, IMAGE, TARGETS, DecodedRow, DecodeItem, OnRow
from .drawing import TOKENS, Networks


@dataclass(eq=False)
class Job:
    """A request on its way: what its regressions gave, the rows that are done, and who watches.

    Attributes
    ----------
    names : regressions that it takes. decoded : what they gave, a row a row, by name.
    rows : done so far, by stimulus id. error : why there are no more.
    """

    item: DecodeItem
    on_event: OnEvent | None = None
    stop: Stop | None = None
    on_row: OnRow | None = None
    names: tuple[str, ...] = ()
    decoded: Mapping[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, DecodedRow] = field(default_factory=dict)
    error: Exception | None = None
    _left: bool = False

    @property
    def left(self) -> bool:
        """Whether nobody waits for it any more; once true, it stays so."""
        self._left = self._left or (self.stop is not None and self.stop())
        return self._left

    @property
    def result(self) -> list[DecodedRow] | Exception:
        """All rows in order, or why they are not there."""
        if len(self.rows) == len(self.item):
            return [self.rows[name] for name in self.item.stimulus_ids]
        return self.error or Cancelled(f"stopped after {len(self.rows)} of {len(self.item)} rows")

    def tell(self, event: Event) -> None:
        """Tell how far it is."""
        if self.on_event is not None and not self.left:
            self.on_event(event)

    def finish(self, row: DecodedRow) -> None:
        """Keep a row that is done, if it is still wanted, and tell of it."""
        if self.left:
            return
        self.rows[row.stimulus_id] = row
        if self.on_row is not None:
            self.on_row(row)

    @property
    def missing(self) -> list[Row]:
        """Rows that are still wanted."""
        if self.left:
            return []
        return [Row(self, k) for k, name in enumerate(self.item.stimulus_ids) if name not in self.rows]


class Row(NamedTuple):
    """One row of a job."""

    job: Job
    k: int

    @property
    def name(self) -> str:
        """Its stimulus id."""
        return str(self.job.item.stimulus_ids[self.k])


def make_rows(networks: Networks | None, rows: Sequence[Row], chunk: int) -> None:
    """Finish the given rows, of jobs with equal settings; one that cannot be made has its failure in it.

    Rows are told as they are done. Those whose job has left are dropped from the next pictures that are drawn; when all
    have left that are at work, it ends within a step.

    Parameters
    ----------
    networks : None where only targets are asked for. chunk : pictures drawn together.
    """
    if not rows:
        return
    try:
        found, inputs = _read(networks, rows)
    except Cancelled:
        return
    except PenfieldError as error:
        if len(rows) == 1:
            _fail(rows[0], error)
            return
        for row in rows:
            if not row.job.left:
                make_rows(networks, [row], chunk)
        return
    if inputs is None:
        for k, row in enumerate(rows):
            row.job.finish(DecodedRow(row.name, **{name: values[k] for name, values in found.items()}))
        return
    assert networks is not None
    drawing = drawing_of(rows[0].job.item, chunk)
    reconstructor = drawing.reconstructor(networks.generator(find_preset(drawing.preset)))
    _Canvas(reconstructor, drawing, rows, inputs, found).draw()


def drawing_of(item: DecodeItem, chunk: int) -> Drawing:
    """How the pictures of an item are drawn, so many at a time."""
    given = (item.strength, item.guidance, item.steps, item.samples)
    return Drawing(item.preset, *given, batch_size=chunk, preview_every=item.preview_every)


# Words and depth -----------------------------------------------------------------------------------------------------


def _read(networks: Networks | None, rows: Sequence[Row]) -> tuple[dict[str, Sequence[Any]], DecodedInputs | None]:
    """What is made without a generator, by field of `DecodedRow`, and what a generator takes if pictures are wanted."""
    job = rows[0].job
    outputs = job.item.outputs
    decoded = {name: np.stack([row.job.decoded[name][row.k] for row in rows]) for name in job.names}
    found: dict[str, Sequence[Any]] = {}
    inputs = None
    if TARGETS in outputs:
        found["targets"] = [{name: values[k] for name, values in decoded.items()} for k in range(len(rows))]
    if DEPTH in outputs:
        assert networks is not None
        found["depth"] = list(_depth(networks, rows, decoded))
    if IMAGE in outputs:
        assert networks is not None
        inputs = _inputs(networks, rows, decoded)
        if CAPTION in outputs:
            found["caption"] = list(inputs.captions or ())
    elif CAPTION in outputs:
        assert networks is not None
        found["caption"] = networks.captioner().decode(decoded[TOKENS], _names(rows), **_watched(rows))
    return found, inputs


def _depth(networks: Networks, rows: Sequence[Row], decoded: Mapping[str, np.ndarray]) -> np.ndarray:
    network = networks.depth()
    if network is None:
        return check_depth(decoded["depth"], _names(rows))
    return network.decode(layers_of("depth", decoded), _names(rows), **_watched(rows))


def _inputs(networks: Networks, rows: Sequence[Row], decoded: Mapping[str, np.ndarray]) -> DecodedInputs:
    item = rows[0].job.item
    preset, captions = find_preset(item.preset), CAPTION in item.outputs
    readers = networks.readers(preset, captions)
    needed = {*targets_of(preset), *([TOKENS] if captions else ())}
    own = {name: values for name, values in decoded.items() if name.partition(".")[0] in needed}
    if readers.inverter is None:
        return readers.inputs(_names(rows), own, **_watched(rows))
    # The random numbers of an inversion are those of a request's seed and ids.
    parts, start = [], 0
    for job, group in groupby(rows, lambda row: row.job):
        some = list(group)
        here = {name: values[start : start + len(some)] for name, values in own.items()}
        parts.append(readers.inputs([row.name for row in some], here, seed=job.item.seed, **_watched(some)))
        start += len(some)
    return replace(concatenate(parts), stimulus_ids=_names(rows))


# Pictures ------------------------------------------------------------------------------------------------------------


class _Canvas:
    """Draws rows block by block, so that the first are done before the last are begun.

    A block is as many rows as fill whole batches of the generator, so that the batches of a lone request are those of
    `ImageReconstructor.reconstruct`.
    """

    def __init__(
        self,
        reconstructor: ImageReconstructor,
        drawing: Drawing,
        rows: Sequence[Row],
        inputs: DecodedInputs,
        found: Mapping[str, Sequence[Any]],
    ):
        self.reconstructor, self.drawing = reconstructor, drawing
        self.rows, self.inputs, self.found = rows, inputs, found
        size = drawing.batch_size // math.gcd(drawing.batch_size, reconstructor.preset.samples)
        self.blocks = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        self.done: dict[Job, int] = {row.job: 0 for row in rows}
        self.total = dict(self.done)
        for block in self.blocks:
            for job in {rows[k].job for k in block}:
                self.total[job] += self._batches(len(block))

    def draw(self) -> None:
        """Finish all rows."""
        for block in self.blocks:
            jobs = {self.rows[k].job for k in block}
            self._block([k for k in block if not self.rows[k].job.left])
            for job in jobs:
                self.done[job] += self._batches(len(block))

    def _block(self, block: Sequence[int], told: bool = True) -> None:
        if not block:
            return
        rows, inputs = [self.rows[k] for k in block], self.inputs.select(list(block))
        names = dict(zip(map(str, inputs.stimulus_ids), block, strict=True))
        try:
            made = self.reconstructor.reconstruct(
                inputs,
                seed=[row.job.item.seed for row in rows],
                keys=[row.name for row in rows],
                batch_size=self.drawing.batch_size,
                preview_every=self.drawing.preview_every,
                allow_long=True,
                on_event=self._listener(names) if told else None,
                stop=_all_left(rows),
            )
        except Cancelled:
            return
        except PenfieldError as error:
            if len(block) == 1:
                _fail(rows[0], error)
            for k in block if len(block) > 1 else ():
                self._block([k], told=False)
            return
        drawn = dict(zip(made.stimulus_ids, made.images, strict=True))
        for name, k in names.items():
            row = self.rows[k]
            if name in drawn:
                found = {what: values[k] for what, values in self.found.items()}
                done = DecodedRow(row.name, images=drawn[name], settings=_settings(made.settings, row.job), **found)
                row.job.finish(done)
            else:
                _fail(row, NotFiniteError(made.failed[name], where=row.name), _settings(made.settings, row.job))

    def _listener(self, names: Mapping[str, int]) -> OnEvent:
        """Tells every job of a block of its own pictures, and how far it is with all of them."""
        rows = {name: self.rows[k] for name, k in names.items()}
        jobs = list(dict.fromkeys(row.job for row in rows.values()))
        batches = self._batches(len(rows))

        def on_event(event: Event) -> None:
            steps = event.total // batches
            ids = event.payload["stimulus_ids"]
            for job in jobs:
                own = [k for k, name in enumerate(ids) if rows[name].job is job]
                payload: dict[str, Any] = {
                    "stimulus_ids": [rows[ids[k]].name for k in own],
                    "samples": [event.payload["samples"][k] for k in own],
                }
                if "preview" in event.payload:
                    payload["preview"] = event.payload["preview"][own]
                done = self.done[job] * steps + event.done
                job.tell(Event(event.stage, done, self.total[job] * steps, payload))

        return on_event

    def _batches(self, n: int) -> int:
        return math.ceil(n * self.reconstructor.preset.samples / self.drawing.batch_size)


def _settings(settings: Mapping[str, Any], job: Job) -> dict[str, Any]:
    preset = settings["preset"]
    chosen = {name: preset[name] for name in ("strength", "guidance", "steps", "samples")}
    return {"preset": preset["name"], **chosen, "seed": job.item.seed, "generator": settings["generator"]}


# Several jobs --------------------------------------------------------------------------------------------------------


def _fail(row: Row, error: Exception, settings: Mapping[str, Any] | None = None) -> None:
    row.job.finish(DecodedRow(row.name, failure=error, settings=settings or {}))


def _names(rows: Sequence[Row]) -> list[str]:
    """Names of rows, unique also where two jobs saw one stimulus."""
    jobs = list(dict.fromkeys(row.job for row in rows))
    if len(jobs) == 1:
        return [row.name for row in rows]
    numbers = {job: number for number, job in enumerate(jobs)}
    return [f"{numbers[row.job]}/{row.name}" for row in rows]


def _all_left(rows: Sequence[Row]) -> Stop:
    jobs = list(dict.fromkeys(row.job for row in rows))
    return lambda: all(job.left for job in jobs)


def _watched(rows: Sequence[Row]) -> dict[str, Any]:
    """`on_event` and `stop` for work whose events name no rows."""
    jobs = list(dict.fromkeys(row.job for row in rows))

    def on_event(event: Event) -> None:
        for job in jobs:
            job.tell(event)

    return {"on_event": on_event, "stop": _all_left(rows)}
