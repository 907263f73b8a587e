"""Tiny models with random weights, saved in the layouts of their libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

TINY_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
OPEN_CLIP_CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2},
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "mug", "chair", "on", "the", "left"]


def save_timm(folder: Path, architecture: str = "vit_tiny_patch16_224", **changes: Any) -> Path:
    """A vision transformer of three blocks on a grid of 4 x 4 patches."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(1)
    arguments = TINY_VIT | changes
    model = timm.create_model(architecture, pretrained=False, **arguments)
    config = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    save_for_hf(
        model, folder, model_args=arguments, model_config={"num_classes": 5}, safe_serialization=True,
        data_config=config | {"interpolation": "bicubic"},
    )  # fmt: skip
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return folder


def save_open_clip(folder: Path) -> Path:
    """A CLIP of two blocks a tower."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(2)
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}
    config = {"model_cfg": OPEN_CLIP_CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.CLIP(**OPEN_CLIP_CONFIG)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def save_dinov2(folder: Path) -> Path:
    """A DINOv2 of transformers with four register tokens."""
    from transformers import BitImageProcessor, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(3)
    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8, num_register_tokens=4
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


def save_bert(folder: Path) -> Path:
    """A BERT of two blocks with a vocabulary of twelve words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(4)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    return folder


def save_vjepa2(folder: Path) -> Path:
    """A V-JEPA 2 encoder of two blocks on four frames."""
    from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

    torch.manual_seed(5)
    config = VJEPA2Config(
        crop_size=32, patch_size=8, frames_per_clip=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=2, pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2,
        pred_num_mask_tokens=2,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    VJEPA2VideoProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


def save_videomae(folder: Path) -> Path:
    """A VideoMAE of two blocks on four frames."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    torch.manual_seed(6)
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=32,
    )  # fmt: skip
    VideoMAEModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP of transformers, image tower and text tower."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(7)
    tower = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
    text = tower | {"vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2}
    config = CLIPConfig(
        text_config=text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=12
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder
