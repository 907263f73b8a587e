from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from encoders import Features
from recordings.errors import FormatError, InputError, ShapeError
from service.client import Client
from service.client.encoding import UNDER_WAY
from service.client.inputs import PART_BYTES, PART_STIMULI
from service.errors import BudgetError, BusyError, ConflictError, UnavailableError

from .conftest import busy


@pytest.fixture
def client(server):
    with Client(server.target) as found:
        yield found


def pictures(n, size=8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(n)]


def means(images):
    return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


def test_a_few_go_in_one_call_and_many_in_a_stream(client, server):
    few, many = pictures(3), pictures(PART_STIMULI * 2 + 8)
    assert np.array_equal(client.encode("mean", images=few), means(few))
    assert server.plans.log == ["Encode"]
    events = []
    assert np.array_equal(client.encode("mean@2", images=many, on_event=events.append), means(many))
    sizes = [len(request.images.images) for request in server.services.encoders.seen[1:]]
    assert sizes == [PART_STIMULI, PART_STIMULI, 8]
    assert [(e.stage, e.done, e.total) for e in events] == [("encode", 32, 72), ("encode", 64, 72), ("encode", 72, 72)]
    reference = server.services.encoders.seen[-1].model
    assert (reference.name, reference.version) == ("mean", "2")


def test_pictures_come_as_arrays_pil_images_and_files(client, tmp_path):
    (pixels,) = pictures(1)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    for given in (pixels, image, tmp_path / "a.png", str(tmp_path / "a.png"), [pixels], np.stack([pixels])):
        assert np.array_equal(client.encode("mean", images=given), means([pixels]))
    grey = Image.fromarray(pixels[..., 0])
    assert np.array_equal(client.encode("mean", images=grey), means([np.repeat(pixels[..., :1], 3, 2)]))


def test_large_pictures_and_clips_are_packed_without_loss(client, server):
    side = 1700
    large = np.zeros((side, side, 3), np.uint8)
    large[:, ::2] = 3
    clip = np.zeros((11, 512, 512, 3), np.uint8)
    clip[3:, 0, 0] = 255
    assert large.nbytes > PART_BYTES < clip.nbytes
    assert np.array_equal(client.encode("mean", images=[large]), means([large]))
    found = client.encode("mean", clips=clip)
    assert np.array_equal(found, clip.mean((0, 1, 2)).astype(np.float32)[np.newaxis])
    assert all(request.ByteSize() < PART_BYTES for request in server.services.encoders.seen)


def test_features_are_cut_to_parts_and_named(client, server):
    values = np.random.default_rng(0).standard_normal((5, 800_000))
    features = Features.from_arrays(values, list("abcde"), uri="u", layer="l")
    found = client.encode("mean", features={"layer": features}, rois=["V1"])
    assert np.array_equal(found, values.astype(np.float32))
    seen = server.services.encoders.seen
    assert [request.features.spaces[0].tensor.shape[0] for request in seen] == [2, 2, 1]
    assert seen[0].features.spaces[0].name == "layer" and list(seen[0].features.fingerprints) == [
        features.fingerprint()
    ]
    assert list(seen[0].rois) == ["V1"]


def test_stream_that_breaks_goes_on_with_what_is_missing(client, server):
    many = pictures(PART_STIMULI * 5)
    server.plans.fail("EncodeStream", 2, 1)
    assert np.array_equal(client.encode("mean", images=many), means(many))
    assert server.plans.log.count("EncodeStream") == 3
    # What was answered before the breaks is not computed again.
    assert len(server.services.encoders.seen) == 5


def test_parts_that_found_no_room_are_sent_again(client, server):
    many = pictures(PART_STIMULI * 4)
    server.plans.fail("part", None, busy(0.01))
    assert np.array_equal(client.encode("mean", images=many), means(many))
    assert server.plans.log.count("EncodeStream") == 2 and server.plans.log.count("part") == 5


def test_error_of_a_part_is_raised(client, server):
    server.plans.fail("part", None, ShapeError("no such pixels"))
    with pytest.raises(ShapeError, match="no such pixels"):
        client.encode("mean", images=pictures(72))


