"""RDMs agree with scipy, do not depend on blocks, and refuse what has no distance."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from alignment import category_rdm, rdm
from encoders import Features
from recordings import Recording
from recordings.errors import (
    Cancelled,
    ConstantUnitError,
    DuplicateIdError,
    MismatchedIdsError,
    NotFiniteError,
    RepetitionError,
    UnknownNameError,
)

METRICS = ("correlation", "cosine", "sqeuclidean")


@pytest.mark.parametrize("metric", METRICS)
def test_agrees_with_scipy(rng: np.random.Generator, metric: str) -> None:
    values = rng.normal(100, 1, (13, 4, 5))
    assert np.allclose(rdm(values, metric), pdist(values.reshape(13, -1), metric), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_blocks_do_not_change_it(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, metric: str, rows: int
) -> None:
    values = rng.normal(size=(10, 6))
    whole = rdm(values, metric)
    monkeypatch.setattr(import_module("alignment.rdm"), "_BLOCK_BYTES", rows * 8 * 6)
    assert np.allclose(rdm(values, metric), whole, atol=1e-6)


def test_reads_features_by_id(rng: np.random.Generator) -> None:
    values = rng.normal(size=(6, 9)).astype(np.float32)
    features = Features.from_arrays(values, list("abcdef"))
    assert np.allclose(rdm(features, stimulus_ids=["e", "b", "a"]), pdist(values[[4, 1, 0]], "correlation"), atol=1e-6)
    with pytest.raises(MismatchedIdsError, match="'x'"):
        rdm(features, stimulus_ids=["a", "b", "x"])


def test_recording_must_be_averaged(rng: np.random.Generator) -> None:
    recording = Recording(rng.normal(size=(8, 5)), {"stimulus_id": list("abcd") * 2})
    with pytest.raises(DuplicateIdError, match="Average repetitions"):
        rdm(recording)
    average = recording.average_repetitions()
    assert np.allclose(rdm(average), pdist(average.values, "correlation"), atol=1e-6)


def test_constant_row_is_named(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 4))
    values[3] = 7.1
    features = Features.from_arrays(values, list("abcde"))
    with pytest.raises(ConstantUnitError, match="'d'"):
        rdm(features)
    assert np.isfinite(rdm(features, "cosine")).all()
    with pytest.raises(ConstantUnitError, match="'2'"):
        rdm(np.array([[1.0, 2], [3, 4], [0, 0]]), "cosine")


def test_bad_input(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 4))
    with pytest.raises(UnknownNameError, match="correlation"):
        rdm(values, "hamming")
    with pytest.raises(RepetitionError):
        rdm(values[:2])
    values[1, 2] = np.nan
    with pytest.raises(NotFiniteError, match="'1'"):
        rdm(values)


def test_can_be_stopped(rng: np.random.Generator) -> None:
    with pytest.raises(Cancelled):
        rdm(rng.normal(size=(5, 4)), stop=lambda: True)


def test_category_rdm() -> None:
    assert category_rdm(["x", "y", "x"]).tolist() == [1, 0, 1]
    for labels in (["x", "x", "x"], ["x", "y", "z"]):
        with pytest.raises(ConstantUnitError):
            category_rdm(labels)
