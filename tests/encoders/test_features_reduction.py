"""Reductions: what they keep, that they work in chunks, and that new stimuli get the same map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection

from encoders.features import FeatureExtractor, Features, Reduction, extract
from encoders.features.reduction import fit_pca, random_projection
from recordings import Stimuli
from recordings.errors import ArtifactError, Cancelled, InputError, ShapeError, UnknownNameError


@pytest.fixture
def features(rng: np.random.Generator) -> Features:
    """Ten directions of falling variance in forty features, off the origin."""
    latent = rng.standard_normal((300, 10)) * np.geomspace(10, 1, 10)
    values = latent @ np.linalg.qr(rng.standard_normal((40, 10)))[0].T + rng.standard_normal(40) * 5
    return Features.from_arrays(values + 0.01 * rng.standard_normal(values.shape), [str(i) for i in range(300)])


@pytest.fixture
def stimuli(rng: np.random.Generator) -> Stimuli:
    return Stimuli.from_arrays(rng.integers(0, 255, (30, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pixels() -> FeatureExtractor:
    return FeatureExtractor.from_uri("baseline:pixels", device="cpu")


@pytest.mark.parametrize("chunk", [64, 300])
def test_pca_in_chunks_finds_the_planted_directions(features: Features, chunk: int) -> None:
    reduction = fit_pca(features, 10, chunk=chunk)
    peer = PCA(10, svd_solver="full").fit(features.read())
    overlap = np.abs((reduction.components @ peer.components_.T).diagonal())
    assert overlap.min() > 0.99
    np.testing.assert_allclose(reduction.explained_variance_ratio, peer.explained_variance_ratio_, rtol=0.02)
    reduced = reduction.transform(features.read())
    back = reduced @ reduction.components + reduction.mean
    assert np.abs(back - features.read()).max() < 0.2


def test_random_projection_keeps_distances_and_is_that_of_sklearn(rng: np.random.Generator) -> None:
    values = rng.standard_normal((30, 20_000)).astype(np.float32)
    values[15:] += 1
    reduction = random_projection(20_000, 2_000)
    reduced = reduction.transform(values)
    ratio = pdist(reduced) / pdist(values)
    assert abs(ratio.mean() - 1) < 0.03 and ratio.std() < 0.05
    peer = SparseRandomProjection(n_components=2_000, random_state=0).fit(np.zeros((1, 20_000)))
    np.testing.assert_allclose(reduced, peer.transform(values), rtol=1e-3, atol=1e-3)


def test_reductions_are_saved_and_refuse_other_features(features: Features, tmp_path: Path) -> None:
    for reduction in (fit_pca(features, 3), random_projection(40, 7)):
        reduction.save_pretrained(tmp_path / reduction.name)
        loaded = Reduction.from_pretrained(tmp_path / reduction.name)
        np.testing.assert_array_equal(loaded.transform(features.read()), reduction.transform(features.read()))
        assert loaded.fingerprint() == reduction.fingerprint()
        with pytest.raises(ShapeError, match="41 features"):
            loaded.transform(np.zeros((2, 41), np.float32))


def test_last_axis_is_reduced(features: Features) -> None:
    reduction = fit_pca(features, 3)
    tokens = features.read().reshape(30, 10, 40)
    np.testing.assert_allclose(
        reduction.transform(tokens).reshape(300, 3), reduction.transform(features.read()), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["srp:20", "pca:8"])
def test_new_stimuli_get_the_same_map(pixels: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f.zarr"
    first = extract(pixels, stimuli.take(slice(0, 20)), path, reduction=kind, batch_size=8)["output"]
    reduction = Reduction.from_pretrained(path / "reductions" / "output")
    assert reduction.name == kind and first.attrs["reduction"] == reduction.fingerprint()
    full = extract(pixels, stimuli, tmp_path / "full.zarr")["output"].read()
    np.testing.assert_allclose(first.read(), reduction.transform(full[:20]), atol=1e-4)
    later = extract(pixels, stimuli, path, reduction=kind, batch_size=8)["output"]
    np.testing.assert_allclose(later.read(), reduction.transform(full), atol=1e-4)
    assert later.fingerprint() == first.fingerprint()
    # A fitted map can be taken to another store.
    taken = extract(pixels, stimuli, tmp_path / "g.zarr", reduction=reduction)["output"]
    np.testing.assert_allclose(taken.read(), later.read(), atol=1e-4)
    assert [f.name for f in path.iterdir() if f.name.startswith(".")] == []


@pytest.mark.parametrize("after", [2, 5, 6])
def test_interrupted_pca_resumes_bit_for_bit(
    pixels: FeatureExtractor, stimuli: Stimuli, tmp_path: Path, after: int
) -> None:
    # Four batches unreduced, one fit, then four batches reduced.
    whole = extract(pixels, stimuli, tmp_path / "whole.zarr", reduction="pca:8", batch_size=8)["output"]
    calls = iter(range(after + 1))
    with pytest.raises(Cancelled):
        extract(
            pixels, stimuli, tmp_path / "f.zarr", reduction="pca:8", batch_size=8, stop=lambda: next(calls) == after
        )
    assert not (tmp_path / "f.zarr").exists()
    resumed = extract(pixels, stimuli, tmp_path / "f.zarr", reduction="pca:8", batch_size=8)["output"]
    np.testing.assert_array_equal(resumed.read(), whole.read())


def test_layers_with_few_features_stay(pixels: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    features = extract(pixels, stimuli, tmp_path / "f.zarr", reduction="srp:5000")["output"]
    assert features.shape == (30, 3072) and features.attrs["reduction"] is None
    again = extract(pixels, stimuli, tmp_path / "f.zarr", reduction="srp:5000")["output"]
    np.testing.assert_array_equal(again.read(), features.read())


def test_wrong_requests_are_refused(pixels: FeatureExtractor, stimuli: Stimuli, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="srp:4096"):
        extract(pixels, stimuli, tmp_path / "f.zarr", reduction="umap:2")
    with pytest.raises(InputError, match="components"):
        extract(pixels, stimuli, tmp_path / "f.zarr", reduction="pca:31")
    assert not (tmp_path / "f.zarr").exists()
    extract(pixels, stimuli, tmp_path / "f.zarr", reduction="srp:20")
    with pytest.raises(ArtifactError, match="reduction"):
        extract(pixels, stimuli, tmp_path / "f.zarr", reduction="srp:21")
