"""The transformer encoder on planted worlds: it finds what moves, survives a stop, and refuses what it cannot use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoders import Features, RidgeEncoder
from encoders.attention import TransformerEncoder
from recordings import Recording
from recordings.errors import (
    ArtifactError,
    Cancelled,
    InputError,
    LeakageError,
    MismatchedIdsError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)

SIDE, CHANNELS = 5, 32
FAST = {"hidden": 16, "n_heads": 2, "feedforward": 16, "epochs": 2, "learning_rate": 5e-3, "device": "cpu"}


def moving_objects(n: int, seed: int = 0) -> tuple[Features, Recording, np.ndarray]:
    """Pictures with one marked token at a random place whose look drives two neuroids of a patch; and its place.

    A third neuroid, of V1, answers to one fixed place.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((n, SIDE**2, CHANNELS)).astype(np.float32)
    place = rng.integers(SIDE**2, size=n)
    tokens[:, :, 0] = -1.0
    tokens[np.arange(n), place, 0] = 4.0
    look = tokens[np.arange(n), place][:, 1:3]
    responses = np.concatenate([look, tokens[:, 7, 3:4]], 1) + 0.3 * rng.standard_normal((n, 3))
    ids = [f"s{seed}-{i}" for i in range(n)]
    recording = Recording(
        responses.astype(np.float32),
        {"stimulus_id": ids},
        {"neuroid_id": ["a", "b", "c"], "roi": ["patch", "patch", "V1"]},
    )
    return Features.from_arrays(tokens, ids, grid=[SIDE, SIDE]), recording, place


@pytest.fixture(scope="module")
def small() -> tuple[Features, Recording, np.ndarray]:
    return moving_objects(80)


@pytest.fixture(scope="module")
def fitted(small: tuple[Features, Recording, np.ndarray]) -> TransformerEncoder:
    features, recording, _ = small
    return TransformerEncoder("roi", **FAST).fit(features, recording)


# Planted truth ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt() -> TransformerEncoder:
    features, recording, _ = moving_objects(800)
    options = FAST | {"epochs": 20, "n_heads": 2, "hidden": 32, "dropout": 0.0, "clip": 1.0, "learning_rate": 1e-2}
    return TransformerEncoder("roi", **options).fit(features, recording)


def test_attention_follows_what_moves_and_a_flattened_ridge_does_not(learnt: TransformerEncoder) -> None:
    test, unseen, place = moving_objects(300, seed=1)
    ours = learnt.score(test, unseen, n_bootstrap=0).values
    features, recording, _ = moving_objects(800)
    ridge = RidgeEncoder().fit(features, recording).score(test, unseen, n_bootstrap=0).values
    assert (ours[:2] > ridge[:2] + 0.1).all()
    assert ours[:2].min() > 0.9
    assert ours[2] > 0.6
    maps = learnt.attention(test)
    patch, fixed = (maps.weights[:, maps.queries.index(name)].reshape(300, -1) for name in ("patch", "V1"))
    assert (patch.argmax(1) == place).mean() > 0.8
    assert fixed.mean(0).argmax() == 7


def test_shuffled_pairs_are_not_predicted() -> None:
    features, recording, _ = moving_objects(200)
    order = np.random.default_rng(0).permutation(200)
    shuffled = Recording(recording.values[order], recording.presentations, recording.neuroids)
    encoder = TransformerEncoder("roi", **FAST).fit(features, shuffled)
    test, unseen, _ = moving_objects(400, seed=1)
    assert abs(encoder.score(test, unseen, n_bootstrap=0).values.mean()) < 3 / np.sqrt(3 * 400)


