from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import grpc
import numpy as np
import pytest
from PIL import Image as PILImage

from decoders import LatentDecoder, Reconstructions
from decoders.pictures.presets import find_preset
from encoders import Features
from recordings import Recording, Subject
from recordings.errors import (
    ArtifactError,
    DuplicateIdError,
    InputError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from service.errors import ModelNotFoundError, NotOfferedError, WrongUnitsError
from service.generated.penfield.v1 import decoding_pb2 as pb
from service.generated.penfield.v1 import decoding_pb2_grpc as services
from service.generated.penfield.v1 import media_pb2, model_pb2
from service.media import Limits, read_image
from service.repository import ModelKey
from service.servicers.decoding import DecodingServicer
from service.status import error_from
from service.tensors import to_array, to_tensor
from studies.pictures.drawing import Drawing, reconstruct

from ..conftest import DECODER, ENCODER

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tokens and is cut"),
    pytest.mark.filterwarnings("ignore:decoded z has an s.d."),
]

IMAGE, CAPTION = pb.DECODE_OUTPUT_IMAGE, pb.DECODE_OUTPUT_CAPTION
DEPTH, TARGETS = pb.DECODE_OUTPUT_DEPTH, pb.DECODE_OUTPUT_TARGETS
PICTURES = model_pb2.ModelReference(name=DECODER)
SMALL = model_pb2.ModelReference(name="small")
STEPS, STEP_SECONDS = 3, 0.1


@pytest.fixture
def decoding_stub(serving, answering):
    """``async with decoding_stub(folder) as stub``: a server on the models of a folder, which are stub.engine's."""

    @asynccontextmanager
    async def open(folder, **options):
        async with serving(folder, **{"runner": {"warm_up": False}} | options) as engine:
            with ThreadPoolExecutor(2) as pool:
                servicer = DecodingServicer(engine, pool)
                async with answering(services, "DecodingService", servicer) as stub:
                    stub.engine = engine
                    yield stub

    return open


@pytest.fixture
def decode(decoding_stub, run):
    """All events of one request."""

    def ask(folder, request, **options):
        async def calling():
            async with decoding_stub(folder, **options) as stub:
                return [event async for event in stub.Decode(request, timeout=100)]

        return run(calling())

    return ask


def asked(values: np.ndarray, *outputs: int, **fields) -> pb.DecodeRequest:
    drawing = pb.DrawingOptions(**{"steps": STEPS} | fields.pop("drawing", {}))
    return pb.DecodeRequest(
        **{"model": PICTURES, "responses": to_tensor(values), "outputs": outputs, "drawing": drawing} | fields
    )


def results(events) -> list[pb.DecodeResult]:
    return [event.result for event in events if event.WhichOneof("event") == "result"]


# A decoder of features alone: cheap -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple:
    """A repository of a fitted decoder of four features, the decoder, and the recording of its fit."""
    rng, ids = np.random.default_rng(0), [f"s{i}" for i in range(30)]
    responses = rng.standard_normal((30, 6)).astype(np.float32)
    recording = Recording(responses, {"stimulus_id": ids}, {"neuroid_id": [f"v{i}" for i in range(6)]})
    values = (responses @ rng.standard_normal((6, 4))).astype(np.float32)
    decoder = LatentDecoder(reliability=None, calibration_folds=0, alphas=(1.0,))
    decoder.fit(recording, Features.from_arrays(values, ids, uri="planted", layer="four"))
    folder = tmp_path_factory.mktemp("small")
    decoder.save_pretrained(folder / SMALL.name)
    return folder, decoder, recording


def test_events_come_in_order_with_the_bits_of_the_local_call(small, decode):
    folder, decoder, recording = small
    request = asked(recording.values[:3], TARGETS, model=SMALL, units_fingerprint=recording.fingerprint())
    first, *rest, last = decode(folder, request)
    assert (first.accepted.queue_position, first.accepted.model.reference.name) == (0, "small")
    assert (first.accepted.model.kind, len(first.accepted.model.fingerprint)) == ("LatentDecoder", 64)
    rows = results(rest)
    assert [row.stimulus_id for row in rows] == ["0", "1", "2"]
    local = decoder.predict(recording)
    for row, expected in zip(rows, local, strict=False):
        [target] = row.targets
        np.testing.assert_array_equal(to_array(target.tensor, name="t"), expected)
        assert not row.images and not row.caption and not row.HasField("depth") and not row.HasField("failure")
    assert (last.summary.succeeded, last.summary.failed) == (3, 0)
    assert json.loads(last.summary.settings_json) == {}
    assert last.summary.computed_seconds > 0


