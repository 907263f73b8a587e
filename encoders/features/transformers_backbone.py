"""Image, video and text models of transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, AutoVideoProcessor

from recordings.errors import FormatError, InputError

from .backbone import Backbone, sample_frames
from .readouts import TokenLayout, first_tensor
from .uris import ExtractorURI
from .weights import find_weights

# Captions are short; a text model may take thousands of tokens.
MAX_TOKENS = 128


def load(uri: ExtractorURI) -> Backbone:
    """The model of a repository or folder; for one with two towers the image tower, or with ``#text`` the text tower.

    Raises
    ------
    FormatError : transformers cannot load it. Code from a repository is never run.
    """
    folder = find_weights(uri).parent
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if uri.untrained:
            model = AutoModel.from_config(config, trust_remote_code=False)
        else:
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        return _backbone(model, folder, uri)
    except (ValueError, OSError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise FormatError(
            f"transformers cannot load it ({str(error).splitlines()[0]})",
            where=str(uri),
            remedy="A model that brings its own code needs a python: factory",
        ) from error


def _backbone(model: nn.Module, folder: Path, uri: ExtractorURI) -> Backbone:
    config: Any = model.config
    two_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    takes: str = getattr(model, "main_input_name", "input_ids")
    if uri.text or (takes == "input_ids" and not two_towers):
        return _text(model, folder, two_towers)
    if two_towers:
        return _image(model, folder, getattr(config, "vision_config", config), two_towers=True)
    if takes == "pixel_values_videos" or any(hasattr(config, n) for n in ("num_frames", "frames_per_clip")):
        return _video(model, folder, takes)
    return _image(model, folder, config, two_towers=False)


def _image(model: Any, folder: Path, config: Any, *, two_towers: bool) -> Backbone:
    processor = AutoImageProcessor.from_pretrained(folder)

    def preprocess(image: np.ndarray) -> dict[str, Tensor]:
        return {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]}

    def embed(inputs: dict[str, Tensor]) -> Any:
        return model.get_image_features(**inputs)

    def forward(inputs: dict[str, Tensor]) -> Any:
        return model(**inputs)

    blank = preprocess(np.zeros((64, 64, 3), np.uint8))["pixel_values"]
    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=embed if two_towers else forward,
        preprocessing=_describe(processor),
        layout=_layout(model, config, tuple(blank.shape[-2:])),
        project=lambda inputs: _embedding(embed(inputs) if two_towers else forward(inputs)),
        default_layer=_last_block(model, "vision" if two_towers else ""),
    )


def _video(model: Any, folder: Path, takes: str) -> Backbone:
    config = model.config
    n_frames = int(getattr(config, "num_frames", None) or config.frames_per_clip)
    processor, options = _video_processor(folder)

    def preprocess(clip: np.ndarray) -> dict[str, Tensor]:
        frames = sample_frames(clip, n_frames)
        made = processor([frames] if options else list(frames), return_tensors="pt", **options)
        return {takes: next(made[key] for key in ("pixel_values_videos", "pixel_values") if key in made)[0]}

    def forward(inputs: dict[str, Tensor]) -> Any:
        return model(**inputs)

    blank = preprocess(np.zeros((n_frames, 64, 64, 3), np.uint8))[takes]
    layout = _layout(model, config, tuple(blank.shape[-2:]), n_frames)
    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=forward,
        preprocessing=_describe(processor),
        modality="video",
        layout=layout,
        project=lambda inputs: _embedding(forward(inputs)),
        default_layer=_last_block(model, "encoder"),
        n_frames=n_frames,
    )


def _video_processor(folder: Path) -> tuple[Any, dict[str, bool]]:
    """The processor, and what it must be told: those for video would choose frames by themselves."""
    try:
        return AutoVideoProcessor.from_pretrained(folder), {"do_sample_frames": False}
    except (ValueError, OSError, KeyError, TypeError):
        return AutoImageProcessor.from_pretrained(folder), {}


def _text(model: Any, folder: Path, two_towers: bool) -> Backbone:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    n_tokens = min(int(tokenizer.model_max_length), MAX_TOKENS)

    def preprocess(caption: str) -> dict[str, Tensor]:
        if len(tokenizer(caption)["input_ids"]) > n_tokens:
            warnings.warn(f"a caption is cut after {n_tokens} tokens: {caption[:60]!r}", stacklevel=2)
        made = tokenizer(caption, padding="max_length", truncation=True, max_length=n_tokens, return_tensors="pt")
        return {name: made[name][0] for name in ("input_ids", "attention_mask")}

    def forward(inputs: dict[str, Tensor]) -> Any:
        return model.get_text_features(**inputs) if two_towers else model(**inputs)

    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=forward,
        preprocessing=f"{type(tokenizer).__name__}, {n_tokens} tokens",
        modality="text",
        layout=TokenLayout(has_class_token=tokenizer.cls_token is not None and not two_towers),
        project=lambda inputs: _embedding(forward(inputs)),
        default_layer=_last_block(model, "text" if two_towers else ""),
    )


def _layout(model: Any, config: Any, size: tuple[int, ...], n_frames: int | None = None) -> TokenLayout:
    patch = getattr(config, "patch_size", None)
    if not patch:
        return TokenLayout()
    height, width = (patch, patch) if isinstance(patch, int) else patch[-2:]
    grid: tuple[int, ...] = (size[0] // height, size[1] // width)
    if n_frames is not None:
        grid = (n_frames // int(getattr(config, "tubelet_size", 1)), *grid)
    has_class_token = any(
        name.rsplit(".", 1)[-1] in ("cls_token", "class_embedding") for name, _ in model.named_parameters()
    )
    return TokenLayout(
        n_prefix=has_class_token + int(getattr(config, "num_register_tokens", 0) or 0),
        has_class_token=has_class_token,
        grid=grid,
    )


def _embedding(output: Any) -> Tensor:
    pooled = getattr(output, "pooler_output", None)
    embedding = pooled if pooled is not None else first_tensor(output)
    if embedding is None or embedding.ndim != 2:
        raise InputError("this model has no embedding of its own", remedy="Take the read-out 'pooled'")
    return embedding


def _last_block(model: nn.Module, tower: str) -> str:
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and (not tower or name.startswith(tower))
    ]
    if not stacks:
        return "output"
    name, blocks = max(stacks, key=lambda stack: (len(stack[1]), -stack[0].count(".")))
    return f"{name}.{len(blocks) - 1}"


def _describe(processor: Any) -> str:
    return f"transformers {sorted(processor.to_dict().items(), key=str)}"
