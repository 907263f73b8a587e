"""SharedSpaceDecoder: objective by hand, planted subjects decoded, a new one joins, nothing from noise, no leakage."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decoders import LatentDecoder
from decoders.functional_alignment import SharedResponseModel
from decoders.shared_space import SharedSpaceDecoder
from decoders.shared_space.objective import Mixture, annealed, bimixco, draw_mixture, soft_clip, stack_mixtures
from encoders import FeatureExtractor, Features, extract
from recordings import Recording
from recordings.errors import (
    ArtifactError,
    Cancelled,
    DuplicateIdError,
    InputError,
    LeakageError,
    MismatchedIdsError,
    NotFiniteError,
    RepetitionError,
    UnknownNameError,
)
from recordings.miniature import Scenes, make_stimuli, render, simulate_subject
from recordings.statistics import correlate

from .planted_subjects import N_TEST, Subjects, plant

A, B, C = "subject-01", "subject-02", "subject-03"
SMALL: dict[str, Any] = {
    "shared": 8,
    "width": 32,
    "n_blocks": 1,
    "views": 3,
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    return plant()


@pytest.fixture(scope="module", params=["aligned", "trained"])
def decoder(request: pytest.FixtureRequest, subjects: Subjects) -> SharedSpaceDecoder:
    two = {name: subjects.train[name] for name in (A, B)}
    return SharedSpaceDecoder(request.param, **SMALL).fit(two, subjects.embedding, subjects.latents)


# Objective ------------------------------------------------------------------------------------------------------


def test_contrast_without_mixing_is_cross_entropy_both_ways() -> None:
    torch.manual_seed(0)
    decoded, targets = torch.randn(6, 9), torch.randn(6, 9)
    alone = Mixture(torch.arange(6), torch.ones(6))
    r = torch.from_numpy(np.corrcoef(decoded, targets)[:6, 6:]).float() / 0.2
    right = torch.arange(6)
    expected = (torch.nn.functional.cross_entropy(r, right) + torch.nn.functional.cross_entropy(r.T, right)) / 2
    assert torch.allclose(bimixco(decoded, targets, right, alone, 0.2), expected, atol=1e-5)
    # Labels as sharp as this are one-hot.
    sharp = soft_clip(decoded, targets, right, 0.01)
    r = r * 0.2 / 0.01
    expected = (torch.nn.functional.cross_entropy(r, right) + torch.nn.functional.cross_entropy(r.T, right)) / 2
    assert torch.allclose(sharp, expected, rtol=1e-3)


def test_contrast_of_mixed_rows_takes_the_shares_of_both() -> None:
    torch.manual_seed(0)
    decoded, targets = torch.randn(2, 9), torch.randn(3, 9)
    mixture = Mixture(torch.tensor([1, 0]), torch.tensor([0.7, 1.0]))
    logits = torch.from_numpy(np.corrcoef(decoded, targets)[:2, 2:]).float()
    labels = torch.tensor([[0.7, 0.0, 0.3], [0.0, 0.0, 1.0]])
    expected = -((labels * (logits.log_softmax(1) + logits.log_softmax(0))).sum() / 2) / 2
    assert torch.allclose(bimixco(decoded, targets, torch.tensor([0, 2]), mixture, 1.0), expected, atol=1e-5)


def test_mixtures_stay_within_their_subject_and_mix_half_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    both = stack_mixtures([draw_mixture(400, rng), draw_mixture(600, rng)])
    assert sorted(both.partner[:400].tolist()) == list(range(400))
    assert sorted(both.partner[400:].tolist()) == list(range(400, 1000))
    assert 0.4 < float((both.share < 1).float().mean()) < 0.6 and both.share.min() >= 0
    assert [annealed(1.0, 3.0, p) for p in (0, 0.5, 1)] == pytest.approx([1, 2, 3])


# Decoding -------------------------------------------------------------------------------------------------------


def test_recovers_what_was_planted_in_every_subject(decoder: SharedSpaceDecoder, subjects: Subjects) -> None:
    for name in (A, B):
        decoded = decoder.predict(name, subjects.test[name])
        assert {key: value.shape for key, value in decoded.items()} == {
            "embedding": (N_TEST, 20),
            "retrieval": (N_TEST, 20),
            "z": (N_TEST, 12),
        }
        assert all(value.dtype == np.float32 for value in decoded.values())
        assert correlate(decoded["embedding"], subjects.candidates.read()).mean() > 0.75
        assert correlate(decoded["z"], subjects.latents.read()[-N_TEST:]).mean() > 0.7
        found = decoder.identify(name, subjects.test[name], subjects.candidates, n_permutations=50)
        assert found.two_way_candidates > 0.95 and abs(found.null.mean - 1 / N_TEST) < 0.02
        assert decoder.identify(name, subjects.test[name], subjects.candidates, head="embedding").accuracy > 0.3
        nearest = decoder.retrieve(name, subjects.test[name], subjects.embedding, k=5)
        assert nearest.hits(list(subjects.test[name].stimulus_ids)).mean() > 10 * nearest.chance


def test_first_third_mixes_and_losses_fall(decoder: SharedSpaceDecoder) -> None:
    assert len(decoder.history_) == SMALL["epochs"]
    assert set(decoder.history_[0]) == {"loss", "contrast", "embedding", "latents"}
    for part in ("embedding", "latents"):
        assert decoder.history_[-1][part] < 0.7 * decoder.history_[0][part]


def test_rows_do_not_depend_on_their_batch(decoder: SharedSpaceDecoder, subjects: Subjects) -> None:
    whole = decoder.predict(B, subjects.test[B])
    single = decoder.predict(B, subjects.test[B].take([7]))
    assert all(np.allclose(whole[name][7], single[name][0], atol=1e-4) for name in whole)


def test_nothing_from_noise() -> None:
    noise = plant(noise=1e3)
    decoder = SharedSpaceDecoder(**{**SMALL, "epochs": 5}).fit(noise.train, noise.embedding)
    found = decoder.identify(A, noise.test[A], noise.candidates, n_permutations=200)
    assert abs(found.two_way_candidates - 0.5) < 4 / np.sqrt(12 * N_TEST)
    assert "z" not in decoder.predict(A, noise.test[A])


@pytest.mark.parametrize("train", ["input", "all"])
def test_a_new_subject_joins(decoder: SharedSpaceDecoder, subjects: Subjects, train: Any) -> None:
    before = copy.deepcopy(decoder.module_.state_dict())
    little = subjects.train[C].take(slice(90))
    joined = decoder.adapt(C, little, subjects.embedding, subjects.latents, train=train)
    assert all(torch.equal(value, decoder.module_.state_dict()[name]) for name, value in before.items())
    found = joined.identify(C, subjects.test[C], subjects.candidates, n_permutations=50)
    assert found.two_way_candidates > (0.9 if decoder.inputs == "aligned" else 0.75)
    body = joined.module_.body()
    same = [torch.equal(value, before[name]) for name, value in body.items()]
    if train == "input":
        assert all(same) and list(joined.subjects_) == [A, B, C]
        for name in (A, B):
            was, now = (d.predict(name, subjects.test[name])["embedding"] for d in (decoder, joined))
            assert np.array_equal(was, now)
    else:
        assert not all(same) and list(joined.subjects_) == [C]


def test_saved_and_loaded(decoder: SharedSpaceDecoder, subjects: Subjects, tmp_path: Path) -> None:
    decoder.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    loaded = SharedSpaceDecoder.from_pretrained(str(tmp_path / "model"))
    for name, value in decoder.predict(A, subjects.test[A]).items():
        assert np.array_equal(loaded.predict(A, subjects.test[A])[name], value)
    shown, gallery = subjects.test[B], subjects.embedding
    ours, theirs = (d.retrieve(B, shown, gallery).confidence for d in (decoder, loaded))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("inputs", ["aligned", "trained"])
def test_a_stopped_run_goes_on_to_the_same_weights(inputs: Any, subjects: Subjects, tmp_path: Path) -> None:
    settings = {**SMALL, "epochs": 3}
    one = {A: subjects.train[A]}
    whole = SharedSpaceDecoder(inputs, **settings).fit(one, subjects.embedding)
    steps: list[int] = []
    with pytest.raises(Cancelled):
        SharedSpaceDecoder(inputs, **settings).fit(
            one,
            subjects.embedding,
            checkpoints=tmp_path,
            on_event=lambda event: steps.append(event.done) if event.stage == "train" else None,
            stop=lambda: len(steps) == 5,
        )
    again = SharedSpaceDecoder(inputs, **settings).fit(
        one, subjects.embedding, checkpoints=tmp_path, on_event=lambda event: steps.append(event.done)
    )
    assert steps[:5] == [1, 2, 3, 4, 5] and 6 in steps[5:] and steps[5:].count(1) < 2
    for name, value in whole.module_.state_dict().items():
        assert torch.equal(value, again.module_.state_dict()[name])
    assert again.history_ == whole.history_
    with pytest.raises(ArtifactError, match="responses"):
        SharedSpaceDecoder(inputs, **settings).fit({A: subjects.train[B]}, subjects.embedding, checkpoints=tmp_path)


def test_leakage_is_refused_whoever_saw_the_stimulus(subjects: Subjects) -> None:
    half = {A: subjects.train[A].take(slice(100)), B: subjects.train[B].take(slice(100, None))}
    decoder = SharedSpaceDecoder(**{**SMALL, "epochs": 1}).fit(half, subjects.embedding)
    with pytest.raises(LeakageError, match="a subject"):
        decoder.identify(A, subjects.train[A].take(slice(120, 140)), subjects.embedding)
    joined = decoder.adapt(C, subjects.test[C], subjects.embedding)
    with pytest.raises(LeakageError):
        joined.identify(A, subjects.test[A], subjects.candidates)


def test_refuses_what_does_not_fit(decoder: SharedSpaceDecoder, subjects: Subjects) -> None:
    one, embedding = {A: subjects.train[A]}, subjects.embedding
    with pytest.raises(InputError, match="not fitted"):
        SharedSpaceDecoder().predict(A, subjects.test[A])
    with pytest.raises(InputError, match="no subject"):
        SharedSpaceDecoder(**SMALL).fit({}, embedding)
    for wrong in ({"inputs": "random"}, {"epochs": 0}, {"views": 1}, {"validation": 1.0}, {"temperature": (0.0, 1.0)}):
        with pytest.raises(InputError):
            SharedSpaceDecoder(**{**SMALL, **wrong}).fit(one, embedding)
    with pytest.raises(RepetitionError, match="too few for 60 views"):
        SharedSpaceDecoder(**{**SMALL, "views": 60}).fit(one, embedding)
    with pytest.raises(MismatchedIdsError):
        SharedSpaceDecoder(**SMALL).fit(one, subjects.candidates)
    broken = subjects.train[A].values.copy()
    broken[3, 4] = np.nan
    nan = Recording(broken, subjects.train[A].presentations, subjects.train[A].neuroids)
    with pytest.raises(NotFiniteError):
        SharedSpaceDecoder(**SMALL).fit({A: nan}, embedding)
    with pytest.raises(UnknownNameError, match="subject-01, subject-02"):
        decoder.predict(C, subjects.test[C])
    with pytest.raises(ArtifactError, match="neuroids"):
        decoder.predict(A, subjects.test[B])
    with pytest.raises(DuplicateIdError):
        decoder.adapt(A, subjects.train[A], embedding, subjects.latents)
    with pytest.raises(InputError, match="without"):
        decoder.adapt(C, subjects.train[C], embedding)
    other = Features.from_arrays(embedding.read(), list(embedding.stimulus_ids), uri="another")
    with pytest.raises(ArtifactError, match="another"):
        decoder.identify(A, subjects.test[A], other)
    with pytest.raises(InputError, match="epochs: 0"):
        decoder.adapt(C, subjects.train[C], embedding, subjects.latents, train="all", epochs=0)
    silent = SharedSpaceDecoder(**{**SMALL, "validation": 0.0, "epochs": 1}).fit(one, embedding)
    with pytest.raises(ArtifactError, match="confidence"):
        silent.retrieve(A, subjects.test[A], embedding)
    if decoder.inputs == "aligned":
        with pytest.raises(InputError, match="no epochs"):
            decoder.adapt(C, subjects.train[C], embedding, subjects.latents, epochs=3)


@pytest.mark.slow
def test_others_are_worth_more_than_little_data_of_ones_own(tmp_path: Path) -> None:
    # A small one of what benchmarks/cross_subject.py measures.
    n_train, n_little, n_test, new = 640, 80, 150, "subject-05"
    scenes = Scenes.sample(n_train + n_test, seed=0)
    rendered = render(scenes)
    extractor = FeatureExtractor.from_uri("miniature:backbone", device="cpu")
    stimuli = make_stimuli(scenes, rendered=rendered)
    embedding = extract(extractor, stimuli, tmp_path / "features", layers=["blocks.5"], readout="cls")["blocks.5"]
    shown: dict[str, Recording] = {}
    for number in range(5):
        settings: dict[str, Any] = {"subject": number, "noise_ceiling": 0.05, "repetitions": 1}
        subject = simulate_subject(scenes, rendered, **settings)
        order = subject.recording.match([str(i) for i in scenes.stimulus_id])
        shown[subject.subject_id] = subject.recording.take(np.argsort(order))
    others = {name: recording.take(slice(n_train)) for name, recording in shown.items() if name != new}
    little, test = shown[new].take(slice(n_little)), shown[new].take(slice(n_train, None))
    candidates = embedding.select([str(i) for i in test.stimulus_ids])
    ridge = LatentDecoder(reliability=None, calibration_folds=0).fit(little, embedding)
    alone = SharedSpaceDecoder(batch_size=64, device="cpu").fit({new: little}, embedding)
    joint = SharedSpaceDecoder(device="cpu").fit(others, embedding).adapt(new, little, embedding)
    aligned = SharedResponseModel(10).fit(others).add_subject(new, little)
    first = fit_in_common_space(aligned, others, embedding)
    two_way = {
        "ridge": ridge.identify(test, candidates).two_way_candidates,
        "alone": alone.identify(new, test, candidates).two_way_candidates,
        "joint": joint.identify(new, test, candidates).two_way_candidates,
        "aligned": first.identify(aligned.transform(new, test), candidates).two_way_candidates,
    }
    best_alone = max(two_way["ridge"], two_way["alone"])
    assert two_way["joint"] > best_alone + 0.05 and two_way["joint"] < 0.97, two_way
    assert two_way["aligned"] > best_alone, two_way


def fit_in_common_space(
    alignment: SharedResponseModel, recordings: dict[str, Recording], embedding: Features
) -> LatentDecoder:
    """Ridge on one subject's responses in the space of all."""
    name = next(iter(recordings))
    ridge = LatentDecoder(reliability=None, calibration_folds=0)
    return ridge.fit(alignment.transform(name, recordings[name]), embedding)