WRONG: list = [
    ({"outputs": [pb.DECODE_OUTPUT_SHAPE]}, NotOfferedError, "objects are not decoded"),
    ({"outputs": []}, InputError, "nothing asked for"),
    ({"outputs": [0]}, InputError, "no output 0"),
    ({"outputs": [77]}, InputError, "no output 77"),
    ({"outputs": [CAPTION]}, ArtifactError, "not tokens"),
    ({"model": model_pb2.ModelReference()}, InputError, "no model named"),
    ({"model": model_pb2.ModelReference(name="nobody")}, ModelNotFoundError, "nobody"),
    ({"units_fingerprint": "0"}, WrongUnitsError, "other units"),
    ({"responses": to_tensor(np.zeros((1, 5), np.float32))}, ShapeError, "5 units, the model reads 6"),
    ({"responses": to_tensor(np.zeros((1, 6)))}, ShapeError, "float64"),
    ({"responses": to_tensor(np.zeros((0, 6), np.float32))}, ShapeError, "responses"),
    ({"responses": to_tensor(np.full((1, 6), np.nan, np.float32))}, NotFiniteError, r"nan at \[0, 0\]"),
    ({"stimulus_ids": ["a", "a"]}, DuplicateIdError, "'a' stands twice"),
    ({"stimulus_ids": ["a"]}, ShapeError, "1 names for 2 rows"),
    ({"drawing": {"steps": 0}}, InputError, "steps"),
    ({"drawing": {"samples": -1}}, InputError, "samples"),
    ({"drawing": {"preview_every": -1}}, InputError, "preview_every"),
    ({"drawing": {"format": 9}}, InputError, "no image format 9"),
]


def test_requests_that_are_wrong_are_refused_by_name(small, decoding_stub, run):
    folder, _, recording = small

    async def ask():
        async with decoding_stub(folder) as stub:
            return [await refusal(stub, recording.values[:2], fields) for fields, _, _ in WRONG]

    for status, (_, error, words) in zip(run(ask()), WRONG, strict=True):
        with pytest.raises(error, match=words):
            raise error_from(status)


async def refusal(stub, values, fields) -> grpc.aio.AioRpcError:
    outputs, fields = fields.get("outputs", [TARGETS]), {"model": SMALL} | fields
    fields.pop("outputs", None)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await collect(stub.Decode(asked(values, *outputs, **fields), timeout=60))
    return refused.value


def test_model_that_encodes_does_not_decode(encoder_folder, decode):
    request = asked(np.zeros((1, 40), np.float32), TARGETS, model=model_pb2.ModelReference(name=ENCODER))
    with pytest.raises(ModelNotFoundError, match="answers encode, not decode"):
        decode(encoder_folder, request)


def test_row_that_cannot_be_decoded_is_told_and_spares_the_others(small, decode, monkeypatch):
    from service.models import together

    folder, _, recording = small
    read = together._read

    def failing(networks, rows):
        if "1" in [row.name for row in rows]:
            raise NotFiniteError("holds inf", where="1")
        return read(networks, rows)

    monkeypatch.setattr(together, "_read", failing)
    events = decode(folder, asked(recording.values[:3], TARGETS, model=SMALL))
    assert [row.failure.reason for row in results(events)] == ["", "NotFiniteError", ""]
    assert results(events)[1].failure.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert (events[-1].summary.succeeded, events[-1].summary.failed) == (2, 1)


# Pictures: slow -------------------------------------------------------------------------------------------------------


def shown(image: media_pb2.Image) -> np.ndarray:
    return read_image(image, Limits())


@pytest.mark.slow
def test_pictures_captions_and_depth_have_the_bits_of_the_local_call(models_folder, drawn, decode, tmp_path):
    whole = Subject.load(drawn / "subject").recording
    # The local call draws what was not fitted on, which are all scenes by their own names.
    renamed = Recording(whole.values, {"stimulus_id": [f"new-{i}" for i in whole.stimulus_ids]}, whole.neuroids)
    average = renamed.average_repetitions().take(np.arange(2))
    drawing = Drawing(steps=STEPS, samples=2)
    reconstruct(models_folder / DECODER, average, None, tmp_path / "local", drawing, device="cpu", seed=7)
    local = Reconstructions.load(tmp_path / "local")
    ids = [str(name) for name in average.stimulus_ids]
    how = {"samples": 2, "preview_every": 2}
    request = asked(average.values, IMAGE, CAPTION, DEPTH, stimulus_ids=ids, seed=7, drawing=how)
    events = decode(models_folder, request)
    rows = results(events)
    assert [row.stimulus_id for row in rows] == ids
    for row in rows:
        np.testing.assert_array_equal([shown(image) for image in row.images], local.of(row.stimulus_id))
        assert row.caption == local.settings["captions"][row.stimulus_id]
        assert to_array(row.depth, name="depth").shape == (64, 64)
        assert {image.media_type for image in row.images} == {"image/png"}
    settings = json.loads(events[-1].summary.settings_json)
    assert (settings["seed"], settings["steps"], settings["samples"]) == (7, STEPS, 2)
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("accepted", "summary")
    assert kinds.index("progress") < kinds.index("preview") < kinds.index("result")
    previews = [event.preview for event in events if event.WhichOneof("event") == "preview"]
    assert {(p.stimulus_id, p.sample) for p in previews} == {(name, sample) for name in ids for sample in (0, 1)}
    assert {p.image.media_type for p in previews} == {"image/jpeg"}
    assert PILImage.open(io.BytesIO(previews[0].image.encoded)).size == (64, 64)


