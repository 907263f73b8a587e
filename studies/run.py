"""Running a study: every part once, results beside the study that gave them, and on again after an interruption."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recordings.errors import InputError
from recordings.events import OnEvent, Stop, report
from recordings.storage import atomic_path, remove

from . import answers as answer
from .answers import RESULTS, once, write_json
from .page import PAGE, write_study_page
from .plan import Plan, extrapolate, resident_memory
from .questions import Reconstruction
from .sources import open_recording
from .study import Study
from .table import TABLE, results_table, write_csv
from .work import SUBJECT, Work

STUDY = "study.toml"
# All that a run writes beside the study file.
MADE = (RESULTS, TABLE, PAGE, SUBJECT, "features", "encode", "ensemble", "decode", "reconstruct", "align")
TRIAL_STIMULI = 40


def run(
    study: Study,
    *,
    overwrite: bool = False,
    n_stimuli: int | None = None,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Run a study, or what is left of it.

    Its folder gets ``results.json``, ``results.csv`` (see `studies.table`), ``report.html`` (`studies.page`) and the
    resolved ``study.toml``.

    Features, models and answers that are there already, from the same study on the same data, are not made again.

    Parameters
    ----------
    overwrite : throw away the results of earlier runs first; other files in the folder stay.
    n_stimuli : only the first so many stimuli of the recording, for a trial.

    Returns
    -------
    Answers by question: encode.<name>, ensemble.<name>, decode.<name>, reconstruct.<name>, align.<name>, each a dict of
    JSON values.

    Raises
    ------
    InputError : the folder holds another study, or overwriting would delete what the study reads.
    LeakageError : a stimulus, or the same picture under two ids, on both sides of the split.
    Cancelled : `stop` answered True; run again to go on.
    """
    _claim(study, overwrite)
    work = Work(study, n_stimuli, on_event, stop)
    # Ensembles weigh models that are fitted before.
    asked: list[tuple[str, Any, Callable[[Work, Any, Path], dict[str, Any]]]] = [
        *(("encode", part, answer.encode) for part in study.encode),
        *(("ensemble", part, answer.ensemble) for part in study.ensemble),
        *(("decode", part, answer.decode) for part in study.decode),
        *(("reconstruct", part, _reconstruct) for part in study.reconstruct),
        *(("align", part, answer.align) for part in study.align),
    ]
    answers = {}
    for number, (kind, part, give) in enumerate(asked):
        report(on_event, stop, "answer questions", number, len(asked))
        folder = study.out / kind / part.name
        answers[f"{kind}.{part.name}"] = once(folder, work.fingerprint, lambda f: give(work, part, f))  # noqa: B023
    results, page = study.out / RESULTS, study.out / PAGE
    given = {"study": study.name, "seed": study.seed, **answers}
    write_csv(results_table(study, answers), study.out / TABLE)
    # Results come last, so that a page beside the same ones is up to date.
    if not (page.exists() and results.exists() and json.loads(results.read_text()) == given):
        write_study_page(study.out, study, answers, work.test)
    write_json(results, given)
    return answers


def _reconstruct(work: Work, part: Reconstruction, folder: Path) -> dict[str, Any]:
    # diffusers takes seconds to import.
    from .pictures.answers import reconstruct

    return reconstruct(work, part, folder)


def plan_study(study: Study) -> Plan:
    """Cost of `run`, from running the study on a few of its stimuli in a temporary folder.

    Time is taken to grow in proportion to the number of stimuli. For a simulated recording that many are simulated.
    """
    simulate = study.recording.simulate
    source = None if study.recording.path is None else open_recording(study.recording.path, study.recording.rois)
    total = simulate.scenes if simulate else len(set(source.stimulus_ids if source else ()))
    written: dict[int, int] = {}

    def trial(n: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            small: dict[str, Any] = {"out": Path(folder)}
            if simulate:
                fewer = simulate.model_copy(update={"scenes": n})
                small["recording"] = study.recording.model_copy(update={"simulate": fewer})
            run(study.model_copy(update=small), n_stimuli=n)
            written[n] = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())

    fixed, each = extrapolate(trial, total, first=TRIAL_STIMULI)
    responses = 4 * len(source) * source.n_neuroids if source else 0
    n = max(written)
    return Plan(fixed + each, resident_memory() + 2 * responses, written[n] * total / n)


def _claim(study: Study, overwrite: bool) -> None:
    """Make the folder of results this study's own."""
    path = study.out / STUDY
    if overwrite:
        _remove_results(study)
    elif path.exists():
        if Study.load(path) != study:
            raise InputError(
                "holds the results of another study", where=study.out, remedy="Change `out`, or pass --overwrite"
            )
        return
    study.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=overwrite) as part:
        part.write_text(study.to_toml())


def _remove_results(study: Study) -> None:
    made = [(study.out / name).resolve() for name in MADE]
    read = (study.recording.path, study.recording.stimuli, *(part.path for part in study.features))
    for path in filter(None, read):
        if any(path.resolve().is_relative_to(place) for place in made):
            raise InputError(
                "is read by the study and would be overwritten", where=path, remedy="Let `out` be a folder of its own"
            )
    for place in made:
        remove(place)
