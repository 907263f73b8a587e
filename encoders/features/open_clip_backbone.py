"""Image and text towers of open_clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from .backbone import Backbone
from .readouts import TokenLayout
from .sources import source_of
from .uris import ExtractorURI
from .weights import find_weights


def load(uri: ExtractorURI) -> Backbone:
    """The image tower, or with ``#text`` the text tower; layers are named from the whole model."""
    name, model = _create(uri)
    return _text(name, model) if uri.text else _image(model)


def _create(uri: ExtractorURI) -> tuple[str, nn.Module]:
    source = source_of(uri.trained)
    if source.folder is not None or uri.name.startswith("hf-hub:"):
        name = f"local-dir:{find_weights(uri).parent}"
        return name, open_clip.create_model(name, load_weights=not uri.untrained)
    name, _, tag = uri.name.partition("/")
    if uri.untrained:
        return name, open_clip.create_model(name, pretrained_text=False)
    config = {
        k: v for k, v in open_clip.get_pretrained_cfg(name, tag).items() if k in PreprocessCfg.__dataclass_fields__
    }
    model = open_clip.create_model(name, pretrained=str(find_weights(uri)), force_preprocess_cfg=config)
    return name, model


def _image(model: Any) -> Backbone:
    visual: Any = model.visual
    config = PreprocessCfg(**visual.preprocess_cfg)
    transform = image_transform_v2(config, is_train=False)
    trunk = getattr(visual, "trunk", None)
    has_class_token = hasattr(visual, "class_embedding") or getattr(trunk, "cls_token", None) is not None
    grid = getattr(visual, "grid_size", None) or getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    n_prefix = int(getattr(trunk, "num_prefix_tokens", hasattr(visual, "class_embedding")))

    def preprocess(image: np.ndarray) -> dict[str, Tensor]:
        return {"image": transform(Image.fromarray(image))}

    def project(inputs: dict[str, Tensor]) -> Tensor:
        return model.encode_image(inputs["image"])

    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=project,
        preprocessing=f"open_clip {config}",
        layout=TokenLayout(n_prefix, has_class_token, tuple(grid) if grid else None),
        project=project,
        default_layer=_last_block(model, "visual"),
    )


def _text(name: str, model: Any) -> Backbone:
    tokenizer = open_clip.get_tokenizer(name)

    def project(inputs: dict[str, Tensor]) -> Tensor:
        return model.encode_text(inputs["text"])

    def preprocess(caption: str) -> dict[str, Tensor]:
        tokens = tokenizer([caption])[0]
        if not isinstance(tokenizer, open_clip.SimpleTokenizer):
            return {"text": tokens}
        # The end of the text has the largest id; padding follows.
        return {"text": tokens, "attention_mask": (torch.arange(len(tokens)) <= tokens.argmax()).long()}

    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=project,
        preprocessing=f"open_clip tokenizer, {tokenizer.context_length} tokens",
        modality="text",
        project=project,
        default_layer=_last_block(model, "transformer"),
    )


def _last_block(model: nn.Module, tower: str) -> str:
    names = [name for name, _ in model.named_modules() if name.startswith(tower) and ".resblocks." in f".{name}"]
    blocks = [name for name in names if name.rsplit(".", 1)[-1].isdigit() and ".resblocks." in f".{name}"]
    return blocks[-1] if blocks else "output"
