"""The trained parts as they come with Penfield: half precision, in the layouts that diffusers and transformers load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from .train import Workshop

PARTS = ("diffusion", "controlnet", "depth_unet", "ip_adapter", "reader")


def ship(shop: Workshop, folder: Path) -> None:
    """Write all `PARTS` of a workshop below `folder`; what it has not made yet is trained."""
    unet, text_encoder, tokenizer = shop.denoiser()
    pipeline = StableDiffusionPipeline(
        vae=shop.vae(),
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=DDIMScheduler.from_pretrained(shop.folder / "denoiser" / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder / "diffusion")
    ControlNetModel.from_pretrained(shop.controlnet()).half().save_pretrained(folder / "controlnet")
    UNet2DConditionModel.from_pretrained(shop.depth_unet()).half().save_pretrained(folder / "depth_unet")
    adapter = shop.ip_adapter() / "ip_adapter.safetensors"
    _halve(load_file(adapter), folder / "ip_adapter" / adapter.name)
    _halve(shop.reader().state_dict(), folder / "reader" / "model.safetensors")


def _halve(weights: dict[str, torch.Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True)
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}, file)