@pytest.mark.slow
def test_pixels_come_as_pixels_where_asked_for(models_folder, responses, decode):
    how = {"format": media_pb2.IMAGE_FORMAT_PIXELS, "preview_every": 1}
    events = decode(models_folder, asked(responses.values[:1], IMAGE, drawing=how))
    preview = next(event.preview for event in events if event.WhichOneof("event") == "preview")
    for image in (preview.image, results(events)[0].images[0]):
        assert to_array(image.pixels, name="pixels").shape == (64, 64, 3)


@pytest.mark.slow
def test_unknown_preset_is_refused(models_folder, responses, decode):
    with pytest.raises(UnknownNameError, match="none such"):
        decode(models_folder, asked(responses.values[:1], IMAGE, drawing={"preset": "none such"}))


class Slowly:
    """Counts what a UNet is asked, and makes each step last."""

    def __init__(self):
        self.steps = 0

    @contextmanager
    def of(self, engine):
        networks = engine.runner.residence.get(ModelKey(DECODER, "1")).model.networks
        unet = networks.generator(find_preset("penfield")).unet

        def after(*_):
            self.steps += 1
            time.sleep(STEP_SECONDS)

        hook = unet.register_forward_hook(after)
        try:
            yield
        finally:
            hook.remove()

    async def settled(self) -> int:
        """Steps in all, when there were no more for a while."""
        before = -1
        while before != self.steps:
            before = self.steps
            await asyncio.sleep(6 * STEP_SECONDS)
        return self.steps


async def drawing_began(events, steps: int) -> None:
    async for event in events:
        if event.progress.stage == "reconstruct" and event.progress.done >= steps:
            return
    raise AssertionError("it ended")


@pytest.mark.slow
def test_client_that_leaves_spares_its_batch_mate(models_folder, responses, decoding_stub, run):
    one = asked(responses.values[:1], IMAGE, stimulus_ids=["a"], seed=5, drawing={"steps": 8, "strength": 1.0})
    long = asked(responses.values[1:2], IMAGE, stimulus_ids=["b"], drawing={"steps": 8, "strength": 1.0})
    slowly = Slowly()

    async def ask():
        async with decoding_stub(models_folder, batch_wait=0.5) as stub:
            expected = [event async for event in stub.Decode(one, timeout=100)]
            with slowly.of(stub.engine):
                # The first keeps the model busy, so that the two that come then make one batch.
                first = stub.Decode(one, timeout=100)
                await drawing_began(first, 1)
                leaver, mate = stub.Decode(long, timeout=100), stub.Decode(one, timeout=100)
                leavers = aiter(leaver)
                await anext(leavers)
                found = asyncio.ensure_future(collect(mate))
                await collect(first)
                await drawing_began(leavers, 2)
                leaver.cancel()
                left_at = slowly.steps
                mates = await found
                return expected, mates, left_at, await slowly.settled()

    expected, mates, left_at, steps = run(ask())
    # Regressions of a batch are computed together, which rounds single levels the other way.
    found, alone = (shown(results(events)[0].images[0]).astype(int) for events in (mates, expected))
    assert np.abs(found - alone).max() <= 1
    # Eight of the first, and eight in which the mate was drawn, at first with the one who left.
    assert 10 <= left_at < steps == 16


async def collect(call):
    return [event async for event in call]


@pytest.mark.slow
def test_deadline_that_passes_within_diffusion_stops_it_within_a_step(models_folder, responses, decoding_stub, run):
    request = asked(responses.values[:1], IMAGE, drawing={"steps": 400, "strength": 1.0})
    slowly = Slowly()

    async def ask():
        async with decoding_stub(models_folder) as stub:
            await collect(stub.Decode(asked(responses.values[:1], IMAGE), timeout=100))
            threads = threading.active_count()
            with slowly.of(stub.engine):
                began = time.monotonic()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await collect(stub.Decode(request, timeout=1.5))
                took, at_deadline = time.monotonic() - began, slowly.steps
                steps = await slowly.settled()
            # The model answers the next one, whole.
            after = await collect(stub.Decode(asked(responses.values[:1], IMAGE), timeout=100))
            assert results(after)[0].images and threading.active_count() <= threads + 1
            return refused.value.code(), took, at_deadline, steps

    code, took, at_deadline, steps = run(ask())
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert took < 4
    assert 0 < at_deadline <= steps <= at_deadline + 2
