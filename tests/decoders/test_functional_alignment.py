"""Functional alignment: planted causes are found, subjects agree in them, decoders carry over; nothing from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from decoders import LatentDecoder, identify
from decoders.functional_alignment import Hyperalignment, SharedResponseModel, orthonormal_map, transfer
from recordings import Recording
from recordings.errors import (
    ArtifactError,
    Cancelled,
    DuplicateIdError,
    InputError,
    LeakageError,
    RepetitionError,
    UnknownNameError,
)
from recordings.statistics import correlate

from .planted_subjects import N_CAUSES, N_TEST, Subjects, plant

A, B, C = "subject-01", "subject-02", "subject-03"
Aligned = SharedResponseModel | Hyperalignment


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    return plant()


@pytest.fixture(scope="module", params=["srm", "hyperalignment"])
def alignment(request: pytest.FixtureRequest, subjects: Subjects) -> Aligned:
    made = SharedResponseModel(N_CAUSES) if request.param == "srm" else Hyperalignment()
    return made.fit({name: subjects.train[name] for name in (A, B)})


def test_orthonormal_map_is_procrustes(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6))
    assert np.allclose(orthonormal_map(x, y), orthogonal_procrustes(x, y)[0], atol=1e-5)
    wide = orthonormal_map(rng.normal(size=(40, 9)), y)
    assert wide.shape == (9, 6) and np.allclose(wide.T @ wide, np.eye(6), atol=1e-5)


def test_maps_are_orthonormal_and_subjects_agree_on_new_stimuli(alignment: Aligned, subjects: Subjects) -> None:
    for subject in alignment.subjects_.values():
        k = subject.weights.shape[1]
        assert np.allclose(subject.weights.T @ subject.weights, np.eye(k), atol=1e-4)
    a, b = (alignment.transform(name, subjects.test[name]) for name in (A, B))
    assert list(a.neuroid_ids) == list(b.neuroid_ids) and a.fingerprint() == b.fingerprint()
    assert list(a.stimulus_ids) == list(subjects.test[A].stimulus_ids)
    strong = alignment.shared_.std(0).argsort()[-N_CAUSES // 2 :]
    assert correlate(a.values, b.values)[strong].min() > 0.6


def test_srm_recovers_the_planted_causes_and_its_error_falls(subjects: Subjects) -> None:
    model = SharedResponseModel(N_CAUSES).fit(subjects.train)
    causes = subjects.causes[:-N_TEST]
    found = model.shared_[np.argsort([int(i[4:]) for i in model.stimulus_ids_])]
    fitted = found @ np.linalg.lstsq(found, causes, rcond=None)[0]
    assert correlate(fitted, causes).min() > 0.9
    assert (np.diff(model.errors_) < 1e-6).all() and model.errors_[-1] < model.errors_[0]


def test_no_agreement_from_noise() -> None:
    noise = plant(noise=1e3)
    model = SharedResponseModel(N_CAUSES).fit(noise.train)
    a, b = (model.transform(name, noise.test[name]).values for name in (A, B))
    assert np.abs(correlate(a, b)).mean() < 3 / np.sqrt(N_TEST)


def test_a_new_subject_joins_and_another_ones_decoder_reads_it(alignment: Aligned, subjects: Subjects) -> None:
    before = {name: subject.weights.copy() for name, subject in alignment.subjects_.items()}
    joined = type(alignment)._restore(alignment._config(), alignment._tensors())
    joined.add_subject(C, subjects.train[C].take(slice(100)))
    assert all(np.array_equal(joined.subjects_[name].weights, w) for name, w in before.items())
    ridge = LatentDecoder(reliability=None, calibration_folds=0)
    shared = ridge.fit(joined.transform(A, subjects.train[A]), subjects.embedding)
    found = shared.identify(joined.transform(C, subjects.test[C]), subjects.candidates, n_permutations=50)
    assert found.two_way_candidates > 0.9 and abs(found.null.mean - 1 / N_TEST) < 0.02
    native = LatentDecoder(reliability=None, calibration_folds=0).fit(subjects.train[A], subjects.embedding)
    decoded = transfer(native, joined, subjects.test[C], subject=C, fitted_on=subjects.train[A], fitted_subject=A)
    shown = [str(i) for i in subjects.test[C].stimulus_ids]
    carried = identify(decoded, shown, subjects.candidates, mean=native.feature_mean_, n_permutations=50)
    assert carried.two_way_candidates > 0.85
    with pytest.raises(LeakageError, match="fit of the decoder"):
        transfer(native, joined, subjects.train[C], subject=C, fitted_on=subjects.train[A], fitted_subject=A)


def test_saved_and_loaded(alignment: Aligned, subjects: Subjects, tmp_path: Path) -> None:
    alignment.save_pretrained(tmp_path / "model")
    loaded = type(alignment).from_pretrained(str(tmp_path / "model"))
    test = subjects.test[A]
    assert np.array_equal(loaded.transform(A, test).values, alignment.transform(A, test).values)


def test_refuses_what_does_not_fit(subjects: Subjects, alignment: Aligned) -> None:
    with pytest.raises(InputError, match="not fitted"):
        SharedResponseModel().transform(A, subjects.test[A])
    with pytest.raises(InputError, match="1 subject"):
        SharedResponseModel().fit({A: subjects.train[A]})
    with pytest.raises(InputError, match="51 shared features of 50"):
        SharedResponseModel(51).fit(subjects.train)
    with pytest.raises(RepetitionError, match="0 stimuli"):
        Hyperalignment().fit({A: subjects.train[A], B: subjects.test[B]})
    with pytest.raises(UnknownNameError, match="add_subject"):
        alignment.transform(C, subjects.test[C])
    with pytest.raises(ArtifactError, match="neuroids"):
        alignment.transform(A, subjects.test[B])
    with pytest.raises(DuplicateIdError):
        alignment.add_subject(A, subjects.train[A])
    with pytest.raises(RepetitionError, match="0 of the"):
        alignment.add_subject(C, subjects.test[C])
    with pytest.raises(Cancelled):
        SharedResponseModel(N_CAUSES).fit(subjects.train, stop=lambda: True)


def test_repetitions_count_as_their_mean(subjects: Subjects) -> None:
    once = {name: subjects.train[name] for name in (A, B)}
    twice = {
        name: Recording(
            np.concatenate([r.values + 1, r.values - 1]),
            {"stimulus_id": [*r.stimulus_ids, *r.stimulus_ids]},
            r.neuroids,
        )
        for name, r in once.items()
    }
    models = [SharedResponseModel(4, n_iterations=5).fit(recordings) for recordings in (once, twice)]
    assert np.allclose(models[0].shared_, models[1].shared_, atol=1e-3)