# Save, load, resume ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["roi", "vertex", "spatial_roi", "spatial", "gaussian"])
def test_a_loaded_encoder_predicts_the_same(
    routing: str, small: tuple[Features, Recording, np.ndarray], tmp_path: Path
) -> None:
    features, recording, _ = small
    attends = routing in ("roi", "vertex")
    options = FAST if attends else {k: v for k, v in FAST.items() if k not in ("hidden", "n_heads", "feedforward")}
    encoder = TransformerEncoder(routing, **options).fit(features, recording)
    encoder.save_pretrained(tmp_path / "model")
    loaded = TransformerEncoder.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(features), encoder.predict(features), atol=1e-6)
    assert loaded.history_ == encoder.history_
    assert loaded.stimulus_ids_ == sorted(recording.stimulus_ids)
    few = [str(i) for i in recording.stimulus_ids[[5, 2]]]
    # Another batch is another order of additions.
    np.testing.assert_allclose(loaded.predict(features, few), encoder.predict(features)[[5, 2]], atol=1e-5)


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_a_fit_that_was_stopped_goes_on_to_the_same_weights(
    steps: int, small: tuple[Features, Recording, np.ndarray], fitted: TransformerEncoder, tmp_path: Path
) -> None:
    features, recording, _ = small
    seen: list[int] = []

    def stop() -> bool:
        return len(seen) >= steps

    with pytest.raises(Cancelled):
        TransformerEncoder("roi", **FAST).fit(
            features, recording, checkpoints=tmp_path, on_event=lambda e: seen.append(e.done), stop=stop
        )
    resumed = TransformerEncoder("roi", **FAST).fit(features, recording, checkpoints=tmp_path)
    for name, value in fitted.module_.state_dict().items():
        np.testing.assert_array_equal(resumed.module_.state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_a_checkpoint_of_another_subject_or_setting_is_refused(
    small: tuple[Features, Recording, np.ndarray], tmp_path: Path
) -> None:
    features, recording, _ = small
    TransformerEncoder("roi", **FAST).fit(features, recording, checkpoints=tmp_path)
    other = Recording(recording.values * 2 + 1, recording.presentations, recording.neuroids)
    with pytest.raises(ArtifactError, match="responses"):
        TransformerEncoder("roi", **FAST).fit(features, other, checkpoints=tmp_path)
    order = np.random.default_rng(0).permutation(80)
    shuffled = Recording(recording.values[order], recording.presentations, recording.neuroids)
    with pytest.raises(ArtifactError, match="responses"):
        TransformerEncoder("roi", **FAST).fit(features, shuffled, checkpoints=tmp_path)
    with pytest.raises(ArtifactError, match="n_heads was 2, is 4"):
        TransformerEncoder("roi", **FAST | {"n_heads": 4}).fit(features, recording, checkpoints=tmp_path)


def test_a_second_fit_that_is_stopped_leaves_no_fitted_encoder(small: tuple[Features, Recording, np.ndarray]) -> None:
    features, recording, _ = small
    encoder = TransformerEncoder("roi", **FAST).fit(features, recording.take(np.arange(40)))
    with pytest.raises(Cancelled):
        encoder.fit(features, recording.take(np.arange(40, 80)), stop=lambda: True)
    with pytest.raises(InputError, match="not fitted"):
        encoder.predict(features)


# Several sources -------------------------------------------------------------------------------------------------


def test_layers_of_several_grids_are_laid_side_by_side(small: tuple[Features, Recording, np.ndarray]) -> None:
    features, recording, _ = small
    coarse = np.random.default_rng(2).standard_normal((80, 4, 3)).astype(np.float32)
    other = Features.from_arrays(coarse, list(features.stimulus_ids), grid=[2, 2])
    both = {"fine": features, "coarse": other}
    encoder = TransformerEncoder("roi", **FAST).fit(both, recording)
    assert encoder.attention(both).weights.shape == (80, 2, SIDE, SIDE)
    with pytest.raises(ArtifactError, match="fitted on"):
        encoder.predict(features)
    changed = Features.from_arrays(coarse + 1, list(features.stimulus_ids), grid=[2, 2])
    assert not np.allclose(encoder.predict(both), encoder.predict(both | {"coarse": changed}))


# Bad input -------------------------------------------------------------------------------------------------------


def test_tokens_need_a_grid_that_fits(small: tuple[Features, Recording, np.ndarray]) -> None:
    features, recording, _ = small
    ids, values = list(features.stimulus_ids), features.read()
    encoder = TransformerEncoder("roi", **FAST)
    with pytest.raises(InputError, match="no grid"):
        encoder.fit(Features.from_arrays(values, ids), recording)
    with pytest.raises(ShapeError, match="25 tokens on a grid of 4 x 6"):
        encoder.fit(Features.from_arrays(values, ids, grid=[4, 6]), recording)
    with pytest.raises(ShapeError, match="not \\(stimulus, token, channel\\)"):
        encoder.fit(Features.from_arrays(values[:, 0], ids), recording)


def test_responses_must_be_finite_and_stimuli_known(small: tuple[Features, Recording, np.ndarray]) -> None:
    features, recording, _ = small
    values = recording.values.copy()
    values[3, 1] = np.nan
    broken = Recording(values, recording.presentations, recording.neuroids)
    with pytest.raises(NotFiniteError, match="'b'"):
        TransformerEncoder("roi", **FAST).fit(features, broken)
    with pytest.raises(MismatchedIdsError, match="no features for stimulus"):
        TransformerEncoder("roi", **FAST).fit(features.select(list(features.stimulus_ids[:40])), recording)


def test_stimuli_that_chose_the_epoch_count_as_seen(
    small: tuple[Features, Recording, np.ndarray], fitted: TransformerEncoder
) -> None:
    features, recording, _ = small
    with pytest.raises(LeakageError):
        fitted.score(features, recording.take([0, 1, 2]))
    with pytest.raises(LeakageError, match="validation"):
        TransformerEncoder("roi", **FAST).fit(features, recording, validation=recording.take([0, 1]))


def test_responses_that_choose_the_epoch_are_of_the_same_neuroids(
    small: tuple[Features, Recording, np.ndarray],
) -> None:
    features, recording, _ = small
    train, chosen = recording.take(np.arange(60)), recording.take(np.arange(60, 80))
    for other in (chosen.take(neuroid=[2, 1, 0]), chosen.take(neuroid=[0, 1])):
        with pytest.raises(ArtifactError, match="validation: other neuroids"):
            TransformerEncoder("roi", **FAST).fit(features, train, validation=other)


def test_settings_that_make_no_sense_are_refused(small: tuple[Features, Recording, np.ndarray]) -> None:
    features, recording, _ = small
    for error, options in (
        (UnknownNameError, {"routing": "everywhere"}),
        (InputError, {"hidden": 10, "n_heads": 4}),
        (InputError, {"fold_keys": True, "n_layers": 2}),
        (InputError, {"validation": 1.5}),
        (UnknownNameError, {"haemodynamics": "none"}),
        (UnknownNameError, {"position": "none"}),
        (InputError, {"n_heads": 0}),
        (InputError, {"hidden": None, "n_heads": 64}),
        (InputError, {"learning_rate": -1.0}),
        (InputError, {"clip": 0.0}),
        (InputError, {"dropout": 2.0}),
        (InputError, {"grid": (0, 3)}),
        (InputError, {"step_epochs": 3}),
        (InputError, {"haemodynamics": "query"}),
        (InputError, {"routing": "gaussian"}),
    ):
        with pytest.raises(error):
            TransformerEncoder(**FAST | options).fit(features, recording)


def test_unknown_queries_are_named(small: tuple[Features, Recording, np.ndarray], fitted: TransformerEncoder) -> None:
    features, _, _ = small
    whole = fitted.attention(features)
    assert whole.queries == ("V1", "patch")
    for names in (["patch"], ["patch", "V1"], ["V1", "V1"]):
        asked = fitted.attention(features, queries=names)
        columns = [whole.queries.index(name) for name in names]
        np.testing.assert_allclose(asked.weights, whole.weights[:, columns], atol=1e-7)
    with pytest.raises(InputError, match="no stimuli"):
        fitted.attention(features, [])
    assert fitted.predict(features, []).shape == (0, 3)
    with pytest.raises(UnknownNameError, match="There are: V1, patch"):
        fitted.attention(features, queries=["V5"])
    with pytest.raises(InputError, match="not fitted"):
        TransformerEncoder("roi").predict(features)
