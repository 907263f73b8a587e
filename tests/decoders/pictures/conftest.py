"""Generators of tiny untrained components, by what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from decoders.pictures import DecodedInputs, Generator

from .tiny import make_adapter, make_inputs, make_scheduler, make_text_encoder, make_tokenizer, make_unet, make_vae


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def make(tokenizer: Any) -> Callable[..., Generator]:
    """A generator by what it takes: any of "controlnet", "depth2img", "adapter"; other options replace its parts."""

    def build(*takes: str, **parts: Any) -> Generator:
        torch.manual_seed(0)
        given: dict[str, Any] = {
            "vae": make_vae(),
            "unet": make_unet(5 if "depth2img" in takes else 4),
            "scheduler": make_scheduler(),
            "text_encoder": make_text_encoder(len(tokenizer)),
            "tokenizer": tokenizer,
        }
        if "controlnet" in takes:
            given["controlnet"] = diffusers.ControlNetModel.from_unet(
                given["unet"], conditioning_channels=1, conditioning_embedding_out_channels=(4, 8, 8, 8)
            )
            # As made, a ControlNet adds nothing.
            for parameter in given["controlnet"].controlnet_down_blocks.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        if "adapter" in takes:
            given["ip_adapter"] = make_adapter(given["unet"])
        return Generator(**(given | parts))

    return build


@pytest.fixture
def inputs() -> DecodedInputs:
    """Decoded inputs of three brains, everything a tiny generator takes."""
    return make_inputs(3)
