"""BrainDecoder: each target from its own regions, out of fold, on a new day, from a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoders.brain import BrainDecoder
from decoders.selection import ConstantNeuroidWarning
from encoders import Features
from recordings import Recording
from recordings.errors import ArtifactError, Cancelled, InputError, RepetitionError, UnknownNameError
from recordings.events import Event
from recordings.statistics import correlate

N, N_TRAIN = 260, 200
OPTIONS: dict[str, Any] = {"alphas": np.logspace(0, 4, 5), "cv": 3, "reliability": None, "calibration_folds": 3}


class Planted:
    """V1 carries z, IT carries c; a third region carries nothing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        ids = [f"stim{i:03d}" for i in range(N)]
        z, c = rng.normal(2, 1, (N, 12)), rng.normal(-3, 1, (N, 4, 5))
        signal = np.hstack(
            [z @ rng.normal(size=(12, 40)) / 3.5, c.reshape(N, -1) @ rng.normal(size=(20, 40)) / 4.5, np.zeros((N, 20))]
        )
        values = signal + 0.4 * rng.normal(size=signal.shape)
        roi = ["V1"] * 40 + ["IT"] * 40 + ["none"] * 20
        recording = Recording(values, {"stimulus_id": ids}, {"roi": roi})
        self.train, self.test = recording.take(slice(0, N_TRAIN)), recording.take(slice(N_TRAIN, N))
        self.targets = {
            "z": Features.from_arrays(z, ids, layer="z"),
            "c": Features.from_arrays(c, ids, layer="c"),
        }

    def truth(self, target: str, recording: Recording) -> np.ndarray:
        features = self.targets[target]
        return features.read(features.rows(recording.stimulus_ids)).reshape(len(recording), -1)

    def r(self, decoded: dict[str, np.ndarray], recording: Recording) -> dict[str, float]:
        return {
            name: float(correlate(values.reshape(len(values), -1), self.truth(name, recording)).mean())
            for name, values in decoded.items()
        }


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def decoder(planted: Planted) -> BrainDecoder:
    return BrainDecoder({"z": ["V1"], "c": ["IT", "none"]}, **OPTIONS).fit(planted.train, planted.targets)


def test_decodes_each_target_from_its_regions(decoder: BrainDecoder, planted: Planted) -> None:
    decoded = decoder.predict(planted.test)
    assert decoded["z"].shape == (60, 12) and decoded["c"].shape == (60, 4, 5)
    assert all(values.dtype == np.float32 for values in decoded.values())
    assert min(planted.r(decoded, planted.test).values()) > 0.8
    # The regions that carry the other target tell nothing.
    with pytest.warns(UserWarning, match="largest"):
        crossed = BrainDecoder({"z": ["IT"], "c": ["V1"]}, **OPTIONS).fit(planted.train, planted.targets)
    assert max(map(abs, planted.r(crossed.predict(planted.test), planted.test).values())) < 0.15


def test_decodes_out_of_fold(decoder: BrainDecoder, planted: Planted) -> None:
    order = np.random.default_rng(1).permutation(N_TRAIN)
    shown = planted.train.take(np.concatenate([order, order[:30]]))
    again = BrainDecoder({"z": ["V1"], "c": None}, **OPTIONS)
    decoded = again.cross_predict(shown, planted.targets, 3)
    average = shown.average_repetitions()
    assert decoded["z"].shape == (N_TRAIN, 12) and decoded["c"].shape == (N_TRAIN, 4, 5)
    assert min(planted.r(decoded, average).values()) > 0.75
    # With its own targets shuffled, a stimulus tells nothing of them.
    ids = list(planted.train.stimulus_ids)
    shuffled = {n: Features.from_arrays(f.read(f.rows(ids))[order], ids) for n, f in planted.targets.items()}
    nothing = again.cross_predict(planted.train, shuffled, 3)
    assert abs(correlate(nothing["z"], shuffled["z"].read()).mean()) < 0.1


def test_round_trip(decoder: BrainDecoder, planted: Planted, tmp_path: Path) -> None:
    decoder.save_pretrained(tmp_path / "brain")
    again = BrainDecoder.from_pretrained(str(tmp_path / "brain"))
    before, after = decoder.predict(planted.test), again.predict(planted.test)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert again.rois == decoder.rois and again.rescale
    assert {p.suffix for p in (tmp_path / "brain").rglob("*") if p.is_file()} == {".json", ".safetensors", ".md"}
    assert "c, from IT, none" in (tmp_path / "brain" / "README.md").read_text()
    weights = tmp_path / "brain" / "targets" / "z" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"z.model\.safetensors"):
        BrainDecoder.from_pretrained(str(tmp_path / "brain"))


