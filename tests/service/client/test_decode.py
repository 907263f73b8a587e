from __future__ import annotations

import time

import numpy as np
import pytest

from recordings import Recording
from recordings.errors import Cancelled, InputError, ShapeError, UnknownNameError
from service.client import Client
from service.client.inputs import PART_BYTES
from service.errors import UnavailableError

from .conftest import busy


@pytest.fixture
def client(server):
    with Client(server.target) as found:
        yield found


ROWS = np.array([[1, 2], [3, 4], [5, 6]], np.float64)


def test_rows_come_in_their_order_with_all_that_was_asked_for(client, server):
    rows = client.decode("d", ROWS, ("caption", "image", "depth", "targets"), seed=3, samples=2, strength=0.0)
    assert [row.stimulus_id for row in rows] == ["0", "1", "2"]
    assert [row.caption for row in rows] == ["3", "7", "11"]
    assert rows[1].images.shape == (2, 4, 4, 3) and rows[1].images[1, 0, 0, 0] == 4
    assert rows[2].depth.shape == (2, 3) and rows[2].depth[0, 0] == 5
    assert np.array_equal(rows[0].targets["z"], [2, 4])
    assert all(row.failure is None and row.settings == {"preset": "penfield"} for row in rows)
    (request,) = server.services.decoders.seen
    assert (request.seed, request.drawing.samples, request.drawing.strength) == (3, 2, 0)
    # What is not given is left to the preset.
    assert request.drawing.HasField("strength") and not request.drawing.HasField("steps")


def test_what_was_not_asked_for_is_none(client):
    row = client.decode("d", ROWS[:1], ("caption",))[0]
    assert row.caption == "3" and row.targets is None and row.shape is None


def test_events_carry_progress_previews_and_rows(client):
    events = []
    client.decode("d", ROWS, preview_every=1, on_event=events.append)
    assert events[0].payload == {"queue_position": 2, "fingerprint": "f1"}
    previews = [e for e in events if "preview" in e.payload]
    assert [(e.stage, e.done, e.total) for e in previews] == [("reconstruct", 0, 2), ("reconstruct", 1, 2)]
    assert previews[0].payload["preview"].shape == (1, 4, 4, 3)
    assert (previews[0].payload["stimulus_ids"], previews[0].payload["samples"]) == (["0"], [1])
    rows = [e.payload["row"].stimulus_id for e in events if "row" in e.payload]
    assert rows == ["2", "1", "0"] and events[-1].done == events[-1].total == 3


def test_recordings_are_averaged_and_their_units_told(client, server):
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    recording = Recording(values, {"stimulus_id": ["a", "b", "c"] * 2})
    rows = client.decode("d", recording, ("caption",))
    (request,) = server.services.decoders.seen
    assert request.units_fingerprint == recording.fingerprint()
    assert [row.stimulus_id for row in rows] == ["a", "b", "c"]
    assert [row.caption for row in rows] == ["7", "11", "15"]
    (one,) = client.decode("d", recording, ("caption",), stimulus_ids=["b"])
    assert (one.stimulus_id, one.caption) == ("b", "11")
    with pytest.raises(InputError, match="'x'"):
        client.decode("d", recording, ("caption",), stimulus_ids=["x"])


def test_many_rows_take_several_calls(client, server):
    rows = np.ones((3, PART_BYTES // 4 // 2 + 1), np.float32)
    done = []
    found = client.decode("d", rows, ("caption",), on_event=lambda e: "row" in e.payload and done.append(e.done))
    assert [row.stimulus_id for row in found] == ["0", "1", "2"] and done == [1, 2, 3]
    assert [list(request.stimulus_ids) for request in server.services.decoders.seen] == [["0"], ["1"], ["2"]]


def test_short_forms(client):
    assert client.caption("d", ROWS) == ["3", "7", "11"]
    assert client.image("d", ROWS).shape == (3, 2, 4, 4, 3)
    assert client.depth("d", ROWS)[:, 0, 0].tolist() == [1, 3, 5]


def test_row_that_fails_spares_the_others(client):
    rows = client.decode("d", np.array([[1.0, 1.0], [0.0, 0.0]]), ("caption",))
    assert rows[0].caption == "2"
    assert isinstance(rows[1].failure, ShapeError) and rows[1].caption is None
    with pytest.raises(ShapeError, match="nothing there"):
        client.caption("d", np.array([[1.0, 1.0], [0.0, 0.0]]))


def test_call_of_which_nothing_came_is_tried_again(client, server):
    server.plans.fail("Decode", UnavailableError("starting"), busy(0.01))
    assert client.caption("d", ROWS) == ["3", "7", "11"]
    assert server.plans.log.count("Decode") == 3


def test_call_that_has_begun_is_never_sent_again(client, server):
    server.plans.fail("after accepted", UnavailableError("lost"))
    with pytest.raises(UnavailableError, match="lost"):
        client.caption("d", ROWS)
    assert server.plans.log.count("Decode") == 1


def test_error_in_on_event_stops_the_server(client, server):
    server.plans.fail("hang", True)

    def on_event(event):
        raise RuntimeError("the reader is gone")

    with pytest.raises(RuntimeError, match="the reader is gone"):
        client.decode("d", ROWS, on_event=on_event)
    assert server.services.decoders.cancelled.wait(5)
    assert client.caption("d", ROWS) == ["3", "7", "11"]


def test_stop_ends_a_call_that_says_nothing(server):
    server.plans.fail("hang", True)
    start = time.monotonic()
    with Client(server.target, stop=lambda: time.monotonic() > start + 0.2) as client:
        with pytest.raises(Cancelled):
            client.decode("d", ROWS)
        assert server.services.decoders.cancelled.wait(5)


def test_deadline_is_the_clients(client, server):
    from service.errors import DeadlineError

    server.plans.fail("hang", True)
    with pytest.raises(DeadlineError):
        client.decode("d", ROWS, timeout=0.2)
    assert server.services.decoders.cancelled.wait(5)


@pytest.mark.parametrize(
    ("responses", "outputs", "names", "error"),
    [
        (ROWS, ("music",), None, UnknownNameError),
        (ROWS[0], ("image",), None, ShapeError),
        (ROWS[:0], ("image",), None, ShapeError),
        (ROWS, ("image",), ["a"], ShapeError),
    ],
)
def test_wrong_requests_are_refused_before_they_are_sent(client, server, responses, outputs, names, error):
    with pytest.raises(error):
        client.decode("d", responses, outputs, stimulus_ids=names)
    assert server.plans.log == []