def test_iterators_are_read_no_faster_than_they_are_answered(client, server):
    read, gate = [], threading.Event()

    def stimuli():
        for number, image in enumerate(pictures(PART_STIMULI * (UNDER_WAY + 6))):
            read.append(number)
            yield image

    def on_event(event):
        if event.done == PART_STIMULI:
            gate.set()
            # One part was answered, so that at most one more than those under way has been asked for.
            assert len(read) <= PART_STIMULI * (UNDER_WAY + 3)

    assert len(client.encode("mean", images=stimuli(), on_event=on_event)) == PART_STIMULI * (UNDER_WAY + 6)
    assert gate.is_set()


def test_error_of_the_callers_own_iterator_is_raised(client):
    def stimuli():
        yield from pictures(72)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        client.encode("mean", images=stimuli())
    with pytest.raises(FormatError, match=r"nothing\.png"):
        client.encode("mean", images=[*pictures(72), "nothing.png"])


def test_model_that_is_replaced_in_the_middle_is_told(client, server):
    def on_event(event):
        server.services.encoders.fingerprint = "f2"

    many = (image for image in pictures(PART_STIMULI * (UNDER_WAY + 6)))
    with pytest.raises(ConflictError, match="replaced"):
        client.encode("mean", images=many, on_event=on_event)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, InputError),
        ({"images": [], "clips": []}, InputError),
        ({"images": []}, InputError),
        ({"images": [np.zeros((4, 4), np.uint8)]}, ShapeError),
        ({"images": [np.zeros((4, 4, 3))]}, ShapeError),
        ({"clips": [np.zeros((4, 4, 3), np.uint8)]}, ShapeError),
        ({"features": np.zeros(4, np.float32)}, ShapeError),
        ({"features": {"a": np.zeros((4, 2)), "b": np.zeros((3, 2))}}, ShapeError),
    ],
)
def test_wrong_stimuli_are_refused_before_they_are_sent(client, server, given, error):
    with pytest.raises(error):
        client.encode("mean", **given)
    assert server.plans.log == []


def test_calls_wait_as_long_as_a_busy_server_asks(client, server):
    server.plans.fail("Encode", busy(0.05), UnavailableError("starting"), busy(0.01))
    assert client.encode("mean", images=pictures(1)).shape == (1, 3)
    assert server.plans.log == ["Encode"] * 4


def test_retries_end(server):
    with Client(server.target, retries=2) as client:
        server.plans.fail("Encode", *[UnavailableError("starting")] * 5)
        with pytest.raises(UnavailableError, match="starting"):
            client.encode("mean", images=pictures(1))
        assert server.plans.log == ["Encode"] * 3


def test_no_wait_is_longer_than_the_deadline(client, server):
    server.plans.fail("Encode", busy(50))
    with pytest.raises(BusyError) as caught:
        client.encode("mean", images=pictures(1), timeout=1)
    assert caught.value.retry_seconds == 50 and server.plans.log == ["Encode"]


@pytest.mark.parametrize("error", [ShapeError("wrong", where="images", remedy="Cut"), BudgetError("too large")])
def test_errors_of_the_request_are_raised_as_they_were_and_not_tried_again(client, server, error):
    server.plans.fail("Encode", error)
    with pytest.raises(type(error)) as caught:
        client.encode("mean", images=pictures(1))
    assert (caught.value.what, caught.value.where, caught.value.remedy) == (error.what, error.where, error.remedy)
    assert server.plans.log == ["Encode"]


def test_time_series_is_never_cut(client, server):
    rows = np.zeros((5, 800_000), np.float32)
    with pytest.raises(InputError, match="one run"):
        client.encode("series", features=rows)
    assert client.encode("series", features=rows[:2]).shape == rows[:2].shape
    with pytest.raises(InputError, match="one run"):
        client.encode("series", images=pictures(PART_STIMULI + 1))


def test_answers_stay_within_what_a_server_sends(client, server):
    client.encode("wide", features=np.zeros((40, 3), np.float32))
    assert [request.features.spaces[0].tensor.shape[0] for request in server.services.encoders.seen] == [8] * 5
    client.encode("mean", features=np.zeros((400, 3), np.float32))
    assert server.services.encoders.seen[-1].features.spaces[0].tensor.shape[0] == 400
