from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from PIL import Image as PILImage

from encoders import FeatureExtractor, RidgeEncoder, extract
from recordings import Recording, Stimuli
from recordings.errors import (
    ArtifactError,
    CorruptImageError,
    DuplicateIdError,
    ImageTooLargeError,
    InputError,
    NotFiniteError,
    ShapeError,
    UnknownNameError,
)
from service.errors import BusyError, ModelNotFoundError
from service.generated.penfield.v1 import encoding_pb2 as pb
from service.generated.penfield.v1 import encoding_pb2_grpc as services
from service.generated.penfield.v1 import media_pb2, model_pb2, tensor_pb2
from service.media import Limits
from service.servicers.encoding import EncodingServicer
from service.servicers.room import Room, Share
from service.status import error_from
from service.tensors import to_array, to_tensor

from ..conftest import ENCODER, LAYER, N_UNITS

RIDGE = model_pb2.ModelReference(name=ENCODER)


@pytest.fixture
def encoding_stub(encoder_folder, serving, answering):
    """``async with encoding_stub() as stub``: a server on the encoder; stub.engine and stub.servicer are behind it."""

    @asynccontextmanager
    async def open(limits: Limits | None = None, servicer: dict | None = None, folder=encoder_folder, **options):
        async with serving(folder, runner={"warm_up": False}, **options) as engine:
            with ThreadPoolExecutor(2) as pool:
                behind = EncodingServicer(engine, limits or Limits(), pool, **(servicer or {}))
                async with answering(services, "EncodingService", behind) as stub:
                    stub.engine, stub.servicer = engine, behind
                    yield stub

    return open


@pytest.fixture
def encode(encoding_stub, run):
    """Answer to one request."""

    def ask(request, **options):
        async def calling():
            async with encoding_stub(**options) as stub:
                return await stub.Encode(request, timeout=60)

        return run(calling())

    return ask


def png(pixels: np.ndarray) -> media_pb2.Image:
    content = io.BytesIO()
    PILImage.fromarray(pixels).save(content, "PNG")
    return media_pb2.Image(encoded=content.getvalue())


def shown(*images: media_pb2.Image, **fields) -> pb.EncodeRequest:
    return pb.EncodeRequest(model=RIDGE, images=pb.Images(images=images), **fields)


def given(values: np.ndarray, name: str = "", fingerprints=(), **fields) -> pb.EncodeRequest:
    space = tensor_pb2.NamedTensor(name=name, tensor=to_tensor(values))
    rows = pb.FeatureRows(spaces=[space], fingerprints=fingerprints)
    return pb.EncodeRequest(**{"model": RIDGE, "features": rows, **fields})


@pytest.fixture(scope="module")
def encoder(encoder_folder) -> RidgeEncoder:
    return RidgeEncoder.from_pretrained(encoder_folder / ENCODER)


@pytest.fixture(scope="module")
def local(encoder, scene_features) -> np.ndarray:
    """Responses to all scenes, as the library computes them."""
    return encoder.predict(scene_features)


def test_features_give_the_bits_of_the_local_call(encode, encoder, scene_features, local):
    answer = encode(given(scene_features.read(), fingerprints=[scene_features.fingerprint()]))
    np.testing.assert_array_equal(to_array(answer.responses, name="responses"), local)
    assert answer.responses.dtype == tensor_pb2.DATA_TYPE_FLOAT32
    assert (answer.model.reference.name, answer.model.reference.version) == (ENCODER, "1")
    assert (answer.model.kind, answer.model.state) == ("RidgeEncoder", model_pb2.MODEL_STATE_READY)
    assert len(answer.model.fingerprint) == 64
    assert not answer.units.unit_ids
    assert answer.units.fingerprint == encoder.recording_["neuroid_fingerprint"]


def test_pictures_give_the_bits_of_the_local_call(encode, pictures, local):
    messages = [png(p) if number % 2 else media_pb2.Image(pixels=to_tensor(p)) for number, p in enumerate(pictures)]
    answer = encode(shown(*messages))
    np.testing.assert_array_equal(to_array(answer.responses, name="responses"), local)


