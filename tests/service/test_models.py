"""Models answer as the library's own calls do: alone bit for bit, together within 1e-4, and each fails for itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decoders import Reconstructions
from decoders.pictures import PRESETS
from encoders import FeatureExtractor, Features, RidgeEncoder, extract, load_encoder
from recordings import Recording, Stimuli, Subject
from recordings.errors import ArtifactError, Cancelled, InputError, ShapeError, UnknownNameError
from recordings.events import Event
from service.errors import BudgetError, DamagedModelError, WrongUnitsError
from service.items import DecodedRow, DecodeItem, EncodeItem
from service.models import load_model
from service.models.decoder import DecoderModel
from service.models.encoder import EncoderModel
from service.repository import ModelRepository
from studies.pictures.drawing import Drawing, reconstruct

from .conftest import DECODER, ENCODER, LATENT, LAYER, fit_encoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tokens and is cut"),
    pytest.mark.filterwarnings("ignore:decoded z has an s.d."),
]

STEPS = 3


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> EncoderModel:
    model = load_model(ModelRepository(encoder_folder).find(ENCODER), "cpu")
    assert isinstance(model, EncoderModel)
    return model


@pytest.fixture(scope="module")
def decoder(models_folder: Path) -> DecoderModel:
    model = load_model(ModelRepository(models_folder).find(DECODER), "cpu")
    assert isinstance(model, DecoderModel)
    return model


def decode(model: DecoderModel, *items: DecodeItem, stop: Any = None, told: list[Event] | None = None) -> list[Any]:
    on_event = None if told is None else told.append
    return model.decode(items, [on_event] * len(items), [stop] * len(items), [None] * len(items))


def rows_of(responses: Recording, rows: Sequence[int], outputs: set[str], **options: Any) -> DecodeItem:
    ids = tuple(str(responses.stimulus_ids[row]) for row in rows)
    how: dict[str, Any] = {"steps": STEPS} | options
    return DecodeItem(responses.values[list(rows)], frozenset(outputs), ids, **how)


def test_pictures_give_what_extract_and_predict_give(
    encoder: EncoderModel, encoder_folder: Path, pictures: list[np.ndarray], scene_features: Features
) -> None:
    local = load_encoder(encoder_folder / ENCODER).predict(scene_features, list(scene_features.stimulus_ids[:5]))
    [alone] = encoder.encode([EncodeItem(images=pictures[:5])])
    np.testing.assert_allclose(alone, local, rtol=0, atol=1e-4)
    [features] = encoder.encode([EncodeItem(features={"": scene_features.read(slice(0, 5))})])
    np.testing.assert_array_equal(features, local)
    two, one, fed = encoder.encode(
        [
            EncodeItem(images=pictures[:2]),
            EncodeItem(images=pictures[2:5]),
            EncodeItem(features={"any name": scene_features.read(slice(0, 5))}),
        ]
    )
    np.testing.assert_allclose(np.concatenate([two, one]), local, rtol=0, atol=1e-4)
    np.testing.assert_allclose(fed, local, rtol=0, atol=1e-4)


def test_the_artifact_tells_how_features_are_made(encoder: EncoderModel, scene_features: Features) -> None:
    [space] = encoder.describe().features
    assert (space.uri, space.layer, space.readout) == ("miniature:backbone", LAYER, "pooled")
    assert space.shape == scene_features.shape[1:] and space.fingerprint == scene_features.fingerprint()


def test_an_artifact_that_tells_it_not_or_of_other_weights_asks_for_features(
    encoder_folder: Path, pictures: list[np.ndarray], scene_features: Features, tmp_path: Path
) -> None:
    asked = [EncodeItem(images=pictures[:1]), EncodeItem(features={"": scene_features.read(slice(0, 1))})]
    for name, error in (("space", InputError), ("weights", ArtifactError)):
        shutil.copytree(encoder_folder / ENCODER, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        if name == "space":
            del config["bands"][0]["space"]
        else:
            other = Features(np.empty((1, 192), np.float32), ["any"], scene_features.attrs | {"weights": "others"})
            config["bands"][0] |= {"space": other.space(), "fingerprint": other.fingerprint()}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        model = load_model(ModelRepository(tmp_path).find(name), "cpu")
        model.warm_up()
        assert isinstance(model, EncoderModel)
        refused, answered = model.encode(asked)
        assert isinstance(refused, error) and answered.shape == (1, 40)
        [space] = model.describe().features
        assert space.uri == "" and "end features" in space.reason


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["srp:20", "pca:5"])
def test_random_projections_are_made_again_and_components_of_data_are_not(
    asked: str, scenes: Stimuli, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    extractor = FeatureExtractor.from_uri("miniature:backbone", "cpu")
    features = extract(extractor, scenes, tmp_path / "f.zarr", [LAYER], "tokens", reduction=asked)[LAYER]
    encoder = fit_encoder(features, pool=True)
    encoder.save_pretrained(tmp_path / "models" / "reduced")
    model = load_model(ModelRepository(tmp_path / "models").find("reduced"), "cpu")
    model.warm_up()
    assert isinstance(model, EncoderModel)
    [found] = model.encode([EncodeItem(images=pictures[:2])])
    if asked.startswith("pca"):
        assert isinstance(found, InputError) and "pca:5" in str(found)
    else:
        np.testing.assert_allclose(found, encoder.predict(features, list(scenes.ids[:2])), rtol=0, atol=1e-4)


def test_an_item_that_is_wrong_fails_alone(
    encoder: EncoderModel, pictures: list[np.ndarray], scene_features: Features
) -> None:
    values = scene_features.read(slice(0, 1))
    good, roi, clip, width, other, named = encoder.encode(
        [
            EncodeItem(images=pictures[:1]),
            EncodeItem(images=pictures[:1], rois=("V1",)),
            EncodeItem(clips=[np.stack(pictures[:3])]),
            EncodeItem(features={"": values[:, 1:]}),
            EncodeItem(features={"": values}, fingerprints={"": "of another"}),
            EncodeItem(features={"a": values, "b": values}),
        ]
    )
    assert good.shape == (1, 40)
    assert [type(e) for e in (roi, clip, width, other, named)] == [
        UnknownNameError, ShapeError, ShapeError, ArtifactError, InputError
    ]  # fmt: skip


@pytest.mark.slow
def test_decoding_alone_is_bit_equal_to_the_local_call(
    decoder: DecoderModel, models_folder: Path, drawn: Path, responses: Recording, tmp_path: Path
) -> None:
    whole = Subject.load(drawn / "subject").recording
    fitted = decoder.brain.parts["z"].training_["stimulus_ids"]
    # All scenes were fitted on, so that the local call, which draws what is held out, needs other names for them.
    renamed = Recording(whole.values, {"stimulus_id": [f"new-{i}" for i in whole.stimulus_ids]}, whole.neuroids)
    average = renamed.average_repetitions().take(np.arange(3))
    assert not set(average.stimulus_ids) & set(fitted)
    drawing = Drawing(steps=STEPS, samples=2)
    reconstruct(models_folder / DECODER, average, None, tmp_path / "local", drawing, device="cpu", seed=7)
    local = Reconstructions.load(tmp_path / "local")
    item = rows_of(average, [0, 1, 2], {"image", "caption", "depth"}, samples=2, seed=7)
    [rows] = decode(decoder, item)
    for row in rows:
        np.testing.assert_array_equal(row.images, local.of(row.stimulus_id))
        assert row.caption == local.settings["captions"][row.stimulus_id]
        assert row.depth.shape == (64, 64) and row.settings["seed"] == 7 and row.settings["steps"] == STEPS
    # Together with others the same pictures come out, but for what rounding does to single levels.
    first, other, second = decode(
        decoder,
        rows_of(average, [0], {"image"}, samples=2, seed=7),
        rows_of(average, [0], {"image"}, samples=2, seed=8),
        rows_of(average, [2], {"image"}, samples=2, seed=7),
    )
    for [row] in (first, second):
        assert np.abs(row.images.astype(int) - local.of(row.stimulus_id)).max() <= 1
    assert not np.array_equal(other[0].images, first[0].images)


@pytest.mark.slow
def test_targets_depth_and_captions_come_without_a_generator(decoder: DecoderModel, responses: Recording) -> None:
    [rows] = decode(decoder, rows_of(responses, [0, 1], {"targets", "depth"}))
    truth = decoder.brain.predict(responses.values[:2], ["z", "depth"])
    np.testing.assert_array_equal(rows[1].targets["z"], truth["z"][1])
    np.testing.assert_array_equal(rows[0].depth, truth["depth"][0])
    assert rows[0].caption is None and rows[0].images is None
    assert set(rows[0].targets) == {"z", "c", "depth", "embedding", "tokens"}


@pytest.mark.slow
def test_a_latent_decoder_gives_targets_alone(models_folder: Path, responses: Recording) -> None:
    model = load_model(ModelRepository(models_folder).find(LATENT), "cpu")
    assert isinstance(model, DecoderModel)
    [row], refused = decode(model, rows_of(responses, [0], {"targets"}), rows_of(responses, [0], {"caption"}))
    assert row.targets["features"].shape == (12,) and isinstance(refused, ArtifactError)
    assert model.describe().presets == ()


@pytest.mark.slow
def test_regions_are_those_of_the_fit(decoder: DecoderModel, responses: Recording) -> None:
    truth = decoder.brain.fitted.decoder.predict(responses.take([0, 1]))  # type: ignore[union-attr]
    found = decoder.brain.predict(responses.values[:2], list(truth))
    assert all(np.array_equal(found[name], truth[name]) for name in truth)
    assert decoder.describe().rois == {name: int(responses.roi_mask(name).sum()) for name in responses.rois}


@pytest.mark.slow
def test_wrong_units_and_unknown_presets_fail_alone(decoder: DecoderModel, responses: Recording) -> None:
    good = rows_of(responses, [0], {"targets"}, units_fingerprint=responses.fingerprint())
    found = decode(
        decoder,
        good,
        DecodeItem(responses.values[:1, 1:], frozenset({"targets"})),
        rows_of(responses, [0], {"targets"}, units_fingerprint="of another"),
        rows_of(responses, [0], {"image"}, preset="none such"),
        rows_of(responses, [0], {"image"}, preset="takagi-gan"),
    )
    assert [type(result) for result in found] == [list, ShapeError, WrongUnitsError, UnknownNameError, ArtifactError]


@pytest.mark.slow
def test_an_item_is_stopped_within_a_step_and_its_mates_go_on(decoder: DecoderModel, responses: Recording) -> None:
    told: list[Event] = []

    def on_event(event: Event) -> None:
        if event.stage == "reconstruct":
            told.append(event)

    items = [rows_of(responses, [k], {"image"}, steps=20, preview_every=2) for k in range(2)]
    stopped, rows = decoder.decode(items, [on_event, None], [lambda: len(told) >= 4, None], [None, None])
    assert isinstance(stopped, Cancelled) and len(told) == 4
    assert [("preview" in event.payload) for event in told] == [False, True, False, True]
    assert rows[0].images.shape == (1, 64, 64, 3)


@pytest.mark.slow
def test_requests_with_equal_settings_are_drawn_together(
    decoder: DecoderModel, responses: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decoder.networks is not None
    unet = decoder.networks.generator(PRESETS["penfield"]).unet
    seen: list[int] = []
    forward = unet.forward
    monkeypatch.setattr(unet, "forward", lambda x, *args, **how: (seen.append(len(x)), forward(x, *args, **how))[1])
    outputs = {"image", "caption", "depth"}
    # Two saw the same stimulus, and each has a seed of its own.
    items = [rows_of(responses, [k], outputs, samples=1, seed=k) for k in (0, 1, 1)]
    items[2] = replace(items[2], seed=5)
    alone = [decode(decoder, item)[0][0] for item in items]
    seen.clear()
    told: list[list[Event]] = [[], [], []]
    ears = [each.append for each in told]
    together = decoder.decode([replace(item, preview_every=1) for item in items], ears, [None] * 3, [None] * 3)
    assert len(seen) == STEPS - 1
    for [row], one, events in zip(together, alone, told, strict=True):
        assert isinstance(row, DecodedRow) and row.images is not None and one.images is not None
        assert np.abs(row.images.astype(int) - one.images).max() <= 1
        assert (row.stimulus_id, row.caption, row.settings) == (one.stimulus_id, one.caption, one.settings)
        drawn = [event for event in events if event.stage == "reconstruct"]
        assert [(event.done, event.total) for event in drawn] == [(k, STEPS - 1) for k in range(1, STEPS)]
        assert all(event.payload["stimulus_ids"] == [row.stimulus_id] for event in drawn)
        assert np.array_equal(drawn[-1].payload["preview"], row.images)
    assert np.abs(alone[1].images.astype(int) - alone[2].images).max() > 1


@pytest.mark.slow
def test_rows_are_told_as_they_are_drawn_and_a_request_that_leaves_is_left_out_of_the_next(
    decoder: DecoderModel, responses: Recording
) -> None:
    happened: list[tuple[str, Any]] = []
    stays = rows_of(responses, range(3), {"image"}, samples=2)
    leaves = replace(stays, responses=responses.values[3:6], seed=1)

    def on_row(row: DecodedRow) -> None:
        happened.append(("row", row.stimulus_id))

    def on_event(event: Event) -> None:
        happened.append(("step", (event.done, event.total)))

    # Two rows, of two pictures each, are a block: it leaves with the second block, half of which is its own.
    gone = lambda: sum(kind == "row" for kind, _ in happened) >= 3  # noqa: E731
    rows, left = decoder.decode([stays, leaves], [on_event, None], [None, gone], [on_row, None], 4)
    first, second, third = stays.stimulus_ids
    steps = [("step", (k, 2 * (STEPS - 1))) for k in range(1, 2 * STEPS - 1)]
    assert happened == [
        *steps[: STEPS - 1], ("row", first), ("row", second), *steps[STEPS - 1 :], ("row", third)
    ]  # fmt: skip
    assert isinstance(rows, list) and [row.stimulus_id for row in rows] == list(stays.stimulus_ids)
    assert isinstance(left, Cancelled)


@pytest.mark.slow
def test_what_would_take_too_much_is_refused_before_it_begins(models_folder: Path, responses: Recording) -> None:
    entry = ModelRepository(models_folder).find(DECODER)
    model = load_model(entry, "cpu", max_seconds=5)
    assert isinstance(model, DecoderModel)
    short, long = rows_of(responses, [0], {"image"}), rows_of(responses, [0], {"image"}, steps=100_000)
    assert model.cost(long).seconds > 1000 * model.cost(short).seconds
    rows, refused = decode(model, short, long)
    assert rows[0].images is not None and isinstance(refused, BudgetError)
    small = load_model(entry, "cpu", max_bytes=1000)
    assert isinstance(small, DecoderModel)
    assert isinstance(decode(small, short)[0], BudgetError)


def test_a_damaged_model_says_so(encoder_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in (encoder_folder / ENCODER).iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:2000])
    (folder / "config.json").write_bytes((encoder_folder / ENCODER / "config.json").read_bytes())
    with pytest.raises(DamagedModelError, match="broken"):
        load_model(ModelRepository(tmp_path).find("broken"), "cpu")


def test_delays_of_time_series_are_told(encoder: EncoderModel, scene_features: Features, tmp_path: Path) -> None:
    assert encoder.describe().delays == ()
    ids = list(scene_features.stimulus_ids)
    recording = Recording(
        np.random.default_rng(0).standard_normal((60, 3)), {"stimulus_id": ids, "run": [0] * 30 + [1] * 30}
    )
    RidgeEncoder(alphas=(1e3,), delays=(0, 1), cv=2, device="cpu").fit(scene_features, recording).save_pretrained(
        tmp_path / "series"
    )
    assert load_model(ModelRepository(tmp_path).find("series"), "cpu").describe().delays == (0, 1)
