"""The made-up subject of Algonauts' size: it is read like a real one, and holds what is said to be planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recordings.readers import import_recording
from scripts.examples.algonauts_layout import CATEGORIES, GROUPS, draw, write_subject

pytestmark = pytest.mark.slow


def test_it_is_read_at_full_size_with_its_regions_and_signal(tmp_path: Path) -> None:
    folder = write_subject(tmp_path / "subj01", 24, noise_ceiling=0.9)
    imported = import_recording("algonauts2023", folder, tmp_path / "subj01.zarr")
    recording, stimuli = imported.recording, imported.stimuli
    assert stimuli is not None
    assert recording.values.shape == (24, 19_004 + 20_544)
    assert stimuli.load(0).shape == (425, 425, 3)
    assert {"mTL-words", "mTL-bodies"} == set(recording.declared_rois) - set(recording.rois)
    sizes = {name: recording.roi_mask(name).sum() for name in recording.rois}
    planted = {name: sum(size) for _, regions in GROUPS.values() for name, size in regions.items() if sum(size)}
    assert sizes == planted

    discs = np.stack([draw([0, 0, number])[1][-4:] for number in range(24)])
    bodies = discs[:, CATEGORIES.index("floc-bodies")] == 1
    responses = recording.roi("EBA").values
    assert responses[bodies].mean() > responses[~bodies].mean() + 1


def test_a_smaller_subject_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    small, large = (write_subject(tmp_path / str(n), n) for n in (2, 3))
    for side in ("lh", "rh"):
        path = f"training_split/training_fmri/{side}_training_fmri.npy"
        np.testing.assert_array_equal(np.load(small / path), np.load(large / path)[:2])