def test_requests_of_several_clients_are_computed_together_to_the_same_numbers(encoding_stub, pictures, local, run):
    class Sizes:
        def __init__(self):
            self.sizes = []

        def observe_batch(self, model, size, seconds, stage):
            self.sizes.append(size)

        def observe_wait(self, model, seconds): ...

        def set_depth(self, model, n): ...

        def set_loaded(self, model, loaded): ...

    metrics = Sizes()

    async def ask():
        async with encoding_stub(metrics=metrics) as stub:
            calls = [stub.Encode(shown(png(picture)), timeout=60) for picture in pictures[:8]]
            return await asyncio.gather(*calls)

    answers = run(ask())
    assert max(metrics.sizes) > 1
    rows = [to_array(answer.responses, name="responses")[0] for answer in answers]
    np.testing.assert_allclose(rows, local[:8], atol=1e-4)


def test_regions_choose_units_and_name_them(encode, scene_features, local):
    answer = encode(given(scene_features.read()[:3], rois=["B"]))
    np.testing.assert_allclose(to_array(answer.responses, name="responses"), local[:3, 30:], atol=1e-4)
    assert list(answer.units.unit_ids) == [f"v{i}" for i in range(30, N_UNITS)]


def test_half_precision_and_any_name_of_the_only_space_are_taken(encode, scene_features, local):
    answer = encode(given(scene_features.read()[:3].astype(np.float16), LAYER))
    np.testing.assert_allclose(to_array(answer.responses, name="responses"), local[:3], atol=0.05)


ROWS = np.zeros((2, 192), np.float32)
GREY = np.full((8, 8, 3), 127, np.uint8)


WRONG = [
    (pb.EncodeRequest(), InputError, "no model named"),
    (pb.EncodeRequest(model=RIDGE), InputError, "nothing shown"),
    (given(ROWS, model=model_pb2.ModelReference(name="nobody")), ModelNotFoundError, "nobody"),
    (given(ROWS, model=model_pb2.ModelReference(name="../ridge")), ModelNotFoundError, "no such model"),
    (given(ROWS, model=model_pb2.ModelReference(name=ENCODER, version="7")), ModelNotFoundError, "no version '7'"),
    (given(ROWS[:, :5]), ShapeError, "a row of the shape"),
    (given(ROWS.astype(np.float64)), ShapeError, "holds float64"),
    (given(np.where(np.eye(2, 192), np.nan, ROWS).astype(np.float32)), NotFiniteError, r"nan at \[0, 0\]"),
    (given(ROWS, fingerprints=["0" * 64]), ArtifactError, "another feature space"),
    (given(ROWS, fingerprints=["", ""]), ShapeError, "2 for 1 spaces"),
    (given(ROWS, rois=["C"]), UnknownNameError, "no region 'C'"),
    (
        pb.EncodeRequest(model=RIDGE, features=pb.FeatureRows(spaces=2 * list(given(ROWS).features.spaces))),
        DuplicateIdError,
        "twice",
    ),
    (shown(), InputError, "no stimulus"),
    (shown(png(GREY), media_pb2.Image(encoded=b"no picture")), CorruptImageError, r"images\[1\]"),
    (shown(media_pb2.Image()), InputError, r"images\[0\]"),
    (shown(png(GREY.repeat(10, 0))), ImageTooLargeError, "8 x 80"),
    (shown(*[png(GREY)] * 6), ImageTooLargeError, r"images\[5\]"),
    (
        pb.EncodeRequest(model=RIDGE, clips=pb.Clips(clips=[media_pb2.Clip(encoded=b"no film")])),
        CorruptImageError,
        r"clips\[0\]",
    ),
    (
        pb.EncodeRequest(model=RIDGE, clips=pb.Clips(clips=[media_pb2.Clip(frames=to_tensor(np.stack([GREY] * 2)))])),
        ShapeError,
        "what the model was fitted on",
    ),
]


