"""Any torch module, made by a function of a Python package: ``python:package.module:factory``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recordings.errors import InputError, UnknownNameError

from .backbone import Backbone
from .readouts import TokenLayout
from .uris import ExtractorURI


def load(uri: ExtractorURI) -> Backbone:
    """Call the factory, which returns a module or (module, preprocess).

    `preprocess` turns an image (H, W, 3) uint8 into a tensor (3, H, W) or what else the module takes; without one,
    images are scaled to [0, 1]. A module may carry ``token_layout``, a `TokenLayout`.

    Raises
    ------
    UnknownNameError : the module or the function cannot be imported. InputError : it returns something else.
    """
    factory = _import(uri)
    made = factory()
    module, preprocess = made if isinstance(made, tuple) else (made, _scale)
    if not isinstance(module, nn.Module) or not callable(preprocess):
        raise InputError(f"returned {type(made).__name__}", where=str(uri), remedy="Return (nn.Module, preprocess)")
    if uri.untrained:
        _reset(module)
    return Backbone(
        module=module,
        preprocess=lambda image: {"x": preprocess(image)},
        forward=lambda inputs: module(inputs["x"]),
        preprocessing=f"python, source {_source_hash(factory)}",
        layout=getattr(module, "token_layout", TokenLayout()),
    )


def _import(uri: ExtractorURI) -> Callable[[], Any]:
    path, _, name = uri.name.partition(":")
    try:
        return getattr(importlib.import_module(path), name or "build")
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(
            f"cannot import {uri.name!r} ({error})",
            remedy="Write python:package.module:function, with the package on the Python path",
        ) from error


def _scale(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image)).movedim(-1, 0).float() / 255


def _reset(module: nn.Module) -> None:
    for child in module.modules():
        reset = getattr(child, "reset_parameters", None)
        if callable(reset):
            reset()


def _source_hash(factory: Callable[[], Any]) -> str:
    # A change in the code changes the features as surely as a change of weights.
    try:
        source = inspect.getsource(inspect.getmodule(factory) or factory)
    except (OSError, TypeError):
        return "unknown"
    return hashlib.sha256(source.encode()).hexdigest()[:16]
