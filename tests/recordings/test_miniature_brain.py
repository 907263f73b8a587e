from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeCV

from recordings import InputError, Subject, noise_ceiling
from recordings.errors import FormatError
from recordings.miniature import Rendered, Scenes, SimulatedBrain, render, simulate_subject, true_features
from recordings.miniature.channels import RETINAS, gabor_amplitude
from recordings.statistics import correlate, shuffled_correlation

RETINOTOPIC = ("V1", "V2", "V3", "V4")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.sample(320, seed=3)


@pytest.fixture(scope="module")
def rendered(scenes: Scenes) -> Rendered:
    return render(scenes)


@pytest.fixture(scope="module")
def subject(scenes: Scenes, rendered: Rendered) -> Subject:
    return simulate_subject(scenes, rendered, seed=0)


def test_regions_lie_on_fsaverage5_without_overlap(subject):
    recording = subject.recording
    assert recording.space.name == "fsaverage5"
    assert recording.rois == (*RETINOTOPIC, "category", "vehicles", "furniture", "vessels", "MTL")
    assert len(set(zip(recording.neuroid("hemisphere"), recording.neuroid("vertex"), strict=True))) == 1380
    left, right = (recording.neuroid("x")[recording.neuroid("hemisphere") == side] for side in "LR")
    assert left.max() < 0 < right.min()


def test_receptive_fields_are_contralateral_and_grow(subject):
    neuroids = subject.recording.neuroids
    mapped = neuroids[neuroids["roi"].isin(RETINOTOPIC)]
    assert (np.sign(mapped["planted_x"]) == np.where(mapped["hemisphere"] == "L", 1, -1)).all()
    sizes = [mapped.loc[mapped["roi"] == name, "planted_size"].iloc[0] for name in RETINOTOPIC]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


def test_neighbours_on_the_cortex_see_neighbouring_places(subject):
    v1 = subject.recording.roi("V1").where(hemisphere="L").neuroids
    place, field = v1[["x", "y", "z"]].to_numpy(), v1[["planted_x", "planted_y"]].to_numpy()
    nearest = np.argsort(np.linalg.norm(place[:, None] - place[None], axis=-1), axis=1)[:, 1]
    step = np.linalg.norm(field - field[nearest], axis=1)
    far = np.linalg.norm(field - field[::-1], axis=1)
    assert np.median(step) < np.median(far) / 2


def test_a_vertex_answers_where_its_receptive_field_lies(rendered):
    # An object that is moved about the image drives a V3 vertex most near the planted centre.
    at = np.linspace(-0.42, 0.42, 13)
    x, y = (a.ravel() for a in np.meshgrid(at, at))
    ball = Scenes.sample(1, seed=5, categories=["ball"])
    moved = ball[np.zeros(len(x), int)].replace(x=x, y=y, gradient=np.zeros(len(x)), scale=np.full(len(x), 0.5))
    brain = SimulatedBrain.wire(seed=0)
    near = (brain.neuroids["region"] == "V3") & (brain.neuroids[["planted_x", "planted_y"]].abs().max(axis=1) < 0.3)
    responses = brain.respond(moved, render(moved))[:, near]
    weights = np.maximum(responses - np.median(responses, 0), 0) ** 2
    centre_x = (weights * x[:, None]).sum(0) / weights.sum(0)
    centre_y = (weights * y[:, None]).sum(0) / weights.sum(0)
    planted = brain.neuroids.loc[near, ["planted_x", "planted_y"]].to_numpy()
    assert np.corrcoef(centre_x, planted[:, 0])[0, 1] > 0.9
    assert np.corrcoef(centre_y, planted[:, 1])[0, 1] > 0.9


def test_planted_ceiling_is_found_again(subject):
    planted = subject.recording.neuroid("planted_noise_ceiling")
    assert abs(planted.mean() - 0.7) < 0.02
    for method in ("ncsnr", "split_half"):
        estimate = noise_ceiling(subject.recording, method, n_splits=10)
        assert np.abs(estimate - planted).mean() < 0.03
        assert abs((estimate - planted).mean()) < 0.01