SCRIPT = """
import os, sys

import numpy as np
import torch

torch.set_num_threads(1)
from decoders.shared_space import SharedSpaceDecoder
from encoders import Features
from recordings import Recording
from recordings.errors import Cancelled

folder, rank = sys.argv[1], os.environ.get("RANK", "alone")
rng = np.random.default_rng(0)
causes, ids = rng.normal(size=(120, 4)), [str(i) for i in range(120)]
embedding = Features.from_arrays(causes @ rng.normal(size=(4, 10)), ids)
responses = causes @ rng.normal(size=(4, 20)) + 0.3 * rng.normal(size=(120, 20))
shown = {"one": Recording(responses, {"stimulus_id": ids}).take(slice(90))}


def fit(stop=None, **options):
    decoder = SharedSpaceDecoder(
        "trained", shared=4, width=16, n_blocks=1, epochs=20, batch_size=30, dropout=0.0, learning_rate=1e-2,
        loss_weights=(0.0, 1.0, 1.0), device="cpu",
    )
    return decoder.fit(shown, embedding, stop=stop)


decoder, asked = fit(), []
try:
    fit(lambda: asked.append(1) or rank == "1" and len(asked) == 9)
except Cancelled:
    pass
weights = np.concatenate([w.numpy().ravel() for w in decoder.module_.state_dict().values()])
np.savez(f"{folder}/{rank}.npz", weights=weights, loss=decoder.history_[-1]["embedding"], asked=len(asked))
"""


@pytest.mark.slow
def test_two_processes_share_their_weights_and_stop_together(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(Path(__file__).parents[2])}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, str(script), str(tmp_path)], env=environment, check=True, timeout=400)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    np.testing.assert_allclose(first["weights"], second["weights"], atol=1e-6)
    assert first["asked"] == second["asked"] == 9
    assert min(first["loss"], second["loss"]) < 0.5
