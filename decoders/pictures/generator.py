"""`Generator`: the parts of a latent diffusion model, and what each does alone."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any, Literal, Self

import diffusers
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from encoders.features.extractor import torch_device
from recordings.errors import ArtifactError, InputError, NotFiniteError, ShapeError
from recordings.storage import atomic_path

from ..quiet import quietly
from .folders import ADAPTER, find_folder, load_adapter, load_part, read_index
from .pixels import check_images, resize

_REQUIRED = ("vae", "unet", "scheduler")
_OPTIONAL = ("text_encoder", "tokenizer", "controlnet")
_ADAPTER_FOLDER = "ip_adapter"
# A UNet that sees a depth map has one channel more than there are latent channels.
_DEPTH_FOLDERS = {"miniature:depth": ("miniature:diffusion", "miniature:depth_unet")}
_PIXELS = 1 << 20
_TEXTS = 64


class Generator:
    """A latent diffusion model in diffusers' parts (Rombach et al. 2022), to be exchanged one by one.

    Parameters
    ----------
    vae : `AutoencoderKL` or `AutoencoderTiny`, of any number of latent channels.
    unet : `UNet2DConditionModel`; one input channel more than the latent has makes it a depth-to-image model.
    scheduler : any of diffusers'.
    text_encoder, tokenizer : of CLIP; None where text comes decoded and nothing is guided.
    controlnet : `ControlNetModel` that reads a depth map, or None.
    ip_adapter : weights {"image_proj": ..., "ip_adapter": ...}, loaded into `unet`, or None.
    name : for the record.

    Attributes
    ----------
    latent_shape : (channel, height, width) of scaled latents. image_size : (height, width) of pictures, in pixels.
    context_shape : (tokens or None for any number, width) of text embeddings.
    takes_depth : "depth2img", "controlnet" or None. embedding_width : of decoded image embeddings, or None.

    Raises
    ------
    ArtifactError : parts that do not fit each other.
    """

    def __init__(
        self,
        vae: Any,
        unet: Any,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        controlnet: Any = None,
        *,
        ip_adapter: Mapping[str, Mapping[str, Tensor]] | None = None,
        name: str = "",
    ):
        self.vae, self.unet, self.scheduler = vae, unet, scheduler
        self.text_encoder, self.tokenizer, self.controlnet = text_encoder, tokenizer, controlnet
        self.ip_adapter = ip_adapter
        self.name = name
        self._check_parts()
        for model in self._models().values():
            model.eval().requires_grad_(False)
        if ip_adapter is not None:
            self._load_adapter()

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        controlnet: str | PathLike[str] | None = None,
        ip_adapter: str | PathLike[str] | None = None,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load from a folder in diffusers' layout or from the hub's cache; nothing is downloaded and no pickle is read.

        Parameters
        ----------
        name : a folder, a repository on the hub, OWNER/NAME[@REVISION] with or without "diffusers:" before it,
            "miniature:diffusion" or "miniature:depth".
        controlnet : folder, repository or "miniature:controlnet"; by default that of the folder, if it has one.
        ip_adapter : safetensors file, folder or "miniature:ip_adapter"; by default that of the folder, if it has one.
        dtype : of the weights; float32 by default.
        revision : of the repository `name`.

        Raises
        ------
        MissingWeightsError : not on this machine, or fetched in part; says what to run.
        ArtifactError : a part is missing, pickled, damaged, or does not fit the others.
        """
        dtype = dtype or torch.float32
        base, depth_unet = _DEPTH_FOLDERS.get(str(name), (name, None))
        folder = find_folder(str(base), revision)
        index = read_index(folder)
        for part in _REQUIRED:
            if part not in index:
                raise ArtifactError(f"no {part}", where=folder, remedy=f"A generator needs {', '.join(_REQUIRED)}")
        parts = {
            part: load_part(folder / part, *index[part], None if part in ("scheduler", "tokenizer") else dtype)
            for part in (*_REQUIRED, *_OPTIONAL)
            if part in index and not (part == "controlnet" and controlnet) and not (part == "unet" and depth_unet)
        }
        if depth_unet:
            parts["unet"] = load_part(find_folder(depth_unet), "diffusers", "UNet2DConditionModel", dtype)
        if controlnet:
            parts["controlnet"] = load_part(find_folder(str(controlnet)), "diffusers", "ControlNetModel", dtype)
        own = folder / _ADAPTER_FOLDER / ADAPTER
        adapter = load_adapter(str(ip_adapter)) if ip_adapter else load_adapter(own) if own.exists() else None
        return cls(**parts, ip_adapter=adapter, name=str(name)).to(device)

    def save_pretrained(self, save_directory: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder that diffusers' own pipelines load, whole or not at all.

        An IP-Adapter is written beside the UNet, as ``ip_adapter/ip_adapter.safetensors`` for `load_ip_adapter`. Where
        the generator has no text encoder, plain diffusers must be told so: ``text_encoder=None, tokenizer=None``.

        Raises
        ------
        InputError : the folder exists, or pictures of a depth-to-image UNet are not square, which diffusers' pipeline
            for it cannot hold.
        """
        parts = {name: getattr(self, name) for name in ("vae", "unet", "scheduler", "text_encoder", "tokenizer")}
        if self.takes_depth == "depth2img":
            # Its constructor compares the UNet's sample size with a number.
            if not isinstance(self.unet.config.sample_size, int):
                raise InputError(
                    "diffusers has no depth-to-image pipeline of pictures that are not square",
                    where=self.name or None,
                    remedy="Save the parts one by one, or give depth by a ControlNet",
                )
            pipeline = diffusers.StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None, feature_extractor=None)
        else:
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            pipeline = (
                diffusers.StableDiffusionPipeline(**parts)
                if self.controlnet is None
                else diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=self.controlnet)
            )
        with quietly(), atomic_path(save_directory, overwrite=overwrite) as part:
            if self.ip_adapter is None:
                pipeline.save_pretrained(part)
                return
            adapter = diffusers.StableDiffusionPipeline.unload_ip_adapter
            adapter(pipeline)
            try:
                pipeline.save_pretrained(part)
            finally:
                self._load_adapter()
            (part / _ADAPTER_FOLDER).mkdir()
            save_file(_flat(self.ip_adapter), part / _ADAPTER_FOLDER / ADAPTER)

    def to(self, device: str) -> Self:
        """Move all parts to a device; "auto" takes an accelerator if there is one."""
        for model in self._models().values():
            model.to(torch_device(device))
        return self

    # What it takes -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def scale(self) -> int:
        """Pixels a latent, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return self.vae.config.latent_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        _, height, width = self.latent_shape
        return height * self.scale, width * self.scale

    @property
    def context_shape(self) -> tuple[int | None, int]:
        tokens = None if self.tokenizer is None else self.tokenizer.model_max_length
        return tokens, self.unet.config.cross_attention_dim

    @property
    def takes_depth(self) -> Literal["depth2img", "controlnet"] | None:
        if self.unet.config.in_channels == self.vae.config.latent_channels + 1:
            return "depth2img"
        return None if self.controlnet is None else "controlnet"

    @property
    def embedding_width(self) -> int | None:
        return None if self.ip_adapter is None else self.ip_adapter["image_proj"]["proj.weight"].shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights of all models and of their settings, as they were when first asked for."""
        digest = hashlib.sha256()
        for name, model in self._models().items():
            # transformers' configurations change as they are saved.
            own = dict(model.config) if isinstance(model, diffusers.ModelMixin) else {}
            config = {key: value for key, value in own.items() if not key.startswith("_")}
            digest.update(f"{name}{json.dumps(config, sort_keys=True, default=str)}".encode())
            for key, value in model.state_dict().items():
                digest.update(key.encode())
                digest.update(value.contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    # What its parts do -------------------------------------------------------------------------------------------

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Text embeddings, float32 (n, token, channel): the last hidden states of the text encoder.

        Raises
        ------
        InputError : the generator has no text encoder.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise InputError(
                "the generator has no text encoder",
                where=self.name,
                remedy="Give c instead of captions, and guidance=1",
            )
        parts = [self._encode_text(list(texts[k : k + _TEXTS])) for k in range(0, len(texts), _TEXTS)]
        tokens, width = self.context_shape
        return np.concatenate(parts) if parts else np.empty((0, tokens or 0, width), np.float32)

    @torch.inference_mode()
    def _encode_text(self, texts: list[str]) -> np.ndarray:
        limit = self.tokenizer.model_max_length
        for text, length in zip(texts, map(len, self.tokenizer(texts).input_ids), strict=True):
            if length > limit:
                warnings.warn(f"{text!r} has {length} tokens and is cut to {limit}", stacklevel=3)
        read = self.tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
        # As the pipelines: most text encoders read the padding too.
        attend = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = read.attention_mask.to(self.device) if attend else None
        return self.text_encoder(read.input_ids.to(self.device), attention_mask=mask)[0].float().cpu().numpy()

    def encode_images(self, images: np.ndarray, *, sample: bool = False, seed: int = 0) -> np.ndarray:
        """Scaled latents of pictures, float32 (n, channel, height, width).

        Parameters
        ----------
        images : uint8 (n, H, W, 3), resized to `image_size`.
        sample : draw from the posterior, keyed by `seed` and the picture's content, instead of taking its mean.

        Raises
        ------
        ShapeError : pictures that are not uint8 RGB.
        """
        check_images(images)
        found = np.empty((len(images), *self.latent_shape), np.float32)
        for part in self._parts(len(images)):
            noise = [torch_generator(seed, picture.tobytes()) for picture in images[part]] if sample else None
            found[part] = self.encode(resize(images[part], self.image_size), noise).cpu().numpy()
        return found

    @torch.inference_mode()
    def encode(self, images: np.ndarray, noise: Sequence[torch.Generator] | None = None) -> Tensor:
        """Scaled latents of pictures uint8 (n, H, W, 3) of any size, float32 (n, channel, height, width).

        `noise` gives a random generator for each draw from the posterior; None takes its mean.
        """
        pixels = (
            torch.as_tensor(np.ascontiguousarray(images)).to(self.device).movedim(-1, 1).to(self.vae.dtype) / 127.5 - 1
        )
        encoded = self.vae.encode(pixels)
        if hasattr(encoded, "latents"):
            latents = encoded.latents
        else:
            posterior = encoded.latent_dist
            latents = posterior.mode() if noise is None else posterior.sample(list(noise))
        return (latents.float() - self._shift) * self.vae.config.scaling_factor

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """Pictures, uint8 (n, H, W, 3), of scaled latents (n, channel, height, width) of any height and width.

        Raises
        ------
        ShapeError : another number of channels. NotFiniteError : latents, or a picture, that are not finite.
        """
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 4 or latents.shape[1] != self.latent_shape[0]:
            raise ShapeError(
                f"latents of shape {latents.shape}", remedy=f"Give (n, {self.latent_shape[0]}, height, width), scaled"
            )
        found = np.empty((len(latents), *(side * self.scale for side in latents.shape[2:]), 3), np.uint8)
        for part in self._parts(len(latents)):
            pixels, finite = self.decode(torch.as_tensor(latents[part], device=self.device))
            if not finite.all():
                raise NotFiniteError(f"the picture of latents {part.start + int(finite.argmin())} is not finite")
            found[part] = pixels
        return found

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 (n, H, W, 3) of scaled latents, and which are finite, bool (n,)."""
        raw = latents / self.vae.config.scaling_factor + self._shift
        pixels = self.vae.decode(raw.to(self.vae.dtype)).sample.float()
        finite = pixels.isfinite().flatten(1).all(1)
        image = ((pixels.nan_to_num().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return image.movedim(1, -1).cpu().numpy(), finite.cpu().numpy()

    def _parts(self, n: int) -> list[slice]:
        step = max(1, _PIXELS // math.prod(self.image_size))
        return [slice(start, start + step) for start in range(0, n, step)]

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0

    # Parts -------------------------------------------------------------------------------------------------------

    def _models(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("vae", "unet", "text_encoder", "controlnet")}
        return {name: model for name, model in parts.items() if model is not None}

    def _check_parts(self) -> None:
        channels, sees, width = self.vae.config.latent_channels, self.unet.config.in_channels, self.context_shape[1]
        problem = ""
        if sees not in (channels, channels + 1):
            problem = f"a UNet of {sees} input channels for {channels} latent channels"
        elif self.unet.config.out_channels != channels:
            problem = f"a UNet of {self.unet.config.out_channels} output channels for {channels} latent channels"
        elif (self.text_encoder is None) != (self.tokenizer is None):
            problem = "a text encoder without its tokenizer, or the reverse"
        elif self.text_encoder is not None and self.text_encoder.config.hidden_size != width:
            problem = f"a text encoder of width {self.text_encoder.config.hidden_size} for cross-attention of {width}"
        elif self.controlnet is not None and self.controlnet.config.in_channels != sees:
            problem = f"a ControlNet of {self.controlnet.config.in_channels} latent channels for a UNet of {sees}"
        elif self.controlnet is not None and self.controlnet.config.cross_attention_dim != width:
            problem = f"a ControlNet of context width {self.controlnet.config.cross_attention_dim}, a UNet of {width}"
        elif self.controlnet is not None and sees == channels + 1:
            problem = "a ControlNet and a UNet that both take depth"
        if problem:
            raise ArtifactError(problem, where=self.name or None, remedy="Take parts that were trained together")

    def _load_adapter(self) -> None:
        weights = {part: dict(values) for part, values in (self.ip_adapter or {}).items()}
        try:
            with quietly():
                self.unet._load_ip_adapter_weights([weights])
        except (RuntimeError, KeyError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise ArtifactError(f"the IP-Adapter does not fit the UNet ({first})", where=self.name or None) from error
        self.unet.eval().requires_grad_(False)


def torch_generator(seed: int, *key: str | int | bytes) -> torch.Generator:
    """Random numbers of one item, which depend on `seed` and `key` alone; the same on every device."""
    digest = hashlib.sha256(str(int(seed)).encode())
    for part in key:
        digest.update(b"\0" + (part if isinstance(part, bytes) else str(part).encode()))
    return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "little") >> 1)


def _flat(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{key}": value.contiguous() for part, values in parts.items() for key, value in values.items()}
