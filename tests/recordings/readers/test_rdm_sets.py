"""RDM sets in NumPy and MATLAB files of both versions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from scipy.spatial.distance import pdist, squareform

from recordings import InputError
from recordings.errors import FormatError, MismatchedIdsError, NotFiniteError, ShapeError, TruncatedFileError
from recordings.rdms import RDMs
from recordings.readers import import_recording
from recordings.readers.rdm_sets import RDMOptions, read_rdms

NAMES = [f"hIT | {subject} | Session: {s}" for subject in ("BE", "KO") for s in (1, 2)]


@pytest.fixture
def square(rng: np.random.Generator) -> np.ndarray:
    return np.stack([squareform(pdist(rng.normal(size=(5, 8)), "correlation")) for _ in range(4)])


def test_npz_in_a_folder_with_its_stimuli(square, tmp_path):
    np.savez(tmp_path / "rdms.npz", rdms=square, names=np.array(NAMES))
    (tmp_path / "stimuli.csv").write_text("stimulus_id,category\n" + "".join(f"0{i},x\n" for i in range(5)))
    rdms = import_recording("rdms", tmp_path, tmp_path / "out" / "set.npz").data
    np.testing.assert_allclose(rdms.square(), square, rtol=1e-6)
    assert rdms.stimulus_ids == ["00", "01", "02", "03", "04"]
    assert list(rdms.factors["subject"]) == ["BE", "BE", "KO", "KO"] and list(rdms.factors["session"]) == list("1212")
    assert rdms.attrs["format"] == "rdms" and rdms.attrs["file"] == "rdms.npz"
    assert RDMs.load(tmp_path / "out" / "set.npz").names == NAMES
    assert read_rdms(tmp_path / "out" / "set.npz").names == NAMES


def test_an_rdm_set_is_not_a_recording(square, tmp_path):
    np.savez(tmp_path / "rdms.npz", rdms=square)
    imported = import_recording("rdms", tmp_path / "rdms.npz", tmp_path / "set.npz")
    with pytest.raises(InputError, match="not a recording"):
        _ = imported.recording


def test_matlab_5_struct_array_in_column_order(square, tmp_path):
    # (subject, session), so MATLAB's own order runs over subjects first.
    struct = np.empty((2, 2), [("RDM", object), ("name", object), ("color", object)])
    for subject in range(2):
        for session in range(2):
            k = 2 * subject + session
            struct[subject, session] = (square[k], NAMES[k], np.zeros(3))
    savemat(tmp_path / "92_brainRDMs.mat", {"RDMs": struct})
    rdms = read_rdms(tmp_path / "92_brainRDMs.mat")
    assert rdms.names == [NAMES[0], NAMES[2], NAMES[1], NAMES[3]]
    np.testing.assert_allclose(rdms.square()[1], square[2], rtol=1e-6)
    assert list(rdms.factors["subject"]) == ["BE", "KO", "BE", "KO"]


def test_matlab_7_3_struct_array(square, tmp_path):
    with h5py.File(tmp_path / "set.mat", "w") as file:
        group, store = file.create_group("RDMs"), file.create_group("#refs#")
        for field in ("RDM", "name"):
            references = group.create_dataset(field, (4, 1), dtype=h5py.ref_dtype)
            for k in range(4):
                text = np.array([[ord(c)] for c in NAMES[k]], np.uint16)
                item = store.create_dataset(f"{field}{k}", data=square[k].T if field == "RDM" else text)
                item.attrs["MATLAB_class"] = np.bytes_("double" if field == "RDM" else "char")
                references[k, 0] = item.ref
    rdms = read_rdms(tmp_path / "set.mat")
    assert rdms.names == NAMES
    np.testing.assert_allclose(rdms.square(), square, rtol=1e-6)


def test_matlab_plain_array_and_condensed_rows(square, tmp_path):
    savemat(tmp_path / "a.mat", {"D": np.moveaxis(square, 0, -1), "note": "text"})
    np.testing.assert_allclose(read_rdms(tmp_path / "a.mat").square(), square, rtol=1e-6)
    savemat(tmp_path / "b.mat", {"D": square[0], "E": square[1]})
    with pytest.raises(FormatError, match="more than one variable could be the RDMs"):
        read_rdms(tmp_path / "b.mat")
    assert len(read_rdms(tmp_path / "b.mat", RDMOptions(variable="E"))) == 1
    np.savez(tmp_path / "c.npz", condensed=np.stack([squareform(s) for s in square]))
    np.testing.assert_allclose(read_rdms(tmp_path / "c.npz").square(), square, rtol=1e-6)


def test_what_is_no_rdm_is_refused_with_the_file_named(square, tmp_path):
    def save(values: np.ndarray) -> Path:
        np.savez(tmp_path / "x.npz", rdms=values)
        return tmp_path / "x.npz"

    skewed, similar, gap = square.copy(), 1 - square, square.copy()
    skewed[2, 0, 1] += 0.5
    gap[1, 2, 3] = gap[1, 3, 2] = np.nan
    with pytest.raises(ShapeError, match=r"x.npz: an RDM is not symmetric"):
        read_rdms(save(skewed))
    with pytest.raises(ShapeError, match="diagonal of an RDM is not zero"):
        read_rdms(save(similar))
    with pytest.raises(NotFiniteError, match=r"x.npz: RDM 'rdm1' .* 'stim00002' and 'stim00003'"):
        read_rdms(save(gap))
    with pytest.raises(ShapeError, match="11 pairs are not the pairs of any number of stimuli"):
        read_rdms(save(np.ones((2, 11))))
    (tmp_path / "stimuli.csv").write_text("stimulus_id\na\nb\n")
    with pytest.raises(MismatchedIdsError, match="2 stimulus ids for RDMs of 5 stimuli"):
        read_rdms(save(square))


def test_pickles_and_cut_files(square, tmp_path):
    np.savez(tmp_path / "p.npz", rdms=np.array([{"a": 1}], object))
    with pytest.raises(FormatError, match=r"p\.npz"):
        read_rdms(tmp_path / "p.npz")
    np.savez(tmp_path / "q.npz", rdms=square)
    (tmp_path / "q.npz").write_bytes((tmp_path / "q.npz").read_bytes()[:500])
    with pytest.raises(TruncatedFileError, match=r"q\.npz"):
        read_rdms(tmp_path / "q.npz")
    savemat(tmp_path / "r.mat", {"D": square[0]}, do_compression=True)
    (tmp_path / "r.mat").write_bytes((tmp_path / "r.mat").read_bytes()[:-40])
    with pytest.raises(TruncatedFileError, match=r"r\.mat"):
        read_rdms(tmp_path / "r.mat")
    with pytest.raises(FormatError, match=r"neither .npz nor .mat"):
        read_rdms(Path(__file__))
