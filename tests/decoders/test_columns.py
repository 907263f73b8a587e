"""Targets in a temporary file: the same numbers as in memory, read by rows or by columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decoders import LatentDecoder, columns
from decoders.columns import Panels, Rows, column_blocks, moments, read_targets
from decoders.components import fit_components, gram_matrix
from encoders import Features
from recordings.errors import InputError, MismatchedIdsError, NotFiniteError

from .conftest import World


@pytest.mark.parametrize("width", [5, 1024, 2500])
def test_panels_are_a_matrix(width: int, rng: np.random.Generator) -> None:
    values = rng.normal(size=(7, width)).astype(np.float32)
    panels = Panels(*values.shape)
    panels[:4, :] = values[:4]
    for block in column_blocks(panels):
        panels[slice(4, 7), block] = values[4:, block]
    assert np.array_equal(panels[:, :], values)
    middle = slice(width // 3, width - 1)
    assert np.array_equal(panels[slice(2, 5), middle], values[2:5, middle])
    panels[slice(1, 3), middle] = values[3:5, middle]
    values[1:3, middle] = values[3:5, middle]
    assert np.array_equal(panels[:, :], values)
    picked = Rows(panels, np.array([3, 0]))
    assert picked.shape == (2, width) and np.array_equal(picked[:, middle], values[[3, 0], middle])


def test_targets_are_matched_by_id(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(6, 2, 3)).astype(np.float32)
    ids = [f"s{i}" for i in range(6)]
    stored = Features.from_arrays(values, ids, layer="a").save(tmp_path / "store")
    targets, order = read_targets(stored, ["s4", "s1"])
    assert order == ["s1", "s4"] and np.array_equal(targets[:, :], values[[1, 4]].reshape(2, 6))
    with pytest.raises(MismatchedIdsError, match="s9"):
        read_targets(stored, ["s9"])
    values[4, 0, 0] = np.nan
    with pytest.raises(NotFiniteError, match="'s4'"):
        read_targets(Features(values, ids, {}), ids)


def test_moments_by_blocks(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(columns, "_BLOCK_BYTES", 1)
    values = (rng.normal(size=(9, 2100)) * 3 + 5).astype(np.float32)
    values[:, 7] = 2
    mean, scale = moments(values)
    assert len(list(column_blocks(values))) == 3
    assert np.allclose(mean, values.mean(0), atol=1e-5) and scale[7] == 1
    assert np.allclose(np.delete(scale, 7), np.delete(values.std(0), 7), rtol=1e-5)


def test_components_are_those_of_sklearn(rng: np.random.Generator) -> None:
    from sklearn.decomposition import PCA

    values = (rng.normal(size=(40, 12)) @ rng.normal(size=(12, 300)) + 4).astype(np.float32)
    peer = PCA(5, svd_solver="full").fit(values)
    found, scores = fit_components(values, gram_matrix(values, np.zeros(300, np.float32)), 5)
    assert np.allclose(found.explained_variance_ratio, peer.explained_variance_ratio_, rtol=1e-3)
    assert np.allclose(np.abs((found.basis * peer.components_).sum(1)), 1, atol=1e-4)
    assert np.allclose(found.scores(values), scores, atol=2e-2)
    assert np.allclose(scores @ found.basis + found.mean, peer.inverse_transform(peer.transform(values)), atol=2e-2)
    everything, _ = fit_components(values, gram_matrix(values, values.mean(0)), 39)
    assert len(everything.basis) == 12 and np.isclose(everything.explained_variance_ratio.sum(), 1, atol=1e-5)
    with pytest.raises(InputError, match="do not vary"):
        fit_components(np.ones((5, 9), np.float32), np.zeros((5, 5)), 2)
    with pytest.raises(InputError, match="0 components"):
        fit_components(values, gram_matrix(values, values.mean(0)), 0)


@pytest.mark.filterwarnings("ignore:.*alpha")
@pytest.mark.parametrize("components", [None, 3])
def test_fit_from_a_file_equals_fit_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch, components: int | None
) -> None:
    train = world.train.take(neuroid=slice(0, 30)).average_repetitions()
    how = {"components": components, "reliability": None, "rescale": True, "cv": 3, "calibration_folds": 3}
    in_memory = LatentDecoder([10.0, 100.0], **how).fit(train, world.features)
    held_out = in_memory.cross_predict(train, world.features, 2)
    monkeypatch.setattr(columns, "MEMORY_BYTES", 0)
    from_file = LatentDecoder([10.0, 100.0], **how).fit(train, world.features)
    test = world.test.take(neuroid=slice(0, 30))
    assert np.allclose(from_file.predict(test), in_memory.predict(test), atol=1e-5)
    assert from_file.temperature_ == pytest.approx(in_memory.temperature_, rel=1e-4)
    assert from_file.cv_accuracy_ == in_memory.cv_accuracy_
    assert np.allclose(from_file.cross_predict(train, world.features, 2), held_out, atol=1e-5)
