"""Standardisation by session: what sessions add is taken off a fit and its evaluation, and never learnt on held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoders import LatentDecoder
from encoders import Features, RidgeEncoder, load_encoder
from recordings import Recording, SessionScaler
from recordings.errors import ArtifactError, MismatchedIdsError, RepetitionError
from studies.standardise import standardise_as_fitted, standardise_sessions

SESSIONS = np.random.default_rng(5).integers(0, 3, 120)


def record(world: Path, path: Path, held_out: tuple[str, ...] = (), extra: float = 0) -> Path:
    """Responses to the layer "good", each stimulus in one of three sessions, which add far more than stimuli do.

    `extra` is added to what the held-out stimuli evoke.
    """
    rng = np.random.default_rng(3)
    x = Features.load(world / "features.zarr", "good")
    signal = x.read() @ rng.standard_normal((10, 12))
    values = signal / signal.std(0) + 0.5 * rng.standard_normal(signal.shape)
    offset, gain = 12 * rng.standard_normal((3, 12)), np.array([1.0, 4.0, 0.5])
    ids = [str(i) for i in x.stimulus_ids]
    values = values * gain[SESSIONS][:, None] + offset[SESSIONS] + extra * np.isin(ids, held_out)[:, None]
    Recording(values, {"stimulus_id": ids, "session": SESSIONS}).save(path)
    return path


def run(penfield: Callable[..., Any], *command: object) -> dict[str, Any]:
    result = penfield(*command, "--json")
    assert result.exit_code == 0, result.stderr
    return dict(result.json)


@pytest.mark.parametrize("room", ["encode", "decode"])
def test_what_sessions_add_is_taken_off(penfield: Callable[..., Any], world: Path, room: str) -> None:
    both = ("-r", record(world, world / "r.zarr"), "-f", world / "features.zarr", "--layer", "good")
    found = {}
    for name, options in {"plain": (), "scaled": ("--standardise", "session")}.items():
        more = ("--all-neuroids",) if room == "decode" else ()
        run(penfield, room, "fit", *both, *more, *options, "--out", world / name)
        answer = run(penfield, room, "evaluate", "-m", world / name, *both)
        found[name] = answer["center" if room == "encode" else "accuracy"]
    assert found["scaled"] > 0.8 and found["scaled"] > found["plain"] + 0.1


def test_nothing_of_the_held_out_reaches_the_fit(penfield: Callable[..., Any], world: Path) -> None:
    first = record(world, world / "first.zarr")
    fit = ("encode", "fit", "-f", world / "features.zarr", "--layer", "good", "--standardise", "session")
    run(penfield, *fit, "-r", first, "--out", world / "a")
    seen = load_encoder(world / "a").stimulus_ids_
    held_out = tuple(set(map(str, Recording.load(first).stimulus_ids)) - set(seen))
    run(penfield, *fit, "-r", record(world, world / "second.zarr", held_out, 100), "--out", world / "b")
    features = Features.load(world / "features.zarr", "good")
    one, other = (load_encoder(world / name).predict(features, list(held_out)) for name in "ab")
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("room", ["encode", "decode"])
def test_a_session_held_out_as_a_whole_is_refused(refused: Callable[..., str], world: Path, room: str) -> None:
    recording = record(world, world / "r.zarr")
    command = (room, "fit", "-r", recording, "-f", world / "features.zarr", "--layer", "good", "--split", "session:2")
    line = refused(*command, "--standardise", "session", "--out", world / "model")
    assert "session 2 has no training data" in line and "Hold out stimuli" in line
    assert not (world / "model").exists()


def test_categories_are_not_standardised(refused: Callable[..., str], world: Path) -> None:
    recording = record(world, world / "r.zarr")
    assert "categories" in refused("decode", "fit", "-r", recording, "--standardise", "session", "--out", world / "m")


def test_responses_on_another_scale_are_refused(world: Path, tmp_path: Path) -> None:
    whole = Recording.load(record(world, tmp_path / "r.zarr"))
    x = Features.load(world / "features.zarr", "good")
    train, test = whole.take(np.arange(90)), whole.take(np.arange(90, 120))
    scaled = standardise_sessions(train, whole)
    RidgeEncoder().fit(x, scaled).save_pretrained(tmp_path / "encoder")
    LatentDecoder(reliability=None).fit(scaled, x).save_pretrained(tmp_path / "decoder")
    encoder, decoder = load_encoder(tmp_path / "encoder"), LatentDecoder.from_pretrained(tmp_path / "decoder")
    with pytest.raises(ArtifactError, match="not standardised, those of the fit were standardised by session"):
        encoder.held_out(test)
    with pytest.raises(ArtifactError, match="standardised"):
        decoder.predict(test)
    plain = RidgeEncoder().fit(x, train)
    with pytest.raises(ArtifactError, match="standardised by session, those of the fit were not"):
        plain.held_out(SessionScaler().fit(train).transform(test))
    assert standardise_as_fitted(plain.recording_, test, plain.stimulus_ids_) is test
    with pytest.raises(RepetitionError, match="none of its stimuli"):
        standardise_as_fitted(encoder.recording_, test, encoder.stimulus_ids_)
    new = Recording(whole.values, {"stimulus_id": whole.stimulus_ids, "session": np.where(np.arange(120) < 90, 0, 7)})
    with pytest.raises(MismatchedIdsError, match="session 7 has no training data"):
        standardise_as_fitted(encoder.recording_, new, encoder.stimulus_ids_)
    alike = standardise_as_fitted(encoder.recording_, whole, encoder.stimulus_ids_)
    np.testing.assert_array_equal(alike.take(np.arange(90)).values, scaled.values)
