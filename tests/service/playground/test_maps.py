"""Where responses are shown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recordings import Space
from service.models.description import Units
from service.playground.maps import MOST_BARS, bars, by_region, cortex, surface

FSAVERAGE5 = Space.surface("fsaverage5", (10242, 10242))


def units(ids, space=FSAVERAGE5, rois=()):
    return Units(tuple(ids), json.dumps(space.to_dict()), "", tuple(rois))


def test_each_response_lies_at_its_vertex():
    maps = surface(np.array([1.0, 2.0, 3.0]), units(["L0", "R7", "L10241"]))
    assert maps["L"][[0, 10241]].tolist() == [1, 3]
    assert maps["R"][7] == 2
    assert np.isfinite(maps["L"]).sum() == 2 and np.isfinite(maps["R"]).sum() == 1


def test_finer_meshes_are_shown_on_the_vertices_that_they_share():
    fine = Space.surface("fsaverage6", (40962, 40962))
    maps = surface(np.array([1.0, 2.0]), units(["L5", "L40000"], fine))
    assert len(maps["L"]) == 10242
    assert np.nansum(maps["L"]) == 1


@pytest.mark.parametrize(
    "found",
    [
        units(["L0"], Space()),
        units(["L0"], Space.surface("fs_LR", (32492, 32492))),
        units(["L0"], Space.surface("fsaverage4", (2562, 2562))),
        units(["v0"]),
        units(["L10242"]),
    ],
)
def test_units_that_are_no_vertices_of_the_mesh_have_no_place(found):
    assert surface(np.ones(1), found) is None
    assert cortex(np.ones(1), found) is None


def test_regions_hold_the_units_that_are_in_them():
    found = units(["a", "b", "c"], Space(), ["V1", "V1|large", "large"])
    regions = {name: values.tolist() for name, values in by_region(np.array([1.0, 2.0, 3.0]), found).items()}
    assert regions == {"V1": [1, 2], "large": [2, 3]}


def test_no_regions_are_one_and_too_many_the_largest():
    assert [*by_region(np.ones(2), units("ab"))] == ["all units"]
    names = [f"r{k}" for k in range(MOST_BARS + 5)]
    found = units(map(str, range(len(names) + 1)), Space(), [*names, names[-1]])
    regions = by_region(np.ones(len(found.unit_ids)), found)
    assert len(regions) == MOST_BARS
    assert names[-1] in regions


def test_the_chart_says_in_words_what_it_shows():
    chart = bars(np.array([1.0, 2.0, -3.0]), units("abc", Space(), ["V1", "V1", "V2"]))
    assert chart.alt == "Mean predicted response by region: V1 1.5, V2 -3."
    assert {media for media, *_ in chart.sources} >= {"(prefers-color-scheme: dark)", "(max-width: 640px)"}
