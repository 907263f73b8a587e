"""Tiny untrained components of diffusers and transformers, and random decoded inputs that fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from decoders.pictures import DecodedInputs

WIDTH, TOKENS, EMBEDDING = 8, 12, 10
_WORDS = ("a", "red", "blue", "mug", "chair")


def make_vae(channels: int = 4, latents: int = 4) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(channels, channels, channels, 2 * channels),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latents,
        norm_num_groups=2,
        layers_per_block=1,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=0.7,
    )


def make_unet(sees: int = 4, gives: int = 4, **options: Any) -> Any:
    settings = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    return diffusers.UNet2DConditionModel(in_channels=sees, out_channels=gives, **(settings | options))


def make_scheduler(kind: str = "DDIMScheduler", **options: Any) -> Any:
    # Stable Diffusion's.
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    ddim = {"clip_sample": False, "set_alpha_to_one": False} if kind == "DDIMScheduler" else {}
    return getattr(diffusers, kind)(**(settings | ddim | options))


def make_adapter(unet: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of an IP-Adapter of four tokens, in its published layout."""
    tokens = 4
    weights: dict[str, dict[str, torch.Tensor]] = {
        "image_proj": {
            "proj.weight": torch.randn(tokens * WIDTH, EMBEDDING),
            "proj.bias": torch.randn(tokens * WIDTH),
            "norm.weight": torch.ones(WIDTH),
            "norm.bias": torch.zeros(WIDTH),
        },
        "ip_adapter": {},
    }
    key = 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
            for part in ("to_k_ip", "to_v_ip"):
                weights["ip_adapter"][f"{key}.{part}.weight"] = torch.randn(hidden, WIDTH)
            key += 2
    return weights


def make_tokenizer(folder: Path) -> Any:
    """CLIP's, of single letters."""
    letters = sorted(set("".join(_WORDS)))
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def make_text_encoder(n_words: int) -> Any:
    config = CLIPTextConfig(
        vocab_size=n_words,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=n_words - 2,
        eos_token_id=n_words - 1,
        pad_token_id=n_words - 1,
    )
    return CLIPTextModel(config)


def make_inputs(n: int) -> DecodedInputs:
    rng = np.random.default_rng(1)
    return DecodedInputs(
        [f"scene-{k}" for k in range(n)],
        z=rng.standard_normal((n, 4, 8, 8)).astype(np.float32),
        c=rng.standard_normal((n, TOKENS, WIDTH)).astype(np.float32),
        depth=rng.random((n, 64, 64)).astype(np.float32),
        embedding=rng.standard_normal((n, EMBEDDING)).astype(np.float32),
        image=rng.integers(0, 256, (n, 64, 64, 3), np.uint8),
        captions=[["a red mug", "a blue chair", "a mug"][k % 3] for k in range(n)],
    )
