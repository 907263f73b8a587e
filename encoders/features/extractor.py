"""Feature extractor: a model of any library, its layers by module path, and the read-outs of their outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from recordings.errors import InputError, ShapeError

from .backbone import Backbone, load_backbone, sample_frames
from .blocks import main_layers
from .readouts import first_tensor, grid_of, read_out
from .uris import parse_uri, unknown_name

OUTPUT, PROJECTED = "output", "projected"


class FeatureExtractor:
    """A frozen model that turns stimuli into features of its layers.

    Layers are named by module path (``blocks.11``); "output" is what the model returns.

    Parameters
    ----------
    backbone : the model, see `load_backbone`.
    uri : where it came from.
    device : "cpu", "cuda", "mps", or "auto" for the best there is.
    dtype : "bfloat16" or "float16" computes under autocast; None in float32.

    Raises
    ------
    InputError : the device is not there, or an unknown dtype.
    """

    def __init__(self, backbone: Backbone, uri: str, device: str = "auto", dtype: str | None = None):
        self.backbone = backbone
        self.uri = uri
        self.device = torch_device(device)
        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise InputError(f"no computing in {dtype!r}", remedy="Take float32, bfloat16 or float16")
        self.dtype = dtype or "float32"
        self.weights = weights_fingerprint(backbone.module)
        backbone.module.to(self.device)
        self._modules = {name: module for name, module in backbone.module.named_modules() if name}

    @classmethod
    def from_uri(cls, uri: str, device: str = "auto", dtype: str | None = None, *, allow_python: bool = True) -> Self:
        """The model of a URI; see `encoders.features.uris`. Nothing is downloaded.

        Raises
        ------
        MissingWeightsError : the weights are not here; the error names the command that fetches them.
        UnknownNameError : no such model. InputError : a ``python:`` model and `allow_python` is False.
        """
        parsed = parse_uri(uri)
        return cls(load_backbone(parsed, allow_python=allow_python), str(parsed), device, dtype)

    @property
    def modality(self) -> str:
        """What it reads: "image", "video" or "text"."""
        return self.backbone.modality

    @property
    def default_layer(self) -> str:
        """The last block, or the output of a model without blocks."""
        return self.backbone.default_layer

    def layers(self) -> list[str]:
        """Names of all layers that put out a tensor, in the order of the model's definition, then "output"."""
        return list(self.layer_shapes())

    def main_layers(self) -> list[str]:
        """Names of the layers that stand for the model, see `blocks.main_layers`; "output" if it has none."""
        return main_layers(self.backbone.module, [name for name in self.layers() if name != OUTPUT]) or [OUTPUT]

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Output shape of each layer for one stimulus, without the batch axis."""
        return {name: shape[1:] for name, (shape, _) in self._probed.items()}

    def readout_shapes(self, layers: Sequence[str], readout: str) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's features for one stimulus, or one frame of a clip that an image model reads."""
        values = self._forward([self.backbone.preprocess(self._blank())], layers, readout)
        return {layer: array.shape[1:] for layer, array in values.items()}

    def check_layer(self, layer: str) -> None:
        """Raise `UnknownNameError`, with the nearest names, if there is no such layer."""
        if layer not in self._probed:
            raise unknown_name("layer", layer, self._probed, where=self.uri)

    def grid(self, layer: str) -> tuple[int, ...] | None:
        """Rows and columns (frames first for video) of a layer's tokens; None where they lie on no grid."""
        if self.modality == "text" or layer not in self._probed:
            return None
        return grid_of(self._probed[layer][0], self.backbone.layout)

    def __call__(
        self,
        stimuli: Sequence[Any],
        layers: Sequence[str] | None = None,
        readout: str = "pooled",
        batch_size: int | None = None,
        n_frames: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Features of a few stimuli, by layer; for many, and to keep them, use `encoders.extract`.

        Parameters
        ----------
        stimuli : images (H, W, 3) or clips (T, H, W, 3), uint8, or captions. An image model reads clips frame by frame.
        layers : module paths; the default layer if None.
        batch_size : stimuli or frames at a time; all if None.
        n_frames : frames taken from each clip by an image model, spread evenly; all if None.

        Returns
        -------
        float32 (n, feature) by layer, (n, token, channel) for "tokens"; of clips that an image model reads (n, time,
        feature), and for "tokens" (n, time x token, channel), the tokens of one frame after those of another.

        Raises
        ------
        UnknownNameError : no such layer or read-out. InputError : stimuli that the model cannot read.
        ShapeError : clips of different length.
        """
        layers = self.resolve_layers(layers, readout)
        prepared = [self.prepare(stimulus, n_frames) for stimulus in stimuli]
        return self.compute(prepared, layers, readout, batch_size)

    def resolve_layers(self, layers: Sequence[str] | None, readout: str) -> list[str]:
        """The layers meant: the default for None, the model's own embedding for the read-out "projected"."""
        if readout == PROJECTED:
            if self.backbone.project is None:
                raise InputError("this model has no embedding of its own", where=self.uri, remedy="Name a layer")
            return [PROJECTED]
        chosen = [layers] if isinstance(layers, str) else list(layers or [self.default_layer])
        for layer in chosen:
            self.check_layer(layer)
        return chosen

    def prepare(self, stimulus: Any, n_frames: int | None = None) -> list[dict[str, Tensor]]:
        """Input tensors of a stimulus: one set, or one a frame where an image model reads a clip."""
        if isinstance(stimulus, str) != (self.modality == "text"):
            given = "a caption" if isinstance(stimulus, str) else "pixels"
            raise InputError(f"{self.uri} reads {self.modality} and was given {given}")
        if self.modality == "image" and stimulus.ndim == 4:
            return [self.backbone.preprocess(frame) for frame in sample_frames(stimulus, n_frames)]
        if self.modality == "video" and stimulus.ndim == 3:
            raise InputError(f"{self.uri} reads clips and was given an image")
        if self.modality == "video" and n_frames not in (None, self.backbone.n_frames):
            raise InputError(f"{self.uri} takes {self.backbone.n_frames} frames, not {n_frames}")
        return [self.backbone.preprocess(stimulus)]

    def compute(
        self, prepared: Sequence[list[dict[str, Tensor]]], layers: Sequence[str], readout: str, batch_size: int | None
    ) -> dict[str, np.ndarray]:
        """Features of prepared stimuli by layer; see `__call__`."""
        lengths = {len(frames) for frames in prepared}
        if len(lengths) > 1:
            raise ShapeError(
                f"images and clips, or clips of different length, together: {sorted(lengths)} frames",
                remedy="Give n_frames to take the same number from each clip",
            )
        flat = [frame for frames in prepared for frame in frames]
        size = batch_size or len(flat)
        parts = [self._forward(flat[start : start + size], layers, readout) for start in range(0, len(flat), size)]
        clips = self.modality == "image" and lengths != {1}
        values = {layer: np.concatenate([part[layer] for part in parts]) for layer in layers}
        return {layer: _by_clip(v, len(prepared)) for layer, v in values.items()} if clips else values

    @torch.inference_mode()
    def _forward(self, batch: list[dict[str, Tensor]], layers: Sequence[str], readout: str) -> dict[str, np.ndarray]:
        inputs = {name: torch.stack([item[name] for item in batch]) for name in batch[0]}
        inputs = {name: tensor.to(self.device, non_blocking=True) for name, tensor in inputs.items()}
        mask = inputs.get("attention_mask")
        with self._autocast():
            if readout == PROJECTED and self.backbone.project is not None:
                outputs = {PROJECTED: self.backbone.project(inputs)}
            else:
                outputs = {
                    layer: read_out(output.float(), readout, self.backbone.layout, mask)
                    for layer, output in self._capture(inputs, layers).items()
                }
        return {layer: output.float().cpu().numpy() for layer, output in outputs.items()}

    def _capture(self, inputs: dict[str, Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the layers; the model runs no further than the last of them."""
        captured: dict[str, Tensor] = {}
        awaited = {layer: self._probed[layer][1] for layer in layers}

        def keep(layer: str, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                # The next layer may work in place, as many ReLUs do.
                captured[layer] = tensor.clone()
            awaited[layer] -= 1
            if not any(count > 0 for count in awaited.values()):
                raise _AllCaptured

        with ExitStack() as hooks:
            for layer in layers:
                if layer != OUTPUT:
                    hooks.enter_context(_hook(self._modules[layer], lambda output, layer=layer: keep(layer, output)))
            try:
                output = first_tensor(self.backbone.forward(inputs))
                if OUTPUT in layers and output is not None:
                    captured[OUTPUT] = output
            except _AllCaptured:
                pass
        return {layer: captured[layer] for layer in layers}

    @cached_property
    def _probed(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Output shape and number of calls of each layer that runs, found by showing the model a blank stimulus."""
        seen: dict[str, tuple[tuple[int, ...], int]] = {}

        def note(name: str, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.ndim > 1:
                seen[name] = (tuple(tensor.shape), seen.get(name, ((), 0))[1] + 1)

        blank = self.backbone.preprocess(self._blank())
        inputs = {name: tensor[None].to(self.device) for name, tensor in blank.items()}
        with ExitStack() as hooks, torch.inference_mode(), self._autocast():
            for name, module in self._modules.items():
                hooks.enter_context(_hook(module, lambda output, name=name: note(name, output)))
            note(OUTPUT, self.backbone.forward(inputs))
        return {name: seen[name] for name in [*self._modules, OUTPUT] if name in seen}

    def _blank(self) -> Any:
        if self.modality == "text":
            return "a"
        image = np.full((64, 64, 3), 127, np.uint8)
        return image if self.modality == "image" else np.stack([image] * (self.backbone.n_frames or 1))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, getattr(torch, self.dtype), enabled=self.dtype != "float32", cache_enabled=True
        )


class _AllCaptured(Exception):
    """Raised inside a model's forward pass once nothing more is needed of it."""


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name, dtype and shape."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(values.view(torch.uint8).numpy()) if values.numel() else b"")
    return digest.hexdigest()


class _hook:
    """A forward hook as a context."""

    def __init__(self, module: nn.Module, receive: Any):
        self.module, self.receive = module, receive

    def __enter__(self) -> None:
        self.handle = self.module.register_forward_hook(lambda module, inputs, output: self.receive(output))

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def _by_clip(values: np.ndarray, n: int) -> np.ndarray:
    """Frames (n x time, feature) or (n x time, token, channel) as clips, (n, time, feature) or (n, tokens, channel)."""
    return values.reshape(n, -1, values.shape[-1])


def torch_device(name: str) -> torch.device:
    """The torch device of a name; "auto" takes an accelerator if there is one. `InputError` if it is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"no device {name!r} here", remedy="Take cpu, cuda, mps or auto") from error
    return device
