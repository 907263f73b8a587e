"""A loaded model and what an extractor must know of it, whatever library it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recordings.errors import InputError

from .readouts import TokenLayout
from .uris import ExtractorURI

UNTRAINED_SEED = 0


@dataclass
class Backbone:
    """A model with its preprocessing.

    Attributes
    ----------
    module : the network.
    preprocess : one stimulus (image (H, W, 3) or clip (T, H, W, 3) uint8, or a caption) to input tensors by name,
        without the batch axis.
    forward : input tensors with a batch axis through the network.
    preprocessing : the same in words, for the attributes of features.
    modality : "image", "video" or "text".
    layout : where its tokens are.
    project : input tensors to the model's own embedding (n, feature), if it has one.
    default_layer : what to read when nothing is named.
    n_frames : frames a video model takes.
    """

    module: nn.Module
    preprocess: Callable[[Any], dict[str, Tensor]]
    forward: Callable[[dict[str, Tensor]], Any]
    preprocessing: str
    modality: str = "image"
    layout: TokenLayout = field(default_factory=TokenLayout)
    project: Callable[[dict[str, Tensor]], Tensor] | None = None
    default_layer: str = "output"
    n_frames: int | None = None


def load_backbone(uri: ExtractorURI, *, allow_python: bool = True) -> Backbone:
    """The model of a URI, on the CPU, in evaluation mode.

    Raises
    ------
    MissingWeightsError : its weights are not on this machine.
    UnknownNameError : no such model. InputError : a ``python:`` URI that is not allowed.
    """
    if uri.library == "python":
        if not allow_python:
            raise InputError("python: models run code of their own and are not allowed here", where=str(uri))
        from .python_backbone import load
    elif uri.library == "baseline":
        from .baselines import load
    elif uri.library in ("timm", "miniature"):
        from .timm_backbone import load
    elif uri.library == "open_clip":
        from .open_clip_backbone import load
    else:
        from .transformers_backbone import load
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        backbone = load(uri)
    backbone.module.eval().requires_grad_(False)
    return backbone


def sample_frames(clip: np.ndarray, n_frames: int | None) -> np.ndarray:
    """Frames (n_frames, H, W, 3) spread evenly over a clip (T, H, W, 3), first and last included; all if None."""
    if n_frames is None or len(clip) == n_frames:
        return clip
    return clip[np.linspace(0, len(clip) - 1, n_frames).round().astype(int)]
