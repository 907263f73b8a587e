"""Running a study: every part once, results beside the study that gave them, and on again after an interruption."""

from __future__ import annotations

import json
import tempfile
import warnings
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
from .simulation import subject_name
from .sources import open_recording
from .study import Study
from .subjects import (
    FEATURES,
    SUBJECTS,
    by_subject,
    extract_shared,
    simulate_subjects,
    subject_folders,
    subject_studies,
)
from .table import TABLE, results_table, write_csv
from .work import Work

STUDY = "study.toml"
KINDS = ("encode", "ensemble", "decode", "reconstruct", "align")
# All that a run writes beside the study file, and beside simulated subjects.
MADE = (RESULTS, TABLE, PAGE, SUBJECTS, FEATURES, *KINDS)
FAILURES = "failures"
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
    resolved ``study.toml``. Of several subjects each gets such a folder, under ``subjects``, and the table of them all
    has a column subject.

    Features, models and answers that are there already, from the same study on the same data, are not made again.

    Parameters
    ----------
    overwrite : throw away the results of earlier runs first; other files in the folder stay.
    n_stimuli : only the first so many stimuli of the recording, for a trial.

    Returns
    -------
    Answers by question: encode.<name>, ensemble.<name>, decode.<name>, reconstruct.<name>, align.<name>, each a dict of
    JSON values; of several subjects <subject>.encode.<name> and so on. ``failures``, if there are any: why stimuli were
    left out, by stimulus id (by subject, where there are several).

    Raises
    ------
    InputError : the folder holds another study, or overwriting would delete what the study reads.
    LeakageError : a stimulus, or the same picture under two ids, on both sides of the split.
    Cancelled : `stop` answered True; run again to go on.
    """
    claim(study, overwrite)
    if study.recording.several:
        return _run_subjects(study, n_stimuli, on_event, stop)
    work = Work(study, n_stimuli, on_event, stop)
    asked = questions_of(study)
    answers = {}
    for number, (kind, name) in enumerate(asked):
        report(on_event, stop, "answer questions", number, len(asked))
        answers[f"{kind}.{name}"] = answer_question(work, kind, name)
    results, page = study.out / RESULTS, study.out / PAGE
    failed = {FAILURES: work.failures} if work.failures else {}
    given = {"study": study.name, "seed": study.seed, **answers, **failed}
    write_csv(results_table(study, answers), study.out / TABLE)
    # Results come last, so that a page beside the same ones is up to date.
    if not (page.exists() and results.exists() and json.loads(results.read_text()) == given):
        write_study_page(study.out, study, answers, work.test)
    write_json(results, given)
    for stimulus_id, reason in work.failures.items():
        warnings.warn(f"{study.name}: stimulus {stimulus_id!r} is left out: {reason}", stacklevel=2)
    return {**answers, **failed}


def questions_of(study: Study) -> list[tuple[str, str]]:
    """Kind and name of each question, in an order in which they can be answered."""
    # Ensembles weigh models that are fitted before.
    return [(kind, part.name) for kind in KINDS for part in getattr(study, kind)]


def answer_question(work: Work, kind: str, name: str) -> dict[str, Any]:
    """The answer to one question of a study, which stays in the folder ``kind/name`` and is found there again."""
    part = next(part for part in getattr(work.study, kind) if part.name == name)
    give: Callable[[Work, Any, Path], dict[str, Any]] = {"reconstruct": _reconstruct}.get(kind) or getattr(answer, kind)
    return once(work.study.out / kind / name, work.fingerprint, lambda folder: give(work, part, folder))


def _run_subjects(study: Study, n_stimuli: int | None, on_event: OnEvent | None, stop: Stop | None) -> dict[str, Any]:
    simulate_subjects(study, on_event, stop)
    extract_shared(study, on_event, stop)
    answers: dict[str, Any] = {}
    failures, tables = {}, {}
    for subject, one in subject_studies(study).items():
        found = run(one, n_stimuli=n_stimuli, on_event=on_event, stop=stop)
        if FAILURES in found:
            failures[subject] = found.pop(FAILURES)
        answers |= {f"{subject}.{question}": given for question, given in found.items()}
        tables[subject] = results_table(one, found)
    write_csv(by_subject(tables), study.out / TABLE)
    failed = {FAILURES: failures} if failures else {}
    write_json(study.out / RESULTS, {"study": study.name, "seed": study.seed, **answers, **failed})
    return {**answers, **failed}


def _reconstruct(work: Work, part: Reconstruction, folder: Path) -> dict[str, Any]:
    # diffusers takes seconds to import.
    from .pictures.answers import reconstruct

    return reconstruct(work, part, folder)


def plan_study(study: Study) -> Plan:
    """Cost of `run`, from running the study on a few of its stimuli in a temporary folder.

    Time is taken to grow in proportion to the number of stimuli. For a simulated recording that many are simulated.
    """
    if study.recording.several:
        return _plan_subjects(study)
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


def _plan_subjects(study: Study) -> Plan:
    """As many times the first subject's cost as there are subjects, one after the other."""
    source, n = study.recording, len(subject_folders(study))
    if source.simulate is not None:
        one = source.model_copy(update={"simulate": source.simulate.model_copy(update={"subjects": 1})})
    else:
        one = source.model_copy(update={"path": source.paths[0], "paths": ()})
    first = plan_study(study.model_copy(update={"recording": one}))
    return Plan(n * first.seconds, first.memory, n * first.disk)


def claim(study: Study, overwrite: bool = False) -> None:
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
    source = study.recording
    simulated = subject_folders(study) if source.simulate is not None else ()
    made = [(study.out / name).resolve() for name in {*MADE, subject_name(0), *simulated}]
    read = (source.path, *source.paths, source.stimuli, *(part.path for part in study.features))
    for path in filter(None, read):
        if any(path.resolve().is_relative_to(place) for place in made):
            raise InputError(
                "is read by the study and would be overwritten", where=path, remedy="Let `out` be a folder of its own"
            )
    for place in made:
        remove(place)
