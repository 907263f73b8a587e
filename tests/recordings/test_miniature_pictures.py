from __future__ import annotations

import numpy as np

from recordings.miniature import Scenes, caption, make_stimuli, render


def test_stimuli_hold_pictures_captions_and_the_way_back() -> None:
    scenes = Scenes.sample(9, seed=4)
    stimuli = make_stimuli(scenes, size=32)
    assert stimuli.ids == scenes.stimulus_id.tolist()
    assert stimuli.captions == caption(scenes)
    assert stimuli.table["category"].tolist() == scenes.category_names.tolist()
    assert stimuli.table["group"].tolist() == scenes.groups.tolist()
    np.testing.assert_array_equal(stimuli.source, render(scenes, size=32).image)
    again = Scenes.from_frame(stimuli.table)
    np.testing.assert_array_equal(render(again, size=32).image, stimuli.source)