@pytest.mark.slow
def test_early_responses_are_linear_in_the_true_features(scenes, rendered, subject):
    average = subject.recording.average_repetitions()
    rows = average.match(list(scenes.stimulus_id))
    for name in RETINOTOPIC:
        features = true_features(scenes, rendered, (name,))[rows]
        responses = average.roi(name).values
        model = RidgeCV(np.logspace(0, 5, 11)).fit(features[:260], responses[:260])
        predicted = model.predict(features[260:])
        ceiling = np.sqrt(subject.recording.roi(name).neuroid("planted_noise_ceiling"))
        assert np.mean(correlate(predicted, responses[260:]) / ceiling) > 0.9
        null = shuffled_correlation(predicted, responses[260:], n=50)
        assert abs(null.mean) < 3 * null.standard_error + 0.01


@pytest.mark.slow
def test_category_patches_follow_their_objects_wherever_they_stand(scenes, rendered):
    brain = SimulatedBrain.wire(seed=0)
    elsewhere = scenes.replace(x=-scenes.x, y=-scenes.y)
    moved = render(elsewhere)
    for patch in ("vehicles", "furniture", "vessels", "MTL"):
        mask = (brain.neuroids["region"] == patch).to_numpy()
        still, shifted = brain.respond(scenes, rendered)[:, mask], brain.respond(elsewhere, moved)[:, mask]
        np.testing.assert_allclose(still, shifted, atol=1e-5)
        if patch != "MTL":
            member = scenes.groups == patch
            assert still[member].mean() > still[~member].mean() + 1
    v1 = (brain.neuroids["region"] == "V1").to_numpy()
    assert not np.allclose(brain.respond(scenes, rendered)[:, v1], brain.respond(elsewhere, moved)[:, v1], atol=0.1)


def test_a_patch_sees_how_its_own_object_looks_and_not_which_of_its_group_it_is(scenes):
    brain = SimulatedBrain.wire(seed=0)
    patch = (brain.neuroids["region"] == "vehicles").to_numpy()
    own, other = (Scenes.sample(20, seed=9, categories=names) for names in (["plane"], ["mug"]))

    def answers(shown: Scenes) -> np.ndarray:
        return brain.respond(shown, render(shown))[:, patch]

    painted = [answers(s.replace(hue=(s.hue + 0.5) % 1)) - answers(s) for s in (own, other)]
    assert np.abs(painted[0]).mean() > 0.5
    assert np.abs(painted[1]).max() < 1e-5
    car = own.replace(category=Scenes.sample(20, seed=9, categories=["car"]).category)
    np.testing.assert_allclose(answers(own), answers(car), atol=1e-5)


def test_half_of_the_noise_in_mtl_is_shared(subject):
    for name, share in (("MTL", 0.5), ("V1", 0.0)):
        recording = subject.recording.roi(name)
        values = recording.values
        mean = recording.average_repetitions()
        noise = values - mean.values[recording.match(list(mean.stimulus_ids))]
        noise = noise[:, :150] / noise[:, :150].std(0)
        eigenvalues = np.linalg.eigvalsh(np.cov(noise.T))[::-1]
        n_sources = len(SimulatedBrain.wire(0, 0).shared_noise)
        # What independent noise of as many presentations leaves there by chance is taken off.
        chance = np.linalg.eigvalsh(np.cov(np.random.default_rng(0).normal(size=(640, 150)).T))[::-1]
        found = (eigenvalues[:n_sources].sum() - (1 - share) * chance[:n_sources].sum()) / 150
        assert abs(found - share) < 0.05, name


def test_ceilings_may_differ_between_neuroids(scenes, rendered):
    recording = simulate_subject(scenes, rendered, seed=0, noise_ceiling=(0.2, 0.9)).recording
    planted = recording.neuroid("planted_noise_ceiling")
    np.testing.assert_allclose(np.quantile(planted, (0.05, 0.95)), (0.235, 0.865), atol=0.03)
    assert np.corrcoef(noise_ceiling(recording), planted)[0, 1] > 0.95


