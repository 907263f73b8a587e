"""What attention maps say: planted centres, content, focus on objects; and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from encoders.attention.gaussian import fit_gaussians
from encoders.attention.maps import AttentionMaps, overlay
from encoders.attention.position import token_centres
from recordings.errors import RepetitionError, ShapeError, UnknownNameError


def bump(x: float, y: float, sigma: float, side: int) -> np.ndarray:
    """A round Gaussian on a grid, (side, side), summing to 1."""
    square = ((token_centres((side, side)) - [x, y]) ** 2).sum(1)
    found = np.exp(-0.5 * square / sigma**2).reshape(side, side)
    return found / found.sum()


def maps_of(weights: np.ndarray, queries: int | None = None, **fields: bool) -> AttentionMaps:
    """Maps (n, query, ...) with made-up names."""
    names = tuple(f"q{k}" for k in range(weights.shape[1]))
    return AttentionMaps(weights.astype(np.float32), [f"s{i}" for i in range(len(weights))], names, **fields)


# Centre and spread -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 31])
def test_planted_centres_and_sizes_are_found_on_a_floor_also_at_the_border(side: int, rng: np.random.Generator) -> None:
    truth = [(0.0, 0.0, 0.3), (-0.95, 0.4, 0.2), (0.95, -0.95, 0.5), (0.3, 0.99, 0.15), (-0.5, -0.2, 0.6)]
    maps = np.stack([0.2 * bump(*t, side) + 0.8 / side**2 for t in truth])
    noisy = maps * (1 + 0.05 * rng.standard_normal(maps.shape))
    clean = maps_of(maps[None]).centre_and_spread()
    np.testing.assert_allclose(clean[["x", "y", "sigma"]], truth, atol=0.01)
    np.testing.assert_allclose(clean["floor"], 0.8, atol=0.01)
    found = fit_gaussians(noisy / noisy.sum((1, 2), keepdims=True))
    distance = np.hypot(found["x"] - [t[0] for t in truth], found["y"] - [t[1] for t in truth])
    assert distance.max() < 0.5 * 2 / side
    assert list(clean.index) == ["q0", "q1", "q2", "q3", "q4"]


def test_a_second_bump_does_not_move_the_centre_and_moments_would(rng: np.random.Generator) -> None:
    maps = (0.6 * bump(-0.5, 0.4, 0.2, 16) + 0.25 * bump(0.6, -0.5, 0.15, 16) + 0.15 / 256)[None, None]
    fitted, moments = maps_of(maps).centre_and_spread(), maps_of(maps).centre_and_spread(baseline=None)
    patch = 2 / 16
    assert math.hypot(fitted["x"].iloc[0] + 0.5, fitted["y"].iloc[0] - 0.4) < 0.1 * patch
    assert fitted["sigma"].iloc[0] == pytest.approx(0.2, rel=0.1)
    assert math.hypot(moments["x"].iloc[0] + 0.5, moments["y"].iloc[0] - 0.4) > patch


def test_moments_are_those_of_the_map() -> None:
    table = maps_of(bump(0.1, -0.2, 0.15, 31)[None, None]).centre_and_spread(baseline=None)
    np.testing.assert_allclose(table.iloc[0][["x", "y", "sigma"]], [0.1, -0.2, 0.15], atol=1e-3)


def test_a_flat_map_has_no_centre() -> None:
    table = maps_of(np.full((3, 1, 8, 8), 1 / 64)).centre_and_spread()
    assert table[["x", "y", "sigma"]].isna().all(axis=None)
    assert table["floor"].iloc[0] == 1


def test_heads_are_averaged_and_frames_added_up_in_space() -> None:
    weights = np.stack([bump(0.5, 0.5, 0.2, 8), bump(0.5, 0.5, 0.4, 8)])[None, None]
    heads, frames = maps_of(weights, per_head=True), maps_of(weights / 2)
    np.testing.assert_allclose(heads.in_space, frames.in_space, atol=1e-7)
    assert (heads.grid, frames.grid) == ((8, 8), (2, 8, 8))
    assert heads.entropy().shape == (1, 1, 2)
    assert frames.entropy().shape == (1, 1)


def test_peaks_have_cells_and_places() -> None:
    cells, places = maps_of(np.stack([bump(0.375, 0.625, 0.1, 8), bump(-0.9, -0.9, 0.1, 8)])[None]).peak()
    # Rows run downwards, y upwards.
    np.testing.assert_array_equal(cells[0], [[1, 5], [7, 0]])
    np.testing.assert_allclose(places[0, 1], [-0.875, -0.875])
    assert places.shape == (1, 2, 2)


# Content ---------------------------------------------------------------------------------------------------------


def test_content_index_tells_static_maps_from_maps_that_follow(rng: np.random.Generator) -> None:
    static = np.repeat(bump(0.2, 0.1, 0.3, 8)[None], 60, 0)
    # Every place once, so that the mean map is even.
    moving = np.eye(64).reshape(64, 8, 8)[:60]
    half = 0.5 * static + 0.5 * moving
    index = maps_of(np.stack([static, moving, half], 1)).content_index()
    assert index[0] == pytest.approx(0, abs=1e-6)
    assert index[1] > 0.99
    within = 0.25 * (moving - moving.mean(0)).var(0, ddof=1).sum()
    between = 0.25 * (static[0] - 1 / 64).var() * 64
    assert index[2] == pytest.approx(within / (within + between), rel=0.1)


def test_content_index_does_not_depend_on_the_number_of_pictures(rng: np.random.Generator) -> None:
    def index(n: int) -> float:
        weights = bump(0, 0, 0.5, 8) + 0.02 * rng.random((n, 300, 8, 8))
        return float(np.mean(maps_of(weights / weights.sum((2, 3), keepdims=True)).content_index()))

    assert index(4) == pytest.approx(index(80), rel=0.05)


def test_content_index_of_uniform_attention_is_undefined() -> None:
    assert np.isnan(maps_of(np.full((3, 1, 31, 31), 1 / 961)).content_index()).all()
    with pytest.raises(RepetitionError, match="2 are needed"):
        maps_of(np.full((1, 1, 8, 8), 1 / 64)).content_index()


def test_entropy_runs_from_nothing_to_the_log_of_the_tokens() -> None:
    maps = maps_of(np.stack([np.eye(16)[3].reshape(4, 4), np.full((4, 4), 1 / 16)])[None])
    np.testing.assert_allclose(maps.entropy(), [[0, math.log(16)]], atol=1e-6)
    np.testing.assert_allclose(maps.entropy(relative=True), [[0, 1]], atol=1e-6)


# Categories and objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", ["entropy", "peak"])
def test_selectivity_finds_the_planted_category_and_none_in_other_queries(
    measure: str, rng: np.random.Generator
) -> None:
    labels = np.repeat(["car", "mug", "tree"], 40)
    focused = np.where(labels == "car", 0.15, 0.5)[:, None] + 0.05 * rng.random((120, 2))
    focused[:, 1] = rng.permutation(focused[:, 1])
    weights = np.stack([[bump(*rng.uniform(-0.3, 0.3, 2), s, 8) for s in row] for row in focused])
    table = maps_of(weights).selectivity(labels, measure=measure).set_index(["query", "category"])  # type: ignore[arg-type]
    assert table.loc[("q0", "car"), "auc"] == 1
    assert table.loc[("q0", "car"), "d_prime"] > 3
    assert table.loc[("q0", "mug"), "auc"] < 0.5
    assert table.loc["q1", "auc"].between(0.3, 0.7).all()
    assert table.loc[("q1", "car"), "p"] > 0.01 > table.loc[("q0", "car"), "p"]
    assert table.loc[("q0", "car"), ["n_with", "n_without"]].tolist() == [40, 80]


def test_selectivity_is_the_area_under_the_curve(rng: np.random.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    weights = rng.dirichlet(np.ones(16), (30, 1)).reshape(30, 1, 4, 4)
    labels, maps = np.where(rng.random(30) < 0.5, "a", "b"), maps_of(weights)
    auc = maps.selectivity(labels).set_index("category")["auc"]
    assert auc["a"] == pytest.approx(roc_auc_score(labels == "a", -maps.entropy()[:, 0]))
    assert auc["a"] + auc["b"] == pytest.approx(1)


def test_selectivity_tells_heads_apart_that_their_mean_hides(rng: np.random.Generator) -> None:
    labels = np.repeat(["car", "mug"], 20)
    sizes = np.where(labels == "car", 0.2, 0.4)
    weights = np.stack([[[bump(0, 0, s, 8), bump(0, 0, 0.6 - s, 8)]] for s in sizes])
    weights *= 1 + 0.01 * rng.random(weights.shape)
    weights /= weights.sum((-2, -1), keepdims=True)
    table = maps_of(weights, per_head=True).selectivity(labels).set_index(["query", "head", "category"])
    assert table.loc[("q0", 0, "car"), "auc"] == 1
    assert table.loc[("q0", 1, "car"), "auc"] == 0
    mean = maps_of(weights.mean(2)).selectivity(labels).set_index("category")
    assert 0.1 < mean.loc["car", "auc"] < 0.9


def test_selectivity_refuses_what_has_no_contrast() -> None:
    maps = maps_of(np.full((4, 1, 4, 4), 1 / 16))
    with pytest.raises(RepetitionError, match="0 without"):
        maps.selectivity(["a"] * 4)
    with pytest.raises(ShapeError, match="3 labels"):
        maps.selectivity(["a", "b", "b"])
    with pytest.raises(UnknownNameError, match="spread"):
        maps.selectivity(["a", "a", "b", "b"], measure="spread")  # type: ignore[arg-type]


def test_attention_on_an_object_against_its_area(rng: np.random.Generator) -> None:
    masks = np.zeros((3, 64, 64), bool)
    masks[0, :16, :16] = masks[1, 40:64, 48:64] = True
    on = np.stack([bump(-0.75, 0.75, 0.1, 8), bump(0.75, -0.6, 0.1, 8), bump(0, 0, 0.1, 8)])
    maps = maps_of(np.stack([on, np.full((3, 8, 8), 1 / 64)], 1))
    mass, area = maps.mass_on(masks)
    np.testing.assert_allclose(area, [1 / 16, 24 * 16 / 64**2, 0])
    assert (mass[:2, 0] > 0.85).all()
    np.testing.assert_allclose(mass[:, 1], area, atol=1e-6)
    hit, chance = maps.peak_on(masks)
    # The third picture has no object and does not count; a flat map has its first cell as peak.
    np.testing.assert_array_equal(hit, [1, 0.5])
    assert chance == pytest.approx((4 + 6) / 2 / 64)
    with pytest.raises(RepetitionError, match="all masks are empty"):
        maps.peak_on(np.zeros((3, 64, 64)))
    with pytest.raises(ShapeError, match="for 3 pictures"):
        maps.mass_on(masks[:2])


def test_a_place_that_is_covered_in_part_counts_in_part() -> None:
    masks = np.zeros((1, 62, 62))
    masks[0, :, :31] = 1
    mass, area = maps_of(np.full((1, 1, 31, 31), 1 / 961)).mass_on(masks)
    assert mass[0, 0] == pytest.approx(0.5, abs=1e-6)
    assert area[0] == pytest.approx(0.5)


# On the picture, and choosing ------------------------------------------------------------------------------------


def test_upsampled_maps_keep_their_place_and_sum() -> None:
    found = maps_of(bump(0.5, 0.5, 0.2, 8)[None, None]).upsampled((64, 48))
    assert found.shape == (1, 1, 64, 48)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert abs(np.array(np.unravel_index(found[0, 0].argmax(), (64, 48))) - [16, 36]).max() <= 4


def test_overlay_paints_the_peak_and_leaves_the_rest() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    painted = overlay(image, np.where(bump(0.5, 0.5, 0.1, 8) > 0.01, bump(0.5, 0.5, 0.1, 8), 0))
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted[40:, :24], image[40:, :24])
    assert abs(painted[16, 48].astype(int) - 200).max() > 20
    np.testing.assert_array_equal(overlay(image, np.zeros((8, 8))), image)
    with pytest.raises(ShapeError):
        overlay(image[..., 0], np.zeros((8, 8)))


def test_selecting_by_name() -> None:
    maps = maps_of(np.random.default_rng(0).dirichlet(np.ones(16), (5, 3)).reshape(5, 3, 4, 4))
    chosen = maps.select(["s3", "s1"], ["q2"])
    np.testing.assert_array_equal(chosen.weights, maps.weights[[3, 1]][:, [2]])
    assert (list(chosen.stimulus_ids), chosen.queries) == (["s3", "s1"], ("q2",))
    with pytest.raises(UnknownNameError, match="q9"):
        maps.select(queries=["q1", "q9"])


def test_weights_must_fit_names() -> None:
    with pytest.raises(ShapeError, match="3 stimuli"):
        AttentionMaps(np.zeros((2, 1, 4, 4), np.float32), ["a", "b", "c"], ("q",))
    with pytest.raises(ShapeError):
        AttentionMaps(np.zeros((1, 1, 4, 4), np.float32), ["a"], ("q",), per_head=True)
