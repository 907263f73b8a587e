"""What else the miniature generator can be told: depth, by a ControlNet or as a fifth channel, and how a picture looks.

Each is trained with the words of the denoiser held as they are; only the network with a fifth channel, which cannot
share its weights, is trained on as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from recordings.events import OnEvent, Stop

from ..pictures.pixels import relative_depth
from .denoiser import UNCONDITIONAL, Noising, blur, fit, tokenise

EMBEDDING_TOKENS = 4
# Decoded maps are blurred and weak: half of the maps of training are pooled over so many pixels and faded.
_BLURS = (1, 3, 5, 9)
# Network, noisy latents, times, contexts and maps to velocities.
Predict = Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor]


class Words:
    """Contexts of the captions, some of them empty and some blurred, from a text encoder that stays as it is."""

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: Sequence[str]):
        self.context = encode_text(text_encoder, tokenizer, captions)
        self.empty = encode_text(text_encoder, tokenizer, [""])

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Contexts float32 (row, token, channel)."""
        dropped = torch.rand(len(rows), 1, 1, generator=generator) < UNCONDITIONAL
        return torch.where(dropped, self.empty, blur(self.context[rows], generator))


@torch.inference_mode()
def encode_text(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Last hidden states, float32 (n, token, channel), of n texts; each different text is encoded once."""
    different = sorted(set(captions))
    states = text_encoder.eval()(tokenise(tokenizer, different)).last_hidden_state
    row = {text: k for k, text in enumerate(different)}
    return states[[row[text] for text in captions]].clone()


def train_on_depth(
    kind: str,
    unet: UNet2DConditionModel,
    words: Words,
    latents: Tensor,
    nearness: np.ndarray,
    steps: int,
    batch_size: int = 64,
    learning_rate: float | None = None,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> Any:
    """A network by which pictures follow a nearness map: a `ControlNetModel` or a `UNet2DConditionModel`.

    Parameters
    ----------
    kind : "controlnet" (Zhang et al. 2023), or "depth_unet", the denoiser with the map as a fifth channel of its input,
        as Stable Diffusion 2 depth has it.
    latents : float32 (n, 4, 8, 8). nearness : (n, 64, 64), see `nearness`.
    learning_rate : by default 1.5e-3 of a ControlNet and 5e-4 of a denoiser.
    """
    make, usual = _DEPTH[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, predict = make(unet)
    noisy, rng = Noising(latents, seed, "cpu"), np.random.default_rng(seed)

    def loss(model: Any, rows: Tensor) -> Tensor:
        x, t, velocity = noisy(rows)
        maps = spoil(torch.as_tensor(nearness[rows.numpy()].astype(np.float32))[:, None], rng)
        return F.mse_loss(predict(model, x, t, words(rows, noisy.generator), maps), velocity)

    rate = usual if learning_rate is None else learning_rate
    return fit(model, loss, len(latents), steps, batch_size, rate, seed, kind, on_event, stop).eval()


def _controlnet(unet: UNet2DConditionModel) -> tuple[nn.Module, Predict]:
    _freeze(unet)
    controlnet = ControlNetModel.from_unet(
        unet, conditioning_channels=1, conditioning_embedding_out_channels=(8, 16, 32, 64)
    )
    _keep_variance(controlnet.controlnet_cond_embedding)

    def predict(model: Any, x: Tensor, t: Tensor, context: Tensor, maps: Tensor) -> Tensor:
        down, middle = model(x, t, context, controlnet_cond=maps, return_dict=False)
        told = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(x, t, context, **told).sample

    return controlnet.requires_grad_(True), predict


def _depth_unet(unet: UNet2DConditionModel) -> tuple[nn.Module, Predict]:
    deep = UNet2DConditionModel.from_config({**unet.config, "in_channels": 5})
    weights = {name: values.clone() for name, values in unet.state_dict().items()}
    weights["conv_in.weight"] = F.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, 1))
    deep.load_state_dict(weights)

    def predict(model: Any, x: Tensor, t: Tensor, context: Tensor, maps: Tensor) -> Tensor:
        return model(torch.cat([x, relative_depth(maps[:, 0], (x.shape[-2], x.shape[-1]))], 1), t, context).sample

    return deep.requires_grad_(True), predict


# What is trained, untrained, with what it predicts of noisy latents; and its learning rate.
_DEPTH = {"controlnet": (_controlnet, 1.5e-3), "depth_unet": (_depth_unet, 5e-4)}


def train_ip_adapter(
    unet: UNet2DConditionModel,
    words: Words,
    latents: Tensor,
    embedding: np.ndarray,
    steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_event: OnEvent | None = None,
    stop: Stop | None = None,
) -> dict[str, dict[str, Tensor]]:
    """An IP-Adapter (Ye et al. 2023): the denoiser also attends to `EMBEDDING_TOKENS` tokens made of an embedding.

    Parameters
    ----------
    embedding : float32 (n, width) of the pictures.

    Returns
    -------
    ``image_proj`` and ``ip_adapter`` weights, in the layout that diffusers loads.
    """
    adapted = UNet2DConditionModel.from_config(unet.config)
    adapted.load_state_dict(unet.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = _untrained_adapter(unet, embedding.shape[1])
    adapted._load_ip_adapter_weights([start])
    _freeze(adapted)
    for module in _adapter_modules(adapted).values():
        module.requires_grad_(True)
    noisy, looks = Noising(latents, seed, "cpu"), torch.as_tensor(embedding)
    spread = looks.std(0)

    def loss(model: Any, rows: Tensor) -> Tensor:
        x, t, velocity = noisy(rows)
        n = len(rows)
        look = looks[rows] + spread * torch.rand(n, 1, generator=noisy.generator) * torch.randn(
            n, len(spread), generator=noisy.generator
        )
        dropped = torch.rand(n, 1, generator=noisy.generator) < UNCONDITIONAL
        told = {"image_embeds": [torch.where(dropped, 0, look)[:, None]]}
        context = words(rows, noisy.generator)
        # Half of the time without words, so that the embedding must say everything.
        silent = torch.rand(n, 1, 1, generator=noisy.generator) < 0.5
        context = torch.where(silent, words.empty, context)
        return F.mse_loss(model(x, t, context, added_cond_kwargs=told).sample, velocity)

    trained = fit(adapted, loss, len(latents), steps, batch_size, learning_rate, seed, "ip_adapter", on_event, stop)
    found = _adapter_modules(trained)
    projection = found.pop("projection").state_dict()
    return {
        "image_proj": {name.replace("image_embeds.", "proj."): v for name, v in projection.items()},
        "ip_adapter": {f"{k}.weight": module.weight.detach() for k, module in found.items()},
    }


def spoil(maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the maps (n, 1, H, W) blurred and with their contrast changed."""
    half = len(maps) // 2
    size = int(rng.choice(_BLURS))
    blurred = F.avg_pool2d(F.pad(maps[:half], (size // 2,) * 4, mode="replicate"), size, stride=1)
    gain = torch.as_tensor(rng.uniform(0.6, 1.3, (half, 1, 1, 1)), dtype=maps.dtype)
    coarse = torch.as_tensor(rng.normal(0, 0.05, (half, 1, 8, 8)), dtype=maps.dtype)
    bumps = F.interpolate(coarse, size=maps.shape[-2:], mode="bilinear")
    return torch.cat([gain * blurred + bumps, maps[half:]])


def _freeze(module: nn.Module) -> None:
    module.eval().requires_grad_(False)


def _keep_variance(embedding: nn.Module) -> None:
    # With torch's own weights the map fades to a thousandth on its way through the layers, and the last of them is
    # zero; the ControlNet still starts without effect, since what it gives to the denoiser passes layers that are zero.
    for module in embedding.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _untrained_adapter(unet: UNet2DConditionModel, width: int) -> dict[str, dict[str, Tensor]]:
    channels = unet.config.cross_attention_dim
    projection, norm = nn.Linear(width, EMBEDDING_TOKENS * channels), nn.LayerNorm(channels)
    keys: dict[str, Tensor] = {}
    # diffusers counts all attention layers, those of the latents to themselves too, and numbers the others 1, 3, 5, ...
    for k, (name, module) in enumerate(_cross_attention(unet)):
        del name
        for part in ("k", "v"):
            keys[f"{2 * k + 1}.to_{part}_ip.weight"] = getattr(module, f"to_{part}").weight.detach().clone()
    names = {"proj": projection, "norm": norm}
    image = {f"{n}.{key}": v.detach() for n, module in names.items() for key, v in module.state_dict().items()}
    return {"image_proj": image, "ip_adapter": keys}


def _cross_attention(unet: UNet2DConditionModel) -> list[tuple[str, nn.Module]]:
    modules = dict(unet.named_modules())
    names = [n.removesuffix(".processor") for n in unet.attn_processors if n.endswith("attn2.processor")]
    return [(name, modules[name]) for name in names]


def _adapter_modules(unet: UNet2DConditionModel) -> dict[str, Any]:
    found: dict[str, Any] = {"projection": unet.encoder_hid_proj.image_projection_layers[0]}
    for k, (_, module) in enumerate(_cross_attention(unet)):
        for part in ("k", "v"):
            found[f"{2 * k + 1}.to_{part}_ip"] = getattr(module.processor, f"to_{part}_ip")[0]
    return found