def test_requests_that_are_wrong_are_refused_by_name(encoding_stub, run):
    async def ask():
        async with encoding_stub(limits=Limits(max_pixels=100, max_bytes=5 * GREY.nbytes)) as stub:
            calls = [stub.Encode(request, timeout=60) for request, _, _ in WRONG]
            return await asyncio.gather(*calls, return_exceptions=True)

    for status, (_, error, words) in zip(run(ask()), WRONG, strict=True):
        with pytest.raises(error, match=words):
            raise error_from(status)


def test_memory_for_pictures_of_all_clients_has_an_end(encoding_stub, pictures, run):
    async def ask():
        async with encoding_stub() as stub:
            room = stub.servicer.room
            room.most = pictures[0].nbytes
            # Pictures are counted while their request is at work, and no longer.
            for picture in pictures[:2]:
                await stub.Encode(shown(png(picture)), timeout=60)
            assert room.taken == 0
            with Share(room) as share:
                share.take(room.most)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Encode(shown(png(pictures[0])), timeout=60)
            await stub.Encode(shown(png(pictures[0])), timeout=60)
            return error_from(refused.value)

    refused = run(ask())
    assert isinstance(refused, BusyError)
    assert refused.retry_seconds == 1


def test_picture_that_is_read_for_a_client_that_left_takes_no_room():
    room = Room(100)
    with Share(room) as share:
        share.take(60)
        with Share(room) as other:
            other.take(60)
            with pytest.raises(BusyError):
                share.check()
        share.check()
    share.take(60)
    assert room.taken == 0


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> tuple:
    """Clips of two frames, a repository of an encoder fitted on them as "films", and their responses."""
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 256, (12, 2, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("films")
    extractor = FeatureExtractor.from_uri("miniature:backbone", "cpu")
    stimuli = Stimuli.from_arrays(clips, [f"c{i}" for i in range(len(clips))])
    features = extract(extractor, stimuli, folder / "f.zarr", [LAYER], "pooled", n_frames=2)[LAYER]
    responses = features.read().reshape(12, -1) @ rng.standard_normal((2 * 192, 5))
    recording = Recording(responses, {"stimulus_id": stimuli.ids}, {"neuroid_id": [f"v{i}" for i in range(5)]})
    fitted = RidgeEncoder(alphas=(1e3,), cv=2, device="cpu").fit(features, recording)
    fitted.save_pretrained(folder / "models" / "films")
    return clips, folder / "models", fitted.predict(features)


def test_clips_give_what_the_local_call_gives(films, encode):
    clips, folder, expected = films
    frames = [media_pb2.Clip(frames=to_tensor(clip)) for clip in clips[:-1]]
    content = io.BytesIO()
    first, second = map(PILImage.fromarray, clips[-1])
    first.save(content, "TIFF", save_all=True, append_images=[second])
    clips = pb.Clips(clips=[*frames, media_pb2.Clip(encoded=content.getvalue())])
    answer = encode(pb.EncodeRequest(model=model_pb2.ModelReference(name="films"), clips=clips), folder=folder)
    np.testing.assert_allclose(to_array(answer.responses, name="responses"), expected, atol=1e-4)


async def sent(requests):
    for request in requests:
        yield pb.EncodeStreamRequest(request=request)


@pytest.fixture
def stream(encoding_stub, run):
    """Answers to a stream of requests."""

    def ask(requests, **options):
        async def calling():
            async with encoding_stub(**options) as stub:
                return await collect(stub.EncodeStream(sent(requests), timeout=60))

        return run(calling())

    return ask


def test_stream_is_answered_in_order_with_a_failure_for_what_cannot_be_read(stream, pictures, local):
    requests = [pb.EncodeRequest(images=pb.Images(images=[png(picture)])) for picture in pictures[:20]]
    requests[0].MergeFrom(pb.EncodeRequest(model=RIDGE, rois=["A"]))
    requests[7].images.images[0].encoded = b"no picture"
    answers = stream(requests)
    assert [answer.number for answer in answers] == list(range(20))
    failures = {answer.number: answer.failure for answer in answers if answer.WhichOneof("result") == "failure"}
    assert failures.keys() == {7}
    assert (failures[7].reason, failures[7].code) == ("CorruptImageError", grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert "images[0]" in failures[7].message
    rows = [to_array(answer.response.responses, name="r")[0] for answer in answers if answer.number != 7]
    np.testing.assert_allclose(rows, np.delete(local[:20, :30], 7, axis=0), atol=1e-4)


def test_stream_to_a_queue_of_one_waits_where_a_call_is_refused(stream, encoding_stub, scene_features, local, run):
    values = scene_features.read()[:30]
    answers = stream([given(row[None]) for row in values], queue_size=1, batch_size=1)
    np.testing.assert_allclose(
        np.concatenate([to_array(answer.response.responses, name="r") for answer in answers]), local[:30], atol=1e-4
    )

    async def ask():
        async with encoding_stub(queue_size=1, batch_size=1) as stub:
            calls = [stub.Encode(given(row[None]), timeout=60) for row in values]
            return await asyncio.gather(*calls, return_exceptions=True)

    refused = [answer for answer in run(ask()) if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_other_model_or_regions_within_a_stream_are_refused_one_by_one(stream):
    other = given(ROWS, model=model_pb2.ModelReference(name="other"))
    answers = stream([given(ROWS, rois=["A"]), other, given(ROWS, rois=["B"]), given(ROWS)])
    assert [answer.failure.reason for answer in answers] == ["", "InputError", "InputError", ""]
    assert list(answers[3].response.responses.shape) == [2, 30]


def test_stream_without_a_model_that_is_there_ends_with_an_error(stream):
    with pytest.raises(ModelNotFoundError):
        stream([given(ROWS, model=model_pb2.ModelReference(name="nobody"))])
    with pytest.raises(InputError, match="no model named"):
        stream([pb.EncodeRequest()])
    assert stream([]) == []


def test_stream_works_at_no_more_than_told_however_much_is_sent(encoding_stub, run):
    async def ask():
        async with encoding_stub(servicer={"at_once": 3}) as stub:
            begun, go, encode = 0, asyncio.Event(), stub.engine.encode

            async def held(*what, **how):
                nonlocal begun
                begun += 1
                await go.wait()
                return await encode(*what, **how)

            stub.engine.encode = held
            answers = asyncio.ensure_future(collect(stub.EncodeStream(sent([given(ROWS)] * 20), timeout=60)))
            for _ in range(50):
                await asyncio.sleep(0.01)
            at_work = begun
            go.set()
            return at_work, len(await answers)

    assert run(ask()) == (3, 20)


async def collect(call):
    return [answer async for answer in call]


def test_client_that_leaves_a_stream_leaves_nothing_behind(encoding_stub, run):
    async def ask():
        async def requests():
            for _ in range(5):
                yield pb.EncodeStreamRequest(request=given(ROWS))
            await asyncio.Event().wait()

        async with encoding_stub() as stub:
            call = stub.EncodeStream(requests(), timeout=60)
            for _ in range(5):
                await call.read()
            before = len(asyncio.all_tasks())
            call.cancel()
            for _ in range(100):
                if stub.servicer.room.taken == 0 and len(asyncio.all_tasks()) < before:
                    break
                await asyncio.sleep(0.02)
            assert (await stub.Encode(given(ROWS), timeout=60)).responses.shape == [2, N_UNITS]
            return len(asyncio.all_tasks()) < before

    assert run(ask())


def test_deadline_in_the_queue_is_told_and_the_model_never_sees_it(encoding_stub, run):
    async def ask():
        async with encoding_stub(batch_size=1) as stub:
            await stub.Encode(given(ROWS), timeout=60)
            seen = []
            encode = stub.engine.runner.encode

            async def slow(key, batch):
                seen.extend(batch)
                await asyncio.sleep(0.5)
                return await encode(key, batch)

            stub.engine.runner.encode = slow
            first = asyncio.ensure_future(stub.Encode(given(ROWS), timeout=60))
            await asyncio.sleep(0.1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Encode(given(ROWS), timeout=0.1)
            await first
            await asyncio.sleep(0.1)
            return refused.value.code(), len(seen)

    assert run(ask()) == (grpc.StatusCode.DEADLINE_EXCEEDED, 1)
