"""Published architectures at reduced width with random weights, saved in the layout of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
)

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "picture", "of", "red", "blue", "green", "mug", "chair",
    "table", "ball", "lamp", "on", "the", "left", "right", "top",
]  # fmt: skip
TOWER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}


def save_blip(folder: Path) -> Path:
    """A BLIP captioner for 48 pixels, that is 10 tokens of width 24, and a vocabulary of 22 words."""
    special = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = TOWER | special | {"vocab_size": len(WORDS), "max_position_embeddings": 32}
    config = BlipConfig(text_config=text, vision_config=TOWER | {"image_size": 48, "patch_size": 16})
    randomise(BlipForConditionalGeneration(config), seed=1).save_pretrained(folder)
    BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    BertTokenizer(vocab={word: k for k, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def save_dpt(folder: Path, **changes: object) -> Path:
    """A DPT for 64 pixels, that is 17 tokens of width 24, read after each of four blocks."""
    config = DPTConfig(
        **(TOWER | {"num_hidden_layers": 4}), image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 12, 16, 16], fusion_hidden_size=16, **changes,
    )  # fmt: skip
    model = randomise(DPTForDepthEstimation(config), seed=2)
    # The head ends in a rectifier: keep it where it passes everything.
    nn.init.constant_(model.head.head[-2].bias, 5.0)
    model.save_pretrained(folder)
    DPTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Weights large enough that what the model puts out depends on what it reads."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 or "token" in name:
                scale = 0.5 if "embedding" in name else 1.5 / weight[0].numel() ** 0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return model.eval()