def test_follows_to_a_new_day(planted: Planted) -> None:
    rng = np.random.default_rng(2)
    moved = planted.test.values * np.exp(0.4 * rng.normal(size=100)) + 3 * rng.normal(size=100)
    day = Recording(moved.astype(np.float32), planted.test.presentations, planted.test.neuroids)
    decoder = BrainDecoder({"z": ["V1"], "c": ["V1", "IT"]}, **OPTIONS).fit(planted.train, planted.targets)
    report = decoder.drift(day, planted.targets)
    # Neuroids of V1 are read for both targets and count once.
    assert len(report.neuroid_ids) == len(report.gain) == 80 and report.share_drifted > 0.5
    assert report.recommendation == "recalibrate" == decoder.drift(day).recommendation
    assert report.r_before is not None and report.r_after is not None
    assert all(report.r_after[name] > report.r_before[name] + 0.1 for name in ("z", "c"))
    assert report.to_dict()["share_drifted"] == report.share_drifted
    same = decoder.drift(planted.test)
    assert same.share_drifted < 0.1 and same.recommendation == "keep" and "r_after" not in same.to_dict()

    rest = day.take(slice(30, 60))
    error = {n: ((v.reshape(30, -1) - planted.truth(n, rest)) ** 2).mean() for n, v in decoder.predict(rest).items()}
    decoder.partial_fit(day.take(slice(0, 30)), planted.targets)
    for name, values in decoder.predict(rest).items():
        assert ((values.reshape(30, -1) - planted.truth(name, rest)) ** 2).mean() < 0.6 * error[name]


def test_refuses_unknown_names(decoder: BrainDecoder, planted: Planted) -> None:
    with pytest.raises(UnknownNameError, match="V9"):
        BrainDecoder({"z": ["V9"]}, **OPTIONS).fit(planted.train, {"z": planted.targets["z"]})
    with pytest.raises(UnknownNameError, match="no features of target 'depth'"):
        BrainDecoder({"depth": None}, **OPTIONS).fit(planted.train, {})
    with pytest.raises(UnknownNameError, match="no regions for target 'c'"):
        BrainDecoder({"z": None}, **OPTIONS).fit(planted.train, planted.targets)
    for rois in ({}, {"z": []}, {"z": "V1"}, {"../z": None}, {"a/b": None}):
        with pytest.raises(InputError):
            BrainDecoder(rois)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="alpha"):
        BrainDecoder({"z": None}, alpha=3)
    with pytest.raises(InputError, match="not fitted"):
        BrainDecoder({"z": None}).predict(planted.test)
    with pytest.raises(ArtifactError, match="neuroids"):
        decoder.predict(planted.test.take(neuroid=slice(0, 90)))
    with pytest.raises(RepetitionError, match="3 stimuli"):
        decoder.drift(planted.test.take(slice(0, 3)))


def test_says_what_it_does_and_can_be_stopped(planted: Planted) -> None:
    events: list[Event] = []
    fresh = BrainDecoder({"z": ["V1"]}, **OPTIONS)
    fresh.fit(planted.train, {"z": planted.targets["z"]}, on_event=events.append)
    assert {event.stage for event in events} >= {"z: read targets", "z: fit targets", "z: calibrate"}
    with pytest.raises(Cancelled):
        BrainDecoder({"z": ["V1"]}, **OPTIONS).fit(planted.train, {"z": planted.targets["z"]}, stop=lambda: True)


def test_constant_neuroids_are_told_once_for_all_targets(planted: Planted) -> None:
    values = planted.train.values.copy()
    # Six that are read for both targets, one for c alone, and two that are read for none.
    dead = [*range(6), 45, 80, 81]
    values[:, dead] = 0.1
    train = Recording(values, planted.train.presentations, planted.train.neuroids)
    decoder = BrainDecoder({"z": ["V1"], "c": ["V1", "IT"]}, **OPTIONS)
    for call in (lambda: decoder.fit(train, planted.targets), lambda: decoder.cross_predict(train, planted.targets, 3)):
        with pytest.warns(ConstantNeuroidWarning) as warned:
            call()
        (message,) = [str(w.message) for w in warned if w.category is ConstantNeuroidWarning]
        first = ", ".join(map(str, train.neuroid_ids[:5]))
        assert message.startswith("7 of 80 neuroids") and message.endswith(f"left out: {first}, ...")
    assert not set(dead) & set(decoder.decoders_["z"].neuroids_.tolist())
    assert min(planted.r(decoder.predict(planted.test), planted.test).values()) > 0.75
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConstantNeuroidWarning)
        BrainDecoder({"z": ["V1"], "c": ["IT"]}, **OPTIONS).fit(planted.train, planted.targets)


def test_a_region_of_constants_alone_is_refused(planted: Planted) -> None:
    values = planted.train.values.copy()
    values[:, 80:] = 0.1
    train = Recording(values, planted.train.presentations, planted.train.neuroids)
    with (
        pytest.warns(ConstantNeuroidWarning, match="20 of 20"),
        pytest.raises(RepetitionError, match="no neuroid varies"),
    ):
        BrainDecoder({"z": ["none"]}, **OPTIONS).fit(train, {"z": planted.targets["z"]})
