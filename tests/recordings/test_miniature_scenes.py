from __future__ import annotations

import numpy as np
import pytest

from recordings.errors import InputError, NotFiniteError, ShapeError, UnknownNameError
from recordings.miniature import CATEGORIES, GROUPS, Scenes, caption
from recordings.miniature.captions import COLOURS, colour_names
from recordings.miniature.scenes import COLUMNS, RANGES


def equal(first: Scenes, second: Scenes) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in COLUMNS)


def test_a_scene_depends_on_seed_and_id_alone() -> None:
    scenes = Scenes.sample(40, seed=3)
    assert equal(scenes[25:40], Scenes.sample(15, seed=3, start=25))
    assert not equal(scenes, Scenes.sample(40, seed=4))


def test_draws_fill_their_ranges_independently() -> None:
    scenes = Scenes.sample(3000)
    columns = {name: getattr(scenes, name) for name in RANGES}
    for name, (low, high) in RANGES.items():
        assert low <= columns[name].min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < columns[name].max() <= high
    correlations = np.corrcoef([*columns.values(), scenes.category])
    assert np.abs(correlations - np.eye(len(correlations))).max() < 0.07
    assert np.bincount(scenes.category).min() > 200


def test_categories_restrict_the_draw_and_leave_the_rest() -> None:
    scenes = Scenes.sample(200, categories=["car", "mug"])
    assert set(scenes.category_names) == {"car", "mug"}
    np.testing.assert_array_equal(scenes.hue, Scenes.sample(200).hue)


def test_groups_partition_seven_of_the_categories() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped)) == 7
    assert set(grouped) <= set(CATEGORIES)
    scenes = Scenes.sample(300)
    for group, names in GROUPS.items():
        np.testing.assert_array_equal(scenes.groups == group, np.isin(scenes.category_names, names))
    np.testing.assert_array_equal(scenes.groups == "other", ~np.isin(scenes.category_names, grouped))


def test_frame_round_trip() -> None:
    scenes = Scenes.sample(30, seed=5)
    frame = scenes.to_frame()
    assert frame["stimulus_id"].is_unique
    assert frame["category"].tolist() == scenes.category_names.tolist()
    assert equal(scenes, Scenes.from_frame(frame))
    assert equal(scenes, Scenes.from_frame(frame.assign(category=scenes.category)))


def test_indexing_keeps_scenes() -> None:
    scenes = Scenes.sample(10)
    assert len(scenes[3]) == 1
    assert scenes[3].scene_id[0] == scenes[-7].scene_id[0] == 3
    assert scenes[scenes.hue > 0.5].hue.min() > 0.5
    assert [len(scene) for scene in scenes] == [1] * 10
    with pytest.raises(IndexError):
        scenes[10]


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 3, "seed": -1}, {"n": 3, "start": -1}])
def test_sample_refuses_nonsense(arguments: dict[str, int]) -> None:
    with pytest.raises(InputError):
        Scenes.sample(**arguments)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="spoon"):
        Scenes.sample(3, categories=["spoon"])
    with pytest.raises(UnknownNameError, match="hue"):
        Scenes.from_frame(Scenes.sample(3).to_frame().drop(columns="hue"))
    with pytest.raises(UnknownNameError, match="category"):
        Scenes.sample(3).replace(category=np.array([0, 12, 1]))


def test_bad_columns_are_refused() -> None:
    scenes = Scenes.sample(3)
    with pytest.raises(ShapeError, match="hue"):
        scenes.replace(hue=np.zeros(2))
    with pytest.raises(NotFiniteError, match="scale"):
        scenes.replace(scale=np.array([1, np.nan, 1]))


def test_captions_name_colour_category_and_place() -> None:
    scenes = Scenes.sample(4).replace(
        hue=np.array([0.99, 0.08, 1 / 3, 0.6]),
        category=np.array([CATEGORIES.index(c) for c in ("mug", "car", "tree", "lamp")]),
        x=np.array([-0.4, 0.0, 0.4, 0.0]),
        y=np.array([0.0, 0.0, 0.4, -0.4]),
    )
    assert caption(scenes) == [
        "a red mug on the left",
        "an orange car in the middle",
        "a green tree at the top right",
        "a blue lamp at the bottom",
    ]
    assert set(colour_names(np.linspace(0, 1, 400, endpoint=False))) == set(COLOURS)
