"""Splits into training and test presentations that never put one stimulus on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from .errors import LeakageError, RepetitionError
from .recording import Recording
from .stimuli import Stimuli


@dataclass(frozen=True)
class Split:
    """Row numbers of the training and the test presentations of a recording.

    Attributes
    ----------
    train, test : (n,) int, disjoint, ascending.
    name : what was held out.
    """

    train: np.ndarray
    test: np.ndarray
    name: str = ""

    def apply(self, recording: Recording, stimuli: Stimuli | None = None) -> tuple[Recording, Recording]:
        """The training and the test part of a recording, after `check_split`."""
        check_split(recording, self, stimuli)
        return recording.take(self.train), recording.take(self.test)


def check_split(recording: Recording, split: Split, stimuli: Stimuli | None = None) -> None:
    """Refuse a split that shows the test set to the fit.

    With `stimuli`, content is compared as well, so that one picture under two ids is found.

    Raises
    ------
    LeakageError : names the first stimulus that is on both sides.
    RepetitionError : one side is empty.
    """
    if not len(split.train) or not len(split.test):
        raise RepetitionError(f"split {split.name!r} leaves no presentation on one side")
    ids = recording.stimulus_ids
    train, test = pd.unique(ids[split.train]), pd.unique(ids[split.test])
    both = np.intersect1d(train, test)
    if len(both):
        raise LeakageError(
            f"stimulus {both[0]!r} is in the training and in the test part ({len(both)} in all)",
            where=f"split {split.name!r}" if split.name else None,
            remedy="Split by stimulus (split_by_stimulus), never by presentation",
        )
    if stimuli is not None and stimuli.has_pixels:
        _check_content(stimuli, train, test)


def _check_content(stimuli: Stimuli, train: np.ndarray, test: np.ndarray) -> None:
    hashes = {side: _hashes(stimuli.select(list(ids))) for side, ids in (("train", train), ("test", test))}
    both = hashes["train"].keys() & hashes["test"].keys()
    if both:
        content = min(both)
        raise LeakageError(
            f"stimuli {hashes['train'][content]!r} and {hashes['test'][content]!r} are the same picture, "
            "one in the training and one in the test part",
            remedy="Give them one id, or leave one of them out",
        )


def _hashes(stimuli: Stimuli) -> dict[str, str]:
    return {stimuli.content_hash(i): name for i, name in enumerate(stimuli.ids)}


def split_by_stimulus(recording: Recording, test: float | int = 0.2, seed: int = 0) -> Split:
    """Hold out a fraction (float) or a number (int) of the stimuli, with all their presentations."""
    groups = recording.stimulus_ids
    if len(np.unique(groups)) < 2:
        raise RepetitionError("a split by stimulus needs at least two stimuli")
    splitter = GroupShuffleSplit(1, test_size=test, random_state=seed)
    train, held_out = next(splitter.split(groups, groups=groups))
    return Split(np.sort(train), np.sort(held_out), f"{test} of the stimuli, seed {seed}")


def stimulus_folds(recording: Recording, n_folds: int = 5, seed: int = 0) -> list[Split]:
    """Cross-validation folds in which each stimulus is held out once, with all its presentations."""
    groups = recording.stimulus_ids
    if len(np.unique(groups)) < n_folds:
        raise RepetitionError(f"{len(np.unique(groups))} stimuli are too few for {n_folds} folds")
    folds = GroupKFold(n_folds, shuffle=True, random_state=seed).split(groups, groups=groups)
    return [Split(train, test, f"fold {k} of {n_folds}, seed {seed}") for k, (train, test) in enumerate(folds)]


def leave_one_group_out(recording: Recording, group: str) -> list[Split]:
    """One split a value of a presentation coordinate (session, run, category, ...), which it holds out."""
    labels = recording.presentation(group)
    if len(pd.unique(labels)) < 2:
        raise RepetitionError(f"coordinate {group!r} has a single value; nothing can be left out")
    return [split_by_value(recording, group, [value]) for value in pd.unique(labels)]


def split_by_value(recording: Recording, group: str, held_out: Sequence[Any]) -> Split:
    """Hold out the presentations whose coordinate (session, run, split, ...) has one of the given values."""
    test = np.isin(recording.presentation(group), list(held_out))
    named = ", ".join(str(v) for v in held_out)
    return Split(np.flatnonzero(~test), np.flatnonzero(test), f"{group} {named}")
