"""`DepthDecoder`: how near everything was, from the hidden states of a depth network that were decoded from a brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, DPTForDepthEstimation

from encoders import FeatureExtractor, Features
from encoders.features.backbone import Backbone
from recordings import Stimuli
from recordings.errors import ArtifactError, ConstantUnitError, InputError, MismatchedIdsError, ShapeError
from recordings.events import OnEvent, Stop, report

from .pretrained import as_stimuli, check_rows, check_tokens, find_model, load_model, loading, row_name, tokens_by_layer

DPT_LARGE = "Intel/dpt-large"
# The first fusion stage has nothing to add a residual to; published checkpoints leave these weights out.
_UNUSED = ("neck.fusion_stage.layers.0.residual_layer1.",)
_CONSTANT = 1e-6


class DepthDecoder:
    """Depth maps by DPT (Ranftl et al. 2021) from hidden states decoded from a brain (Takagi & Nishimoto 2023).

    Not the map is decoded from a brain but the four sets of tokens that DPT's neck assembles into one: fit a
    `LatentDecoder` to each of `hidden_states_of` the training stimuli and give what they decode to `decode`. A map
    that was decoded itself needs no network: see `check_depth`.

    Maps are nearness, as DPT puts it out: larger is nearer, up to an unknown scale and offset.

    Parameters
    ----------
    model : DPTForDepthEstimation with a plain vision transformer. processor : its image processor.
    name : for the URI of the hidden states. device : "cpu", "cuda", "mps", or "auto".

    Attributes
    ----------
    layers : names of the hidden states, first to last.

    Raises
    ------
    ArtifactError : a DPT on a convolutional or other backbone, whose hidden states are no tokens of one width.
    """

    def __init__(self, model: DPTForDepthEstimation, processor: Any, name: str = "", device: str = "auto"):
        if model.config.is_hybrid or model.backbone is not None:
            raise ArtifactError(
                "this DPT has a backbone whose hidden states are not tokens of one width",
                where=name or None,
                remedy=f"Take one with a plain vision transformer, such as {DPT_LARGE}",
            )
        self.layers = tuple(f"encoder.layer.{i}" for i in sorted(model.config.backbone_out_indices))
        backbone = Backbone(
            module=model.dpt,
            preprocess=lambda image: {"pixel_values": processor(images=image, return_tensors="pt")["pixel_values"][0]},
            forward=lambda inputs: model.dpt(**inputs),
            preprocessing=f"transformers {sorted(processor.to_dict().items(), key=str)}",
        )
        self.extractor = FeatureExtractor(backbone, f"transformers:{name}", device)
        self.model = model.to(self.extractor.device)

    @classmethod
    def from_pretrained(cls, name: str = DPT_LARGE, *, revision: str | None = None, device: str = "auto") -> Self:
        """A DPT for depth on the hub or in a folder; nothing is downloaded.

        Raises
        ------
        MissingWeightsError : it is not on this machine; the error names the command that fetches it.
        ArtifactError : no DPT with a depth head on a plain vision transformer, or a damaged one.
        """
        folder = find_model(name, revision)
        model = load_model(DPTForDepthEstimation, folder, _UNUSED)
        with loading(folder):
            processor = AutoImageProcessor.from_pretrained(folder)
        return cls(model, processor, name, device)

    def hidden_states_of(
        self,
        stimuli: Stimuli | np.ndarray,
        path: str | PathLike[str] | None = None,
        *,
        batch_size: int = 16,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> dict[str, Features]:
        """Tokens of each of `layers`, class token first, (n, token, channel): what decoders are to be fitted to.

        Parameters
        ----------
        stimuli : with pixels, or images uint8 (n, H, W, 3).
        path : feature store to keep them in, resumable and read from there; None holds them in memory, for DPT-Large
            9.5 MB an image.
        """
        return tokens_by_layer(self.extractor, stimuli, self.layers, path, batch_size, on_event, stop)

    def decode(
        self,
        hidden_states: Mapping[str, np.ndarray],
        stimulus_ids: Sequence[str] | None = None,
        *,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> np.ndarray:
        """Depth maps of decoded hidden states, by DPT's own neck and head.

        Parameters
        ----------
        hidden_states : (n, token, channel) by name in `layers`.
        stimulus_ids : n names, for errors.
        size : height and width to interpolate to; DPT's own resolution if None.

        Returns
        -------
        Nearness, float32 (n, height, width).

        Raises
        ------
        MismatchedIdsError : a layer is missing. ShapeError : another width, or a number of tokens that is no square
            and a class token. NotFiniteError, ConstantUnitError : name the stimulus.
        """
        tokens = self._check(hidden_states, stimulus_ids)
        n = len(tokens[0])
        maps = []
        for start in range(0, n, batch_size):
            report(on_event, stop, "depth", start, n)
            maps.append(self._assemble([layer[start : start + batch_size] for layer in tokens], size))
        report(on_event, None, "depth", n, n)
        return check_depth(np.concatenate(maps), stimulus_ids)

    def depth_of(
        self,
        stimuli: Stimuli | np.ndarray,
        *,
        size: tuple[int, int] | None = None,
        batch_size: int = 8,
        on_event: OnEvent | None = None,
        stop: Stop | None = None,
    ) -> np.ndarray:
        """Depth maps that DPT estimates from pictures: nearness, float32 (n, height, width); see `decode`.

        Raises
        ------
        InputError : clips or captions. ConstantUnitError : a picture in which DPT sees no depth.
        """
        shown = as_stimuli(stimuli)
        maps = []
        for start in range(0, len(shown), batch_size):
            report(on_event, stop, "depth", start, len(shown))
            rows = range(start, min(start + batch_size, len(shown)))
            maps.append(self._estimate([_picture(shown, row) for row in rows], size))
        report(on_event, None, "depth", len(shown), len(shown))
        return check_depth(np.concatenate(maps), shown.ids)

    @torch.inference_mode()
    def _assemble(self, tokens: list[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
        states = [torch.as_tensor(layer, device=self.extractor.device) for layer in tokens]
        return _resize(self.model.head(self.model.neck(states)), size)

    @torch.inference_mode()
    def _estimate(self, pictures: list[np.ndarray], size: tuple[int, int] | None) -> np.ndarray:
        pixels = torch.stack([self.extractor.backbone.preprocess(picture)["pixel_values"] for picture in pictures])
        return _resize(self.model(pixels.to(self.extractor.device)).predicted_depth, size)

    def _check(self, hidden_states: Mapping[str, np.ndarray], stimulus_ids: Sequence[str] | None) -> list[np.ndarray]:
        missing = [layer for layer in self.layers if layer not in hidden_states]
        if missing:
            raise MismatchedIdsError(f"no hidden states of {missing[0]}", remedy=f"Give {', '.join(self.layers)}")
        width = self.model.config.hidden_size
        tokens = [check_tokens(hidden_states[layer], width, stimulus_ids, layer) for layer in self.layers]
        n_tokens = tokens[0].shape[1]
        if len({layer.shape for layer in tokens}) > 1 or round((n_tokens - 1) ** 0.5) ** 2 != n_tokens - 1:
            raise ShapeError(
                f"hidden states of shape {', '.join(str(layer.shape) for layer in tokens)}",
                remedy="Give layers of the same stimuli, each with a class token and a square of patches",
            )
        return tokens


def check_depth(
    maps: np.ndarray, stimulus_ids: Sequence[str] | None = None, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decoded depth maps as float32 (n, height, width), refused where no generator could make use of one.

    Parameters
    ----------
    maps : nearness (n, height, width). stimulus_ids : n names, for errors. size : height and width that is expected.

    Raises
    ------
    ShapeError : another shape. NotFiniteError : NaN or infinity. ConstantUnitError : a map without depth, which a
        generator that scales it to its range would divide by zero. Both name the stimulus.
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3 or (size is not None and maps.shape[1:] != tuple(size)):
        expected = "height, width" if size is None else f"{size[0]}, {size[1]}"
        raise ShapeError(f"depth maps of shape {maps.shape}, expected (stimulus, {expected})")
    check_rows(maps, stimulus_ids, "depth maps")
    constant = np.ptp(maps.reshape(len(maps), -1), axis=1) < _CONSTANT
    if constant.any():
        raise ConstantUnitError(
            f"the depth map of {row_name(int(np.argmax(constant)), stimulus_ids)} is constant "
            f"({constant.sum()} of {len(maps)} are)",
            remedy="Leave the depth of these out",
        )
    return maps


def _picture(stimuli: Stimuli, row: int) -> np.ndarray:
    picture = stimuli.load(row)
    if picture.ndim != 3:
        raise InputError(f"stimulus {stimuli.ids[row]!r} is a clip", remedy="Take depth of pictures")
    return picture


def _resize(maps: Tensor, size: tuple[int, int] | None) -> np.ndarray:
    if size is not None:
        maps = F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
    return maps.float().cpu().numpy()
