"""Ensembles: no worse than the best member anywhere, weights that sum to one, and three sets that stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from encoders import Ensemble, Features, RidgeEncoder, TransformerEncoder, load_encoder
from encoders.ensemble import member_weights
from recordings import Recording
from recordings.errors import ArtifactError, InputError, LeakageError, RepetitionError
from recordings.statistics import correlate

IDS = [f"s{i:03d}" for i in range(160)]
TRAIN, WEIGHTS, TEST = IDS[:90], IDS[90:120], IDS[120:]


class World:
    """Layer "early" drives neuroids of A, layer "late" those of B, noise those of C; 6 neuroids each."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        values = {name: rng.standard_normal((160, 8)).astype(np.float32) for name in ("early", "late")}
        self.layers = {name: Features.from_arrays(v, IDS, layer=name) for name, v in values.items()}
        signal = [values[name] @ rng.standard_normal((8, 6)) / 8**0.5 for name in ("early", "late")]
        self.responses = np.hstack([*signal, np.zeros((160, 6))]) + 0.7 * rng.standard_normal((160, 18))
        self.neuroids = pd.DataFrame({"neuroid_id": [f"v{i}" for i in range(18)], "roi": np.repeat([*"ABC"], 6)})

    def part(self, ids: Sequence[str]) -> Recording:
        return Recording(self.responses[[IDS.index(i) for i in ids]], {"stimulus_id": list(ids)}, self.neuroids)

    def ridge(self, name: str, ids: Sequence[str] = TRAIN) -> RidgeEncoder:
        return RidgeEncoder(alphas=(1, 30, 1000)).fit(self.layers[name], self.part(ids))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def fitted(world: World) -> Ensemble:
    members = {name: world.ridge(name) for name in ("early", "late")}
    return Ensemble(members).fit(world.layers, world.part(WEIGHTS))


def test_at_least_as_good_as_the_best_member_in_every_region(world: World, fitted: Ensemble) -> None:
    test = world.part(TEST)
    whole = fitted.score(world.layers, test, n_bootstrap=0)
    alone = {name: m.score(world.layers[name], test, n_bootstrap=0) for name, m in fitted.members.items()}
    for region in "AB":
        assert whole.by_roi()[region] > max(score.by_roi()[region] for score in alone.values()) - 0.01
    assert whole.center > max(score.center for score in alone.values()) + 0.1


def test_weights_sum_to_one_and_go_where_the_signal_is(fitted: Ensemble) -> None:
    np.testing.assert_allclose(fitted.weights_.sum(0), 1, atol=1e-6)
    early, late = fitted.weights_
    assert early[:6].min() > 0.95 and late[6:12].min() > 0.95
    np.testing.assert_allclose(fitted.weights_, np.exp(40 * fitted.r_) / np.exp(40 * fitted.r_).sum(0), rtol=1e-4)


def test_r_copies_of_a_member_are_that_member(world: World) -> None:
    member = world.ridge("early")
    ensemble = Ensemble({str(k): member for k in range(10)}).fit(world.layers["early"], world.part(WEIGHTS))
    alone = member.predict(world.layers["early"], TEST)
    np.testing.assert_allclose(ensemble.predict(world.layers["early"], TEST), alone, atol=1e-6)
    assert np.allclose(ensemble.weights_, 0.1)


def test_without_signal_it_finds_none(world: World) -> None:
    rng = np.random.default_rng(1)
    shuffled = Recording(world.responses[rng.permutation(160)][:90], {"stimulus_id": TRAIN}, world.neuroids)
    members = {name: RidgeEncoder(alphas=(1, 30)).fit(world.layers[name], shuffled) for name in world.layers}
    ensemble = Ensemble(members).fit(world.layers, world.part(WEIGHTS))
    assert abs(np.nanmean(ensemble.score(world.layers, world.part(TEST), n_bootstrap=0).values)) < 0.12


def test_training_weights_and_score_use_three_sets(world: World, fitted: Ensemble) -> None:
    assert set(fitted.stimulus_ids_) == {*TRAIN, *WEIGHTS}
    for seen in (TRAIN[:5], WEIGHTS[:5]):
        with pytest.raises(LeakageError, match=seen[0]):
            fitted.score(world.layers, world.part([*TEST, *seen]))
    with pytest.raises(LeakageError, match=TRAIN[0]):
        Ensemble(fitted.members).fit(world.layers, world.part([*WEIGHTS, TRAIN[0]]))


def test_stimuli_that_chose_an_epoch_cannot_give_weights(world: World) -> None:
    rng = np.random.default_rng(0)
    tokens = Features.from_arrays(rng.standard_normal((160, 4, 8)), IDS, grid=[2, 2])
    member = TransformerEncoder(n_heads=2, feedforward=8, epochs=1, refit=False, device="cpu")
    member.fit(tokens, world.part(TRAIN[10:]), validation=world.part(TRAIN[:10]))
    with pytest.raises(LeakageError, match=TRAIN[0]):
        Ensemble({"a": member}).fit(tokens, world.part([*WEIGHTS, TRAIN[0]]))
    ensemble = Ensemble({"tokens": member, "ridge": world.ridge("early")})
    given = {"tokens": tokens, "ridge": world.layers["early"]}
    ensemble.fit(given, world.part(WEIGHTS))
    assert ensemble.predict(given, TEST).shape == (40, 18)


