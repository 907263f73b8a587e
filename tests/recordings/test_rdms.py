"""The `RDMs` container."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

from recordings import InputError
from recordings.errors import DuplicateIdError, FormatError, ShapeError, UnknownNameError
from recordings.rdms import RDMs, parse_names


@pytest.fixture
def rdms(rng) -> RDMs:
    values = np.stack([pdist(rng.normal(size=(6, 9)), "correlation") for _ in range(4)])
    return RDMs(values, list("abcdef"), ["sub1_ses-1", "sub1_ses-2", "sub2_ses-1", "sub2_ses-2"])


def test_select_reorders_rows_and_columns_together(rdms):
    order = ["e", "a", "d", "b"]
    rows = ["abcdef".index(i) for i in order]
    np.testing.assert_array_equal(rdms.select(order).square(), rdms.square()[:, rows][:, :, rows])
    assert rdms.select(order).names == rdms.names
    with pytest.raises(UnknownNameError, match="no stimulus 'z' among the 6"):
        rdms.select(["a", "z"])
    with pytest.raises(DuplicateIdError, match="'a' occurs twice"):
        rdms.select(["a", "b", "a"])


def test_people_are_averaged_over_their_sessions(rdms):
    people = rdms.average("subject")
    assert people.names == ["sub1", "sub2"]
    np.testing.assert_allclose(people.values[1], rdms.values[2:].mean(0), rtol=1e-6)
    with pytest.raises(UnknownNameError, match=r"no factor 'roi'.*subject, session"):
        rdms.average("roi")


def test_take_keeps_names_and_factors(rdms):
    part = rdms.take([3, 0])
    assert part.names == ["sub2_ses-2", "sub1_ses-1"] and list(part.factors["session"]) == ["2", "1"]
    np.testing.assert_array_equal(part.values, rdms.values[[3, 0]])


def test_square_condensed_and_single(rdms):
    np.testing.assert_array_equal(RDMs(rdms.square()).values, rdms.values)
    single = RDMs(squareform(rdms.values[0]))
    assert len(single) == 1 and single.n_stimuli == 6 and single.stimulus_ids[0] == "stim00000"


def test_round_trip(rdms, tmp_path):
    rdms.attrs["measure"] = "1 - Pearson r"
    again = rdms.save(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.values, rdms.values)
    assert again.stimulus_ids == rdms.stimulus_ids and again.names == rdms.names and again.attrs == rdms.attrs
    assert list(again.factors["subject"]) == list(rdms.factors["subject"])
    with pytest.raises(InputError, match="exists already"):
        rdms.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as plain:
        assert plain["rdms"].dtype == np.float32
    with pytest.raises(FormatError, match="does not exist"):
        RDMs.load(tmp_path / "y.npz")


def test_lengths_must_agree(rdms):
    with pytest.raises(ShapeError, match="2 stimulus ids for RDMs of 6 stimuli"):
        RDMs(rdms.values, ["a", "b"])
    with pytest.raises(ShapeError, match="1 names"):
        RDMs(rdms.values, names=["only"])
    with pytest.raises(ShapeError, match=r"RDMs of shape \(2, 3, 4\)"):
        RDMs(np.zeros((2, 3, 4)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hIT | BE | Session: 2", {"roi": "hIT", "subject": "BE", "session": "2"}),
        ("subj01-ses3", {"subject": "subj01", "session": "3"}),
        ("sub-03_ses-b", {"subject": "sub-03", "session": "b"}),
        ("IT of monkey", {}),
    ],
)
def test_names_hold_factors(name, expected):
    assert parse_names([name]) == {key: [value] for key, value in expected.items()}


def test_names_must_all_fit():
    assert parse_names(["A | B | Session: 1", "model"]) == {}
    assert parse_names(["m1/d2", "m2/d1"], r"(?P<monkey>m\d)/(?P<day>d\d)") == {
        "monkey": ["m1", "m2"],
        "day": ["d2", "d1"],
    }
