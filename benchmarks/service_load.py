"""What the service adds to a model, what batching gains, and whether hours of mixed load lose or leak anything.

A server in a process of its own, with the real server, engine and batcher, and two planted models of 15,724 float32 in
and out: one that sleeps 20 or 50 ms a call and 0.5 ms more for each further row, as a GPU would, and a linear layer of
torch. The client is this process. Every ratio is of one run, median of the repetitions; the load of the machine is
written beside it.

    python benchmarks/service_load.py                 writes benchmarks/results/service_load.json
    python benchmarks/service_load.py --minutes 30 --models DIR --encoder NAME --decoder NAME
                                                      mixed load alone, of models of pictures
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import grpc
import numpy as np
from provenance import RESULTS, provenance
from service_mixed import mixed_load

from service.generated.penfield.v1 import encoding_pb2, encoding_pb2_grpc, model_pb2, tensor_pb2
from service.items import EncodeItem
from service.tensors import to_array, to_tensor

OUT = RESULTS / "service_load.json"
UNITS, HIDDEN = 15_724, 1024
EACH = 0.0005
OPTIONS = [("grpc.max_receive_message_length", 64 * 2**20)]
# The models by name: seconds of a call, None for the linear layer.
SLEEPERS = {"sleep-20": 0.020, "sleep-50": 0.050}
LINEAR = "linear"


# The server's side --------------------------------------------------------------------------------------------------


def serve(batch_size: int, batch_wait_ms: float) -> None:
    """Answer until the process is ended; prints the port."""
    from service.server import Server
    from service.services import AllServices
    from service.settings import ServerSettings

    class Planted(AllServices):
        def _runner(self) -> tuple[Any, Any]:
            from service.repository import ModelRepository

            return ModelRepository(self.settings.models), PlantedRunner()

    async def main(folder: Path) -> None:
        for name in (*SLEEPERS, LINEAR):
            (folder / name).mkdir()
            (folder / name / "config.json").write_text('{"kind": "RidgeEncoder"}')
        settings = ServerSettings(
            models=folder, port=0, batch_size=batch_size, batch_wait_ms=batch_wait_ms, drain_pause=0, grace=1,
            queue_size=256, client_rpcs=256, log_level="warning",
        )  # fmt: skip
        server = Server(settings)
        server._services = Planted(settings, server.metrics)
        await server.start()
        print(server.port, flush=True)
        await server.serve_forever()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


class PlantedRunner:
    """Models that take a known time, on one thread, as `service.runner.LocalRunner` would run them."""

    parallel = 1

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._pool = ThreadPoolExecutor(1)
        self._layers = torch.nn.Sequential(
            torch.nn.Linear(UNITS, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, UNITS)
        )
        self._answer = np.zeros(UNITS, np.float32)

    def state(self, key: Any) -> Any:
        from service.runner import ModelState

        return ModelState("ready")

    async def describe(self, key: Any) -> Any:
        from service.models import Description, FeatureSpace, Units
        from service.repository import ModelEntry

        units = Units(tuple(map(str, range(UNITS))), "{}", "planted")
        space = FeatureSpace("", "", "", "", (UNITS,), "planted")
        entry = ModelEntry(key, Path(), "RidgeEncoder", "planted", 0, 0.0, ("encode",))
        return Description(entry, units, 0, features=(space,))

    async def encode(self, key: Any, batch: Sequence[Any]) -> list[np.ndarray]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._compute, key.name, batch)

    def _compute(self, name: str, batch: Sequence[Any]) -> list[np.ndarray]:
        rows = [item.features[""] for item in batch]
        if name == LINEAR:
            return list(np.split(linear(self._layers, np.concatenate(rows)), len(rows)))
        time.sleep(SLEEPERS[name] + EACH * (len(rows) - 1))
        return [self._answer[None]] * len(rows)

    async def load(self, entry: Any) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        self._pool.shutdown()


def linear(layers: Any, rows: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return np.asarray(layers(torch.from_numpy(np.array(rows))))


@contextmanager
def serving(batch_size: int = 16, batch_wait_ms: float = 5) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, __file__, "--serve", str(batch_size), str(batch_wait_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


# The client's side --------------------------------------------------------------------------------------------------


def request_to(model: str) -> encoding_pb2.EncodeRequest:
    """One row of 62,896 bytes."""
    row = np.random.default_rng(0).standard_normal((1, UNITS), np.float32)
    spaces = [tensor_pb2.NamedTensor(name="", tensor=to_tensor(row))]
    return encoding_pb2.EncodeRequest(
        model=model_pb2.ModelReference(name=model), features=encoding_pb2.FeatureRows(spaces=spaces)
    )


async def timed(encode: Any, request: Any) -> float:
    """Seconds of a call whose answer is read."""
    began = time.perf_counter()
    answer = to_array((await encode(request, timeout=120)).responses, name="responses")
    assert answer.shape == (1, UNITS)
    return time.perf_counter() - began


async def closed_loop(target: str, model: str, clients: int, seconds: float) -> dict[str, float]:
    """Clients that ask again as soon as they are answered; the first tenth of the time is not counted."""
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        encode, request = encoding_pb2_grpc.EncodingServiceStub(channel).Encode, request_to(model)
        await timed(encode, request)
        begin = time.perf_counter() + seconds / 10
        found: list[float] = []

        async def ask() -> None:
            while time.perf_counter() < begin + seconds:
                took = await timed(encode, request)
                if begin <= time.perf_counter() <= begin + seconds:
                    found.append(took)

        await asyncio.gather(*(ask() for _ in range(clients)))
        return {"rate": len(found) / seconds, **_quantiles(found)}


async def open_loop(target: str, model: str, rate: float, seconds: float) -> dict[str, float]:
    """Calls that come at random, `rate` a second, however long the earlier ones take."""
    rng = np.random.default_rng(0)
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        encode, request = encoding_pb2_grpc.EncodingServiceStub(channel).Encode, request_to(model)
        await timed(encode, request)
        when = time.perf_counter()
        asked = []
        for wait in rng.exponential(1 / rate, int(rate * seconds)):
            when += wait
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            asked.append(asyncio.ensure_future(timed(encode, request)))
        return {"rate": rate, **_quantiles(await asyncio.gather(*asked))}


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"calls": len(seconds), "p50_ms": 1e3 * float(p50), "p99_ms": 1e3 * float(p99)}


def direct(name: str, calls: int) -> float:
    """Median milliseconds of a model that is called in its own process, on a thread as in the server."""
    runner = PlantedRunner()
    item = EncodeItem(features={"": np.zeros((1, UNITS), np.float32)})

    def once() -> float:
        began = time.perf_counter()
        runner._pool.submit(runner._compute, name, [item]).result()
        return time.perf_counter() - began

    return 1e3 * statistics.median(once() for _ in range(calls))


# What is asked ------------------------------------------------------------------------------------------------------


def overhead(seconds: float) -> dict[str, Any]:
    """A lone client: what a call adds, and whether it pays for the wait of a batch."""
    found: dict[str, Any] = {}
    with serving() as waiting, serving(batch_wait_ms=200) as patient:
        for name in SLEEPERS:
            alone = direct(name, max(5, int(seconds / SLEEPERS[name] / 2)))
            served = asyncio.run(closed_loop(waiting, name, 1, seconds))["p50_ms"]
            slow = asyncio.run(closed_loop(patient, name, 1, seconds))["p50_ms"]
            found[name] = {
                "direct_ms": alone,
                "served_ms": served,
                "added_ms": served - alone,
                "added_share": served / alone - 1,
                "added_by_a_wait_of_200_ms": slow - served,
            }
    return found


def batching(seconds: float) -> dict[str, Any]:
    """32 clients with batches of 32 and of one, and the wait of calls at 70 % of what batches reach."""
    found: dict[str, Any] = {}
    with serving(32) as many, serving(1) as one:
        for name in ("sleep-20", LINEAR):
            alone = asyncio.run(closed_loop(one, name, 32, seconds))
            together = asyncio.run(closed_loop(many, name, 32, seconds))
            found[name] = {"none": alone, "batched": together, "gain": together["rate"] / alone["rate"]}
        at_70 = asyncio.run(open_loop(many, "sleep-20", 0.7 * found["sleep-20"]["batched"]["rate"], 2 * seconds))
        found["sleep-20 at 70 %"] = at_70 | {"p99_over_p50": at_70["p99_ms"] / at_70["p50_ms"]}
    return found


def median_of(repeats: Sequence[Any]) -> Any:
    """The same structure with the median of each number."""
    if isinstance(repeats[0], dict):
        return {key: median_of([each[key] for each in repeats]) for key in repeats[0]}
    return round(statistics.median(repeats), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, type=float, metavar=("SIZE", "WAIT"), help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each point")
    parser.add_argument("--out", type=Path, default=OUT, help=f"JSON file; by default {OUT.name}")
    parser.add_argument("--minutes", type=float, help="of mixed load, instead")
    parser.add_argument("--models", type=Path, help="folder of the models for mixed load")
    parser.add_argument("--encoder", help="name of the encoder of pictures")
    parser.add_argument("--decoder", help="name of the decoder of pictures")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(int(arguments.serve[0]), arguments.serve[1])
    elif arguments.minutes:
        if not (arguments.models and arguments.encoder and arguments.decoder):
            parser.error("--minutes needs --models, --encoder and --decoder")
        origin = provenance()
        result = mixed(arguments.models, arguments.encoder, arguments.decoder, 60 * arguments.minutes)
        print(json.dumps(result, indent=2))
        write(arguments.out, "mixed", origin | result)
    else:
        planted(arguments)


def planted(arguments: argparse.Namespace) -> None:
    """Measure, print and write."""
    origin: dict[str, Any] = provenance()
    found = []
    loads = [os.getloadavg()[0]]
    for _ in range(arguments.repeats):
        found.append({"one client": overhead(arguments.seconds), "32 clients": batching(arguments.seconds)})
        loads.append(os.getloadavg()[0])
        print(json.dumps(found[-1], indent=2), flush=True)
    result = origin | {"load of the machine": [round(load, 1) for load in loads], "repeats": arguments.repeats}
    result |= {"medians": median_of(found), "each": found}
    write(arguments.out, "planted", result)


def mixed(models: Path, encoder: str, decoder: str, seconds: float) -> dict[str, Any]:
    """Mixed load on a server of its own."""
    run = "import json, sys; from service.server import run; from service.settings import ServerSettings as S; "
    run += "run(S(**json.loads(sys.argv[1])))"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        settings = {"models": str(models.resolve()), "data": f"{folder}/data", "port": port, "log_level": "warning"}
        with subprocess.Popen([sys.executable, "-c", run, json.dumps(settings)]) as process:
            try:
                target = f"127.0.0.1:{port}"
                with grpc.insecure_channel(target) as channel:
                    grpc.channel_ready_future(channel).result(timeout=120)
                load = mixed_load(target, process.pid, encoder, decoder, seconds=seconds, folder=Path(folder))
                return asyncio.run(load)
            finally:
                process.terminate()


def write(out: Path, name: str, result: dict[str, Any]) -> None:
    """Beside what other runs have measured."""
    earlier = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps(earlier | {name: result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
