"""Grad-CAM: where in a picture a prediction comes from, through the image model and the encoder, by captum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from recordings import Stimuli
from recordings.errors import ArtifactError, InputError, UnknownNameError
from recordings.events import OnEvent, Stop, report

from .differentiable import Neuroids, device_of, indicator, summed_response
from .encoder import Encoder
from .features import FeatureExtractor, Features
from .features.extractor import OUTPUT, PROJECTED
from .features.readouts import first_tensor, grid_of, patch_tokens, read_out

# What torch and captum say of a layer that the prediction does not depend on.
_UNREACHED = ("not have been used in the graph", "Forward hook did not obtain any outputs")
_METHODS = {"grad_cam": LayerGradCam, "hires_cam": LayerGradientXActivation}


def grad_cam(
    encoder: Encoder,
    extractor: FeatureExtractor,
    features: Features | Mapping[str, Features],
    stimuli: Stimuli | Sequence[np.ndarray],
    neuroids: Neuroids = slice(None),
    *,
    layer: str | None = None,
    method: Literal["grad_cam", "hires_cam"] = "grad_cam",
    batch_size: int = 8,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> np.ndarray:
    """Where in a picture the summed prediction of some neuroids comes from, through the image model and the encoder.

    "grad_cam" (Selvaraju et al. 2017) weighs a layer's channels by their gradient's mean over places, so that a place
    counts for what it holds, wherever the encoder looks; "hires_cam" (Draelos & Carin 2020) multiplies gradient and
    activation place by place, and is faithful to where the encoder looks. Negative parts are set to 0.

    Parameters
    ----------
    extractor : of the image or video model, in float32, that the features came from.
    features : any features of the fit's spaces; only which layers and read-outs they are is looked at.
    stimuli : images (H, W, 3), or clips for a video model, uint8.
    neuroids : positions, a slice or a boolean array.
    layer : module path of a layer with a grid, at or before the one that the encoder reads, by default that one.
    batch_size : stimuli at a time.

    Returns
    -------
    float32 (n, rows, columns), or (n, frames, rows, columns) for a video model.

    Raises
    ------
    ArtifactError : features of another model than the extractor's, or than in the fit.
    InputError : a layer without a grid or one that the encoder does not read from; reduced features; clips that an
        image model reads frame by frame.
    """
    if method not in _METHODS:
        raise UnknownNameError(f"no method {method!r}", remedy=f"There are: {', '.join(_METHODS)}")
    spaces = list(encoder._spaces(features).values())
    _check_extractor(spaces, extractor)
    layer = layer or _own_layer(spaces[0], extractor)
    extractor.check_layer(layer)
    if layer == OUTPUT or extractor.grid(layer) is None:
        raise InputError(f"layer {layer!r} has no grid of places", where=extractor.uri, remedy="Name a block")
    respond = summed_response(encoder, indicator(encoder, neuroids))
    on_map, device, out = nn.Identity(), device_of(encoder), []
    images, n = iter(stimuli), len(stimuli)
    with _as_map(extractor, layer, on_map):
        for start in range(0, n, batch_size):
            report(on_event, stop, "attribute", start, n)
            inputs = _inputs(extractor, [next(images) for _ in range(min(batch_size, n - start))])

            def forward(*values: Tensor, names: tuple[str, ...] = tuple(inputs)) -> Tensor:
                found = _read(extractor, spaces, dict(zip(names, values, strict=True)))
                return respond(*(f.to(device) for f in found))

            given = tuple(value.requires_grad_() for value in inputs.values())
            try:
                found = _METHODS[method](forward, on_map).attribute(given)
            except (RuntimeError, AssertionError) as error:
                if not any(words in str(error) for words in _UNREACHED):
                    raise
                raise InputError(
                    f"the encoder does not read from layer {layer!r}",
                    where=extractor.uri,
                    remedy="Name a layer before the one that was fitted on",
                ) from error
            out.append(found.detach().sum(1).clamp(min=0).cpu().numpy())
    return np.concatenate(out) if out else np.empty((0, *(extractor.grid(layer) or ())), np.float32)


def _check_extractor(spaces: Sequence[Features], extractor: FeatureExtractor) -> None:
    for space in spaces:
        if space.attrs.get("reduction") is not None:
            raise InputError("reduced features are not a layer's output", remedy="Fit on features without reduction")
        if space.attrs.get("weights") != extractor.weights:
            raise ArtifactError(
                f"the features are not of {extractor.uri} with these weights",
                where=str(space.attrs.get("uri", "features")),
                remedy="Give the extractor that they came from",
            )


def _own_layer(space: Features, extractor: FeatureExtractor) -> str:
    return extractor.default_layer if space.attrs["readout"] == PROJECTED else str(space.attrs["layer"])


def _inputs(extractor: FeatureExtractor, images: Sequence[np.ndarray]) -> dict[str, Tensor]:
    prepared = [extractor.prepare(image) for image in images]
    if any(len(frames) > 1 for frames in prepared):
        raise InputError(f"{extractor.uri} reads clips frame by frame", remedy="Give images, or take a video model")
    batch = [frames[0] for frames in prepared]
    return {name: torch.stack([item[name] for item in batch]).to(extractor.device) for name in batch[0]}


def _read(extractor: FeatureExtractor, spaces: Sequence[Features], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Features of each space, with gradients; `FeatureExtractor` itself computes without."""
    backbone = extractor.backbone
    caught: dict[str, Tensor | None] = {}
    layers = {str(s.attrs["layer"]) for s in spaces} - {OUTPUT, PROJECTED}
    handles = [
        backbone.module.get_submodule(name).register_forward_hook(
            lambda module, arguments, output, name=name: caught.update({name: first_tensor(output)})
        )
        for name in layers
    ]
    projected = any(space.attrs["readout"] == PROJECTED for space in spaces)
    try:
        run = backbone.project if projected and backbone.project is not None else backbone.forward
        caught[PROJECTED if projected else OUTPUT] = first_tensor(run(inputs))
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for space in spaces:
        readout = str(space.attrs["readout"])
        output = caught[PROJECTED if readout == PROJECTED else str(space.attrs["layer"])]
        assert output is not None
        found.append(output if readout == PROJECTED else read_out(output, readout, backbone.layout))
    return found


@contextmanager
def _as_map(extractor: FeatureExtractor, layer: str, on_map: nn.Module) -> Iterator[None]:
    """Let a layer's patches pass through `on_map` as a map (n, channel, *grid), on their way to the next layer.

    Class and register tokens go past it.
    """
    layout = extractor.backbone.layout

    def through(module: nn.Module, arguments: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        assert tensor is not None
        grid = grid_of(tuple(tensor.shape), layout)
        assert grid is not None
        # Where each number of a map stands in the layer's output, whatever its layout.
        place = torch.arange(tensor[0].numel(), device=tensor.device).view(1, *tensor.shape[1:])
        order = patch_tokens(place, layout)[0].T.flatten()
        flat = tensor.flatten(1)
        passed = on_map(flat[:, order].unflatten(1, (-1, *grid)))
        changed = flat.index_copy(1, order, passed.flatten(1)).view_as(tensor)
        if isinstance(output, tuple):
            return tuple(changed if item is tensor else item for item in output)
        return changed

    handle = extractor.backbone.module.get_submodule(layer).register_forward_hook(through)
    try:
        yield
    finally:
        handle.remove()
