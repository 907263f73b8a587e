"""Ask a server as Triton's own client does, and write what it said as JSON; its environment must have tritonclient.

Usage: oip_client.py ADDRESS MODEL INPUTS.npz, with arrays "images" and "features".
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

TYPES = {"uint8": "UINT8", "float32": "FP32"}


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, TYPES[array.dtype.name])
    tensor.set_data_from_numpy(array)
    return tensor


def refusal(call) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return ["OK", ""]


async def ask_async(address: str, model: str, inputs: list[triton.InferInput]) -> list[list[list[float]]]:
    async with triton_aio.InferenceServerClient(address) as client:
        answers = await asyncio.gather(*(client.infer(model, inputs) for _ in range(8)))
    return [answer.as_numpy("responses").tolist() for answer in answers]


def ask(address: str, model: str, arrays: dict[str, np.ndarray]) -> dict[str, object]:
    client = triton.InferenceServerClient(address)
    features, images = [tensor("features", arrays["features"])], [tensor("images", arrays["images"])]
    wanted = [triton.InferRequestedOutput("responses")]
    answer = client.infer(
        model, features, request_id="request-7", outputs=wanted, client_timeout=60, timeout=50_000_000
    )
    wrong = tensor("features", arrays["features"][:, :-1].copy())
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "unknown_ready": client.is_model_ready("nobody"),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(model, as_json=True),
        "id": answer.get_response().id,
        "version": answer.get_response().model_version,
        "features": answer.as_numpy("responses").tolist(),
        "images": client.infer(model, images, client_timeout=120).as_numpy("responses").tolist(),
        "async": asyncio.run(ask_async(address, model, features)),
        "refusals": {
            "unknown model": refusal(lambda: client.infer("nobody", features)),
            "unknown region": refusal(lambda: client.infer(model, features, parameters={"rois": "nowhere"})),
            "wrong shape": refusal(lambda: client.infer(model, [wrong])),
            "extension": refusal(client.get_model_repository_index),
        },
        "live_after": client.is_server_live(),
    }


if __name__ == "__main__":
    address, model, path = sys.argv[1:]
    with np.load(path) as file:
        json.dump(ask(address, model, dict(file)), sys.stdout)
