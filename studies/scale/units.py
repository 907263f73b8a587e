"""What one worker does at a time: a shard of a model's features, one question to one subject, or a subject's report.

A unit travels as JSON beside its study, writes what it makes to the study's folder, and finds there what an earlier
attempt has finished. It is done when its results are on disk: nothing else comes back from a worker, unless it failed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

from recordings.errors import PenfieldError

from ..run import answer_question, run
from ..study import Study
from ..work import Work
from .shards import extract_shard


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes
    ----------
    study : its study, as JSON.
    kind : "shard", "question", or "results" for a subject's table and page, when all its questions are answered.
    part, name : kind and name of the question; of a shard "features" and their name.
    start, stop : the stimuli of a shard, from `start` to before `stop`.
    """

    study: str
    kind: Literal["shard", "question", "results"]
    part: str = ""
    name: str = ""
    start: int = 0
    stop: int = 0

    def __str__(self) -> str:
        where = json.loads(self.study)["name"]
        what = "results" if self.kind == "results" else f"{self.part}.{self.name}"
        return f"{where} {what}[{self.start}:{self.stop}]" if self.kind == "shard" else f"{where} {what}"

    def to_json(self) -> str:
        """As text that `perform` takes."""
        return json.dumps(asdict(self))


# How often a unit is begun, at most: what has killed three workers kills a fourth.
ATTEMPTS = 3


@dataclass(frozen=True)
class Failure:
    """Why a unit has not come out, after how many attempts; an error of the data is not tried again."""

    unit: str
    error: str
    attempts: int = 1


def perform_all(units: Sequence[str]) -> list[str | None]:
    """`perform`, one unit after the other."""
    return [perform(unit) for unit in units]


def perform(unit: str) -> str | None:
    """Do what a unit says; the error if the data forbid it, and None if it is done."""
    asked = Unit(**json.loads(unit))
    study = Study.model_validate_json(asked.study)
    try:
        if asked.kind == "shard":
            extract_shard(study, asked.name, asked.start, asked.stop)
        elif asked.kind == "results":
            run(study)
        else:
            answer_question(_work(asked.study), asked.part, asked.name)
    except PenfieldError as error:
        return str(error)
    return None


# Questions of one subject often come to one worker after one another; memory holds the data of one.
@lru_cache(maxsize=1)
def _work(study: str) -> Work:
    return Work(Study.model_validate_json(study), None, None, None)
