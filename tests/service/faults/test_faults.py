"""What befalls a running server one after the other: it lives, others are answered, and nothing of it is left over."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from recordings import Recording
from recordings.errors import InputError
from service.client import Client
from service.errors import BudgetError, DamagedModelError, DeadlineError, ModelNotFoundError

from ..conftest import DECODER, ENCODER, LATENT
from .process import ROOT, ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*tokens and is cut")]

DECODE = "penfield.v1.DecodingService/Decode"
# Of drawing, so many that they take minutes.
ENDLESS = {"steps": 900, "samples": 8, "strength": 1.0}
# A request that the model's thread is free for takes far less, also on a busy machine.
SOON = 40.0

VANISHING = """
import json, sys, time
import numpy as np
from service.client import Client

target, row, drawing = json.loads(sys.argv[1])
def tell(event):
    if event.stage == "reconstruct" and event.done:
        print("drawing", flush=True)
Client(target).decode("subject-01/decoder", np.float32([row]), ["image"], on_event=tell, **drawing)
"""


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.target) as client:
        yield client


@pytest.fixture
def row(responses: Recording) -> np.ndarray:
    """Of one scene, (1, unit)."""
    return np.float32(responses.values[:1])


@contextmanager
def bystander(target: str, pictures: list[np.ndarray]) -> Iterator[list[float]]:
    """Another client that encodes all the while; all its answers must come and be the same. Seconds of each call."""
    seconds: list[float] = []
    wrong: list[object] = []
    begun, ended = threading.Event(), threading.Event()

    def ask() -> None:
        with Client(target) as client:
            first = client.encode(ENCODER, images=pictures[:1])
            begun.set()
            while not ended.is_set() or not seconds:
                began = time.monotonic()
                try:
                    if not np.array_equal(client.encode(ENCODER, images=pictures[:1]), first):
                        wrong.append("another answer")
                except Exception as error:
                    wrong.append(error)
                seconds.append(time.monotonic() - began)
                ended.wait(0.05)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert begun.wait(60)
        yield seconds
    finally:
        ended.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not wrong, wrong[0]


def until(condition: Callable[[], bool], seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def draw(client: Client, row: np.ndarray, **how: object) -> np.ndarray:
    [decoded] = client.decode(DECODER, row, ["image"], **{"steps": 2, **how})
    assert decoded.images is not None
    return np.asarray(decoded.images)


def test_client_that_is_killed_in_mid_stream_leaves_the_model_to_the_next(server, client, row):
    before = draw(client, row)
    asked = json.dumps([server.target, row[0].tolist(), ENDLESS])
    with subprocess.Popen([sys.executable, "-c", VANISHING, asked], cwd=ROOT, stdout=subprocess.PIPE) as vanishing:
        try:
            assert vanishing.stdout.readline() == b"drawing\n"
            assert server.counted("rpc_in_flight", method=DECODE) == 1
        finally:
            vanishing.send_signal(signal.SIGKILL)
    began = time.monotonic()
    np.testing.assert_array_equal(draw(client, row), before)
    assert time.monotonic() - began < SOON
    until(lambda: server.counted("rpc_in_flight", method=DECODE) == 0)
    assert server.counted("rpc_requests_total", method=DECODE, code="CANCELLED") >= 1


def test_deadline_inside_diffusion_stops_it(server, client, row):
    before, steps = draw(client, row), []
    with pytest.raises(DeadlineError):
        draw(client, row, **ENDLESS, timeout=3, on_event=lambda event: steps.append((event.stage, event.done)))
    assert ("reconstruct", 1) in steps
    began = time.monotonic()
    np.testing.assert_array_equal(draw(client, row), before)
    assert time.monotonic() - began < SOON
    until(lambda: server.counted("rpc_in_flight", method=DECODE) == 0)


@pytest.mark.parametrize("how", [{"steps": 2**31 - 1}, {"samples": 2**31 - 1}, {"steps": 900, "samples": 10**6}])
def test_request_beyond_the_budget_is_refused_before_it_begins(server, client, row, pictures, how):
    server.forget_peak()
    before = server.memory()
    with bystander(server.target, pictures):
        began = time.monotonic()
        with pytest.raises(BudgetError, match="would take about"):
            draw(client, row, **how)
        assert time.monotonic() - began < SOON
    assert server.memory("VmHWM") < before + 100e6


def test_allocator_error_in_one_request_is_that_requests_alone(server, client, pictures):
    large = np.zeros((4096, 4096, 3), np.uint8)
    small = client.encode(ENCODER, images=pictures[:2])
    whole = resource.prlimit(server.process.pid, resource.RLIMIT_AS)
    with bystander(server.target, pictures):
        # Room for what others need, and not for a large picture as floats.
        room = server.memory("VmSize") + 120 * 2**20
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (room, whole[1]))
        try:
            with pytest.raises(BudgetError, match="memory"):
                client.encode(ENCODER, images=[large, large, large])
        finally:
            resource.prlimit(server.process.pid, resource.RLIMIT_AS, whole)
    np.testing.assert_array_equal(client.encode(ENCODER, images=pictures[:2]), small)
    assert client.encode(ENCODER, images=[large]).shape == (1, small.shape[1])


def cut(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def garble(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(b"\xff" * weights.stat().st_size)


def lose_weights(folder: Path) -> None:
    next(folder.glob("*.safetensors")).unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def swap_weights(folder: Path) -> None:
    # Whole, and of another model.
    other = next((folder.parent / LATENT).glob("*.safetensors"))
    shutil.copy(other, next(folder.glob("*.safetensors")))


@pytest.mark.parametrize("spoil", [cut, garble, lose_weights, break_config, swap_weights])
def test_damaged_model_says_so_and_spares_the_others(server, client, live_models, pictures, spoil):
    name = f"spoilt-{spoil.__name__}"
    spoilt = live_models / name
    with bystander(server.target, pictures):
        shutil.copytree(live_models / ENCODER, spoilt)
        spoil(spoilt)
        try:
            until(lambda: name in {model.name for model in client.models()})
            for _ in range(2):
                with pytest.raises((DamagedModelError, InputError)) as caught:
                    client.encode(name, images=pictures[:1])
                assert isinstance(caught.value, DamagedModelError), caught.value
                assert str(live_models) not in str(caught.value)
            [listed] = [model for model in client.models() if model.name == name]
            assert listed.state == "failed" and listed.reason
            # Written again it answers, without a restart.
            shutil.rmtree(spoilt)
            shutil.copytree(live_models / ENCODER, spoilt)
            expected = client.encode(ENCODER, images=pictures[:1])

            def answers() -> bool:
                try:
                    return np.array_equal(client.encode(name, images=pictures[:1]), expected)
                except (DamagedModelError, ModelNotFoundError):
                    return False

            until(answers)
        finally:
            shutil.rmtree(spoilt)