def test_mtl_ignores_hue_and_v4_does_not(scenes):
    brain = SimulatedBrain.wire(seed=0)
    few = scenes[:40]
    painted = few.replace(hue=(few.hue + 0.5) % 1)
    before, after = (brain.respond(s, render(s)) for s in (few, painted))
    mtl, v4 = ((brain.neuroids["region"] == name).to_numpy() for name in ("MTL", "V4"))
    np.testing.assert_allclose(before[:, mtl], after[:, mtl], atol=1e-6)
    assert np.abs(before[:, v4] - after[:, v4]).mean() > 0.3


def test_a_scene_is_answered_alike_in_any_company(scenes, rendered, subject):
    brain = SimulatedBrain.wire(seed=0)
    some = Rendered(rendered.image[5:9], rendered.depth[5:9], rendered.silhouette[5:9])
    np.testing.assert_allclose(brain.respond(scenes[5:9], some), brain.respond(scenes, rendered)[5:9], atol=1e-4)
    again = simulate_subject(scenes, rendered, seed=0)
    np.testing.assert_array_equal(again.recording.values, subject.recording.values)
    assert not np.array_equal(simulate_subject(scenes, rendered, seed=0, subject=1).recording.values, again.recording)


def test_sessions_drift_only_when_asked(scenes, rendered):
    few, pictures = scenes[:50], Rendered(rendered.image[:50], rendered.depth[:50], rendered.silhouette[:50])
    drifting = simulate_subject(few, pictures, sessions=3, session_offset=2.0).recording
    means = [drifting.where(session=s).values.mean(0) for s in range(3)]
    assert np.std(means, axis=0).mean() > 1
    steady = simulate_subject(few, pictures, sessions=3).recording
    assert np.std([steady.where(session=s).values.mean(0) for s in range(3)], axis=0).mean() < 0.4


def test_everything_planted_is_written_down(tmp_path):
    brain = SimulatedBrain.wire(seed=2, subject=1)
    brain.save(tmp_path / "planted.npz")
    with np.load(tmp_path / "planted.npz") as planted:
        np.testing.assert_array_equal(planted["planted_x"], brain.neuroids["planted_x"])
        assert planted["weights.V1"].shape == (RETINAS["V1"].grid ** 2 * 4, 400)
        assert list(planted["roi"]) == list(brain.neuroids["roi"])


def test_what_was_planted_comes_back_from_disk(tmp_path, scenes, rendered):
    brain = SimulatedBrain.wire(seed=2, subject=1)
    brain.save(tmp_path / "truth.npz")
    again = SimulatedBrain.load(tmp_path / "truth.npz")
    assert (again.seed, again.subject) == (2, 1)
    pd.testing.assert_frame_equal(again.neuroids, brain.neuroids, check_dtype=False)
    np.testing.assert_array_equal(again.shared_noise, brain.shared_noise)
    np.testing.assert_array_equal(again.respond(scenes, rendered), brain.respond(scenes, rendered))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no archive"])
def test_a_damaged_truth_is_refused(tmp_path, damage):
    path = tmp_path / "truth.npz"
    SimulatedBrain.wire(seed=0).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match=r"truth\.npz"):
        SimulatedBrain.load(path)


def test_gabors_prefer_their_orientation_and_ignore_the_border():
    x = np.arange(64)
    gratings = np.stack([np.tile(np.sin(2 * np.pi * 0.25 * x), (64, 1)), np.full((64, 64), 0.8)]).astype(np.float32)
    amplitude = gabor_amplitude(gratings, 0.25)
    assert amplitude[0].mean((1, 2)).argmax() == 0
    assert amplitude[0, 0, 32, 32] > 5 * amplitude[0, 2, 32, 32]
    assert amplitude[1].max() < 1e-4


@pytest.mark.parametrize(
    "wrong", [{"noise_ceiling": 1.0}, {"noise_ceiling": (0.9, 0.2)}, {"repetitions": 0}, {"sessions": 0}]
)
def test_impossible_recordings_are_refused(scenes, rendered, wrong):
    with pytest.raises(InputError, match="simulate_subject"):
        simulate_subject(scenes, rendered, **wrong)
