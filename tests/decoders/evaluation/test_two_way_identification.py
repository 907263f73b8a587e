"""Two-way identification: both directions, ties, pictures without a value, categories and the null."""

from __future__ import annotations

import numpy as np
import pytest

from decoders.evaluation import Resampling, two_way
from recordings.errors import RepetitionError, ShapeError, UnknownNameError

QUICK = Resampling(n_permutations=50, n_bootstrap=50)
DIRECTIONS = ("reconstruction_fixed", "original_fixed")
# Original i, reconstruction j.
ASYMMETRIC = np.array([[0.5, 0.6, 0.7], [0.1, 0.3, 0.2], [0.0, 0.1, 0.4]])


def test_directions_differ_on_an_asymmetric_matrix() -> None:
    by_reconstruction = two_way(ASYMMETRIC, "reconstruction_fixed", resampling=QUICK)
    by_original = two_way(ASYMMETRIC, "original_fixed", resampling=QUICK)
    assert by_reconstruction.values.tolist() == [1, 0.5, 0.5]
    assert by_original.values.tolist() == [0, 1, 1]
    assert by_reconstruction.value == pytest.approx(4 / 6) == by_original.value
    assert by_reconstruction.chance == 0.5 and by_reconstruction.n_tied == by_reconstruction.n_undefined == 0


def test_agrees_with_the_published_loop(rng: np.random.Generator) -> None:
    shown, made = rng.normal(size=(9, 40)), rng.normal(size=(9, 40))
    made += 0.3 * shown
    c = np.corrcoef(shown, made)[:9, 9:]
    fixed = np.mean([(c[:, j] < c[j, j]).sum() / 8 for j in range(9)])
    assert two_way(c, "reconstruction_fixed", resampling=QUICK).value == pytest.approx(fixed)
    assert two_way(c, "original_fixed", resampling=QUICK).value == pytest.approx(
        np.mean([(c[i] < c[i, i]).sum() / 8 for i in range(9)])
    )


def test_perfect_and_shifted() -> None:
    assert two_way(np.eye(5), resampling=QUICK).value == 1
    shifted = two_way(np.roll(np.eye(5), 1, axis=1) + 0.1 * np.arange(5)[:, None], resampling=QUICK)
    assert shifted.value < 0.5


def test_ties_fail_and_are_counted() -> None:
    c = np.array([[0.5, 0.1, 0.0], [0.5, 0.4, 0.0], [0.2, 0.4 + 1e-9, 0.3]])
    found = two_way(c, resampling=QUICK)
    assert found.values.tolist() == [0.5, 0.5, 1] and found.n_tied == 2


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nothing_but_ties_is_undefined(direction: str) -> None:
    found = two_way(np.ones((4, 4)), direction, resampling=QUICK)
    assert np.isnan(found.value) and found.n_undefined == 4
    assert found.null is None and found.interval is None
    assert "value" not in found.to_dict() and "shuffled" not in found.to_dict()


def test_one_picture_for_all_is_undefined_where_it_is_the_only_choice(rng: np.random.Generator) -> None:
    c = np.repeat(rng.normal(size=(6, 1)), 6, axis=1)
    assert two_way(c, "original_fixed", resampling=QUICK).n_undefined == 6
    assert two_way(c, "reconstruction_fixed", resampling=QUICK).value == pytest.approx(0.5)


def test_undefined_pictures_are_left_out_and_counted() -> None:
    c = np.eye(4)
    c[:, 2] = np.nan
    for direction in DIRECTIONS:
        found = two_way(c, direction, resampling=QUICK)
        assert found.value == 1 and found.n_undefined == 1 and np.isnan(found.values[2])


def test_categories_against_a_loop(rng: np.random.Generator) -> None:
    names = ["mug", "car", "mug", "car", "mug", "ball"]
    c = rng.normal(size=(6, 6))
    same = np.array(names)[:, None] == np.array(names)
    for against, allowed in (("within", same), ("across", ~same)):
        found = two_way(c, categories=names, against=against, resampling=QUICK)
        for j in range(6):
            others = [i for i in range(6) if i != j and allowed[i, j]]
            expected = np.mean([c[i, j] < c[j, j] for i in others]) if others else np.nan
            assert found.values[j] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(two_way(c, categories=names, against="within", resampling=QUICK).values[5])


def test_who_knows_only_the_category_is_at_chance_within_it(rng: np.random.Generator) -> None:
    names = np.repeat(list("abcd"), 15)
    centres = 3 * rng.normal(size=(4, 30))
    codes = np.repeat(np.arange(4), 15)
    shown, made = (centres[codes] + rng.normal(size=(60, 30)) for _ in range(2))
    c = np.corrcoef(shown, made)[:60, 60:]
    found = {
        against: two_way(c, categories=list(names), against=against, resampling=QUICK).value
        for against in ("all", "within", "across")
    }
    assert found["across"] > 0.97 and abs(found["within"] - 0.5) < 0.12
    assert found["within"] < found["all"] < found["across"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_null_is_at_chance_and_seeded(direction: str, rng: np.random.Generator) -> None:
    c = np.eye(100) + rng.normal(size=(100, 100))
    found = two_way(c, direction, resampling=Resampling(200, 200))
    assert abs(found.null.mean - 0.5) < 0.01
    # The s.d. over permutations of independent columns is 1 / sqrt(12 n).
    assert 0.8 < found.null.scores.std() * np.sqrt(1200) < 1.2
    assert found.interval[0] < found.value < found.interval[1] and found.value > 0.6
    assert found.null.p_value < 0.01
    again = two_way(c, direction, resampling=Resampling(200, 200))
    assert np.array_equal(again.null.scores, found.null.scores) and again.interval == found.interval


def test_no_signal_is_not_found() -> None:
    values = [
        two_way(np.random.default_rng(k).normal(size=(40, 40)), resampling=Resampling(0, 0)).value for k in range(40)
    ]
    assert abs(np.mean(values) - 0.5) < 4 / np.sqrt(12 * 40 * 40)


def test_bad_input() -> None:
    with pytest.raises(RepetitionError, match="1 picture"):
        two_way(np.ones((1, 1)))
    with pytest.raises(ShapeError):
        two_way(np.ones((3, 4)))
    with pytest.raises(UnknownNameError, match="reconstruction_fixed"):
        two_way(ASYMMETRIC, "forwards")
    with pytest.raises(UnknownNameError, match="within"):
        two_way(ASYMMETRIC, against="inside", categories=["a", "a", "b"])
    with pytest.raises(ShapeError, match="2 categories for 3"):
        two_way(ASYMMETRIC, against="within", categories=["a", "b"])
