"""Image models of timm, and the miniature backbone, which is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor

from .backbone import Backbone
from .readouts import TokenLayout
from .sources import source_of
from .uris import ExtractorURI
from .weights import find_weights


def load(uri: ExtractorURI) -> Backbone:
    """The model and the preprocessing of its own configuration, without augmentation."""
    model = _create(uri)
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)

    def preprocess(image: np.ndarray) -> dict[str, Tensor]:
        return {"x": transform(Image.fromarray(image))}

    def project(inputs: dict[str, Tensor]) -> Tensor:
        return model.forward_head(model.forward_features(inputs["x"]), pre_logits=True)

    return Backbone(
        module=model,
        preprocess=preprocess,
        forward=lambda inputs: model(inputs["x"]),
        preprocessing=f"timm {sorted(config.items())}",
        layout=_layout(model, config["input_size"]),
        project=project,
        default_layer=_last_block(model),
    )


def _create(uri: ExtractorURI) -> Any:
    source = source_of(uri.trained)
    if source.repository is None and source.folder is None and source.url is None:
        return timm.create_model(uri.name, pretrained=False)
    if uri.untrained and "/" not in uri.name and source.folder is None:
        return timm.create_model(uri.name, pretrained=False)
    weights = find_weights(uri)
    if "/" in uri.name or source.folder is not None:
        return timm.create_model(f"local-dir:{weights.parent}", pretrained=not uri.untrained)
    return timm.create_model(uri.name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})


def _layout(model: Any, input_size: tuple[int, int, int]) -> TokenLayout:
    n_prefix = int(getattr(model, "num_prefix_tokens", 0))
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if grid is None and n_prefix and hasattr(model, "patch_embed"):
        grid = tuple(
            size // patch for size, patch in zip(input_size[1:], model.patch_embed.patch_size, strict=True)
        )  # fmt: skip
    return TokenLayout(
        n_prefix=n_prefix,
        has_class_token=n_prefix > 0 and isinstance(getattr(model, "cls_token", None), torch.Tensor),
        grid=tuple(grid) if grid is not None else None,
        channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
    )


def _last_block(model: Any) -> str:
    info = getattr(model, "feature_info", None)
    names = [entry["module"] for entry in info] if isinstance(info, list) else info.module_name() if info else []
    return names[-1] if names and names[-1] in dict(model.named_modules()) else "output"
