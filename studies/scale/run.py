"""A study on many workers: features in shards, questions side by side, and results as a local run has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from recordings.errors import PenfieldError
from recordings.events import OnEvent, Stop, report
from recordings.storage import remove

from ..run import claim, questions_of, run
from ..study import Study
from ..subjects import extract_features, shown_to_all, simulate_subjects, stored_features, subject_studies
from .ray_cluster import on_ray, ray_cluster
from .shards import is_begun, join_shards, shard_ranges, stimuli_of
from .slurm import on_slurm, slurm_executor
from .units import Failure, Unit

JOBS = ".jobs"
Each = Callable[[Sequence[Unit]], Iterator[tuple[Unit, Failure | None]]]


class UnitsFailedError(PenfieldError):
    """Some units of a study have not come out; all others have, and are kept.

    Parameters
    ----------
    failures : one a unit.
    """

    def __init__(self, failures: Sequence[Failure], total: int):
        first = failures[0]
        super().__init__(
            f"{len(failures)} of {total} units of work failed, first {first.unit}: {first.error}",
            remedy="All others are kept. Mend it and run the same command again",
        )
        self.failures = tuple(failures)


def run_scaled(
    study: Study,
    on: Literal["ray", "slurm"],
    *,
    workers: int | None = None,
    jobs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """As `studies.run`, to the same numbers, with the work spread over workers.

    Numbers are equal to the bit where workers use as many threads as the local run (OMP_NUM_THREADS), and to rounding
    otherwise. A worker that is lost costs the unit that it was at: a shard of features, or one question to one subject;
    a unit is begun three times at most. Workers on other machines must see the folder of results under the same path.

    Parameters
    ----------
    on : "ray" (see `ray_cluster`) or "slurm" (see `slurm_executor`).
    workers : units at a time; by default all CPUs of the Ray cluster, or 8 jobs.
    jobs : options of SLURM jobs.

    Raises
    ------
    UnitsFailedError : names the first unit that has not come out; all others are kept.
    Cancelled : `stop` answered True; run again to go on.
    """
    claim(study, overwrite)
    simulate_subjects(study, on_event, stop)
    with ExitStack() as stack:
        each = _engine(stack, study, on, workers, jobs or {}, stop)
        for part_of_work in (_extract_all, _answer_all):
            part_of_work(study, each, on_event, stop)
    answers = run(study, on_event=on_event, stop=stop)
    remove(study.out / JOBS)
    return answers


def _engine(
    stack: ExitStack, study: Study, on: str, workers: int | None, jobs: Mapping[str, Any], stop: Stop | None
) -> Each:
    if on == "ray":
        stack.enter_context(ray_cluster(workers))
        return lambda units: on_ray(units, study.device, stop)
    executor = slurm_executor(study.out / JOBS, jobs)
    return lambda units: on_slurm(units, executor, workers, stop)


def _extract_all(study: Study, each: Each, on_event: OnEvent | None, stop: Stop | None) -> None:
    """Features of all models in the study's folder, or in that of each subject who brings stimuli of its own."""
    alone = study.recording.several and shown_to_all(study) is None
    wanted = [
        (home, part)
        for home in (subject_studies(study).values() if alone else [study])
        for part in home.features
        if part.path is None
    ]
    begun = [(home, part) for home, part in wanted if is_begun(home, part)]
    new = [(home, part) for home, part in wanted if not is_begun(home, part)]
    units = []
    for home, part in new:
        # Work of a study without stimuli says what is missing.
        stimuli = stimuli_of(home)
        ranges = shard_ranges(len(stimuli), part.batch_size) if stimuli is not None else []
        units += [Unit(home.model_dump_json(), "shard", "features", part.name, *rows) for rows in ranges]
    _perform(units, each, "extract features", on_event, stop)
    for home, part in new:
        if stimuli_of(home) is not None:
            join_shards(home, part)
    for home, part in begun:
        extract_features(home, part, stimuli_of(home), on_event=on_event, stop=stop)


def _answer_all(study: Study, each: Each, on_event: OnEvent | None, stop: Stop | None) -> None:
    single = [study] if not study.recording.several else list(subject_studies(study).values())
    for one in single:
        claim(one)
    # Workers read features and never write them, or two would write one file.
    readers = [
        one.model_copy(update={"features": tuple(stored_features(one, part) for part in one.features)})
        for one in single
    ]
    asked = [Unit(one.model_dump_json(), "question", kind, name) for one in readers for kind, name in questions_of(one)]
    # Ensembles weigh models that are fitted before.
    first = [unit for unit in asked if unit.part != "ensemble"]
    _perform(first, each, "answer questions", on_event, stop)
    _perform([unit for unit in asked if unit.part == "ensemble"], each, "weigh models", on_event, stop)
    if study.recording.several:
        _perform([Unit(one.model_dump_json(), "results") for one in single], each, "write results", on_event, stop)


def _perform(units: Sequence[Unit], each: Each, stage: str, on_event: OnEvent | None, stop: Stop | None) -> None:
    if not units:
        return
    failures: list[Failure] = []
    report(on_event, stop, stage, 0, len(units))
    for done, (_, failure) in enumerate(each(units), 1):
        if failure is not None:
            failures.append(failure)
        report(on_event, stop, stage, done, len(units), failed=[f.unit for f in failures])
    if failures:
        raise UnitsFailedError(failures, len(units))
