"""Targets in chunks: the same numbers, read and written by storage chunks, with bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from encoders.solvers import banded_ridge_cv, ridge_cv
from recordings.errors import Cancelled, NotFiniteError

ALPHAS = np.logspace(-2, 6, 9)
pytestmark = pytest.mark.filterwarnings("ignore::encoders.solvers.AlphaEdgeWarning")


class Watched:
    """A matrix that notes which columns are read from or written to it."""

    def __init__(self, values: np.ndarray, chunks: tuple[int, int] | None = None) -> None:
        self.values, self.chunks = values, chunks
        self.shape, self.dtype = values.shape, values.dtype
        self.touched: list[tuple[int, int]] = []

    def _note(self, key: tuple[slice, slice]) -> None:
        rows, columns = key
        assert rows == slice(None)
        self.touched.append((columns.start, columns.stop))

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        self._note(key)
        return self.values[key]

    def __setitem__(self, key: tuple[slice, slice], value: np.ndarray) -> None:
        self._note(key)
        self.values[key] = value


@pytest.fixture
def problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    X = rng.standard_normal((80, 20), dtype=np.float32)
    Y = X @ rng.standard_normal((20, 50), dtype=np.float32) + 3 * rng.standard_normal((80, 50), dtype=np.float32) + 1
    return X, Y


@pytest.mark.parametrize("solver", ["primal", "kernel"])
@pytest.mark.parametrize("scoring", ["r2", "r"])
def test_chunks_equal_the_whole(problem: tuple[np.ndarray, np.ndarray], solver: str, scoring: str) -> None:
    X, Y = problem
    whole = ridge_cv(X, Y, ALPHAS, 4, solver=solver, scoring=scoring)
    parts = ridge_cv(X, Y, ALPHAS, 4, solver=solver, scoring=scoring, targets_chunk=7)
    np.testing.assert_array_equal(parts.alphas, whole.alphas)
    for name in ("weights", "intercept", "cv_scores"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_zarr_in_and_out(problem: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    X, Y = problem
    features, responses = (
        zarr.create_array(tmp_path / name, data=values, chunks=(32, 16)) for name, values in (("X", X), ("Y", Y))
    )
    for solver, height in (("primal", 20), ("kernel", 80)):
        out = zarr.create_array(tmp_path / solver, shape=(height, 50), chunks=(height, 16), dtype="float32")
        fit = ridge_cv(features, responses, ALPHAS, 4, solver=solver, out=out, targets_chunk=16)
        plain = ridge_cv(X, Y, ALPHAS, 4, solver=solver)
        assert fit.weights is out
        np.testing.assert_allclose(out[:], plain.weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(fit.alphas, plain.alphas)


def test_lazy_responses_are_read_once_in_chunks(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = problem
    source, sink = Watched(Y), Watched(np.zeros((20, 50), np.float32))
    fit = ridge_cv(X, source, ALPHAS, 4, out=sink, targets_chunk=20)
    assert source.touched == sink.touched == [(0, 20), (20, 40), (40, 50)]
    np.testing.assert_allclose(sink.values, ridge_cv(X, Y, ALPHAS, 4).weights, rtol=1e-5, atol=1e-6)
    assert fit.cv_scores.mean() > 0.3


def test_a_stored_chunk_is_read_once_however_small_the_working_chunk(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = problem
    source = Watched(Y, chunks=(80, 24))
    fit = ridge_cv(X, source, ALPHAS, 4, targets_chunk=10)
    assert source.touched == [(0, 24), (24, 48), (48, 50)]
    np.testing.assert_allclose(fit.weights, ridge_cv(X, Y, ALPHAS, 4).weights, rtol=1e-5, atol=1e-6)


def test_the_working_chunk_is_a_multiple_of_the_sinks(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, _ = problem
    Y = np.tile(problem[1], 600)
    sink = Watched(np.zeros((20, Y.shape[1]), np.float32), chunks=(20, 1000))
    ridge_cv(X, Y, ALPHAS, 4, out=sink)
    assert len(sink.touched) > 1
    assert all(start % 1000 == 0 for start, _ in sink.touched)


def test_sources_are_not_changed(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = problem
    before = X.copy(), Y.copy()
    ridge_cv(X, Y, ALPHAS, 4)
    ridge_cv(X, Y, ALPHAS, 4, solver="kernel")
    banded_ridge_cv([X[:, :5], X[:, 5:]], Y, ALPHAS, 4, gammas=4)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(Y, before[1])


def test_a_late_bad_chunk_stops_the_fit(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = problem
    Y[5, 48] = np.nan
    sink = Watched(np.zeros((20, 50), np.float32))
    with pytest.raises(NotFiniteError, match="target 48"):
        ridge_cv(X, Y, ALPHAS, 4, out=sink, targets_chunk=10)
    assert sink.touched[-1] == (30, 40)


def test_stop_between_chunks(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, Y = problem
    sink = Watched(np.zeros((20, 50), np.float32))
    with pytest.raises(Cancelled):
        ridge_cv(X, Y, ALPHAS, 4, out=sink, targets_chunk=10, stop=lambda: len(sink.touched) == 2)
    assert len(sink.touched) == 2