def test_a_constant_prediction_has_no_weight_unless_all_are_constant() -> None:
    nan = np.nan
    r = np.array([[0.5, nan, nan], [nan, -0.9, nan], [0.5, nan, nan]], np.float32)
    expected = [[0.5, 0, 1 / 3], [0, 1, 1 / 3], [0.5, 0, 1 / 3]]
    np.testing.assert_allclose(member_weights(r, 40), expected, atol=1e-7)
    np.testing.assert_allclose(member_weights(np.nan_to_num(r), 0), 1 / 3, atol=1e-7)


def test_repetitions_are_averaged_and_delays_keep_the_order(world: World) -> None:
    part = world.part(WEIGHTS)
    twice = Recording(
        np.vstack([part.values + 1, part.values - 1]),
        {"stimulus_id": WEIGHTS * 2, "run": [0] * 30 + [1] * 30},
        world.neuroids,
    )
    once, again = (Ensemble({"a": world.ridge("early")}).fit(world.layers["early"], x) for x in (part, twice))
    np.testing.assert_allclose(once.r_, again.r_, atol=1e-5)

    runs = np.repeat(np.arange(9), 10)
    movie = Recording(world.responses[:90], {"stimulus_id": TRAIN, "run": runs}, world.neuroids)
    delayed = RidgeEncoder(alphas=(1, 30), delays=(0, 1), cv=3).fit(world.layers["early"], movie)
    ensemble = Ensemble({"now": world.ridge("early"), "then": delayed})
    later = Recording(
        world.responses[90:120], {"stimulus_id": WEIGHTS, "run": np.repeat([0, 1, 2], 10)}, world.neuroids
    )
    ensemble.fit(world.layers["early"], later)
    labels = np.repeat([0, 1, 2], 10)
    r = correlate(delayed.predict(world.layers["early"], WEIGHTS, runs=labels), later.values)
    assert ensemble.delays == [0, 1]
    np.testing.assert_allclose(ensemble.r_[1], r, atol=1e-5)


def test_it_comes_back_from_its_folder_with_its_members(world: World, fitted: Ensemble, tmp_path: Path) -> None:
    nested = Ensemble({"pair": fitted, "more": world.ridge("early")})
    given = {"pair": world.layers, "more": world.layers["early"]}
    nested.fit(given, world.part(TEST[:20]))
    nested.save_pretrained(tmp_path / "nested")
    back = load_encoder(tmp_path / "nested")
    assert isinstance(back, Ensemble) and isinstance(back.members["pair"], Ensemble)
    np.testing.assert_allclose(back.predict(given, TEST), nested.predict(given, TEST), atol=1e-6)
    assert back.stimulus_ids_ == nested.stimulus_ids_ and back.temperature == 40
    assert "mean weight" in (tmp_path / "nested" / "README.md").read_text()
    with pytest.raises(LeakageError):
        back.score(given, world.part(TEST[:20]))


class TestBadInput:
    def test_members_of_other_neuroids(self, world: World) -> None:
        part = world.part(TRAIN)
        other = RidgeEncoder(alphas=(1,)).fit(world.layers["early"], part.roi("A"))
        with pytest.raises(ArtifactError, match="other neuroids"):
            Ensemble({"a": world.ridge("early"), "b": other}).fit(world.layers["early"], world.part(WEIGHTS))

    def test_members_that_are_not_fitted(self, world: World) -> None:
        with pytest.raises(InputError, match="not fitted"):
            Ensemble({"a": RidgeEncoder()}).fit(world.layers["early"], world.part(WEIGHTS))
        with pytest.raises(InputError, match="not fitted"):
            Ensemble({"a": world.ridge("early")}).predict(world.layers["early"])

    def test_nothing_to_weigh(self, world: World, fitted: Ensemble) -> None:
        with pytest.raises(InputError, match="no members"):
            Ensemble({}).fit(world.layers, world.part(WEIGHTS))
        with pytest.raises(RepetitionError, match="2 stimuli"):
            Ensemble(fitted.members).fit(world.layers, world.part(WEIGHTS[:2]))

    def test_features_of_another_layer(self, world: World, fitted: Ensemble) -> None:
        with pytest.raises(ArtifactError, match="not those of the fit"):
            fitted.predict({"early": world.layers["late"], "late": world.layers["late"]})

    @pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
    def test_names_that_cannot_be_folders(self, world: World, name: str) -> None:
        with pytest.raises(InputError, match="cannot name a folder"):
            Ensemble({name: world.ridge("early")}).fit(world.layers["early"], world.part(WEIGHTS))

    def test_a_negative_temperature(self, world: World, fitted: Ensemble) -> None:
        with pytest.raises(InputError, match="temperature"):
            Ensemble(fitted.members, temperature=-1).fit(world.layers, world.part(WEIGHTS))

    def test_nuisance_regressors(self, world: World) -> None:
        motion = np.linspace(0, 1, 90)[:, None]
        member = RidgeEncoder(alphas=(1,)).fit(world.layers["early"], world.part(TRAIN), nuisance=motion)
        with pytest.raises(InputError, match="nuisance"):
            Ensemble({"a": member}).fit(world.layers["early"], world.part(WEIGHTS))
